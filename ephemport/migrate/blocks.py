"""Edits of whole blocks: imports at the top, parameters, and statements around a body."""

import ast
import re
import sys
from collections.abc import Mapping, Set

import libcst as cst
from libcst.metadata import CodeRange

from ephemport.migrate.patterns import Pattern
from ephemport.migrate.reader import positions_in

_LINES = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


def apply_patterns(source: str, patterns: list[Pattern]) -> str:
    """The source with the patterns' parameters and statements."""
    if not patterns:
        return source
    mark = "\ufeff" if source.startswith("\ufeff") else ""
    module = cst.parse_module(source)
    by_line: dict[int, Pattern] = {}
    for pattern in patterns:
        first = by_line.get(pattern.line)
        if first is not None:
            pattern = first._replace(statements=(*first.statements, *pattern.statements))
        by_line[pattern.line] = pattern
    changed = module.visit(_Patterns(by_line, positions_in(module)))
    text = changed.code
    return text if not mark or text.startswith(mark) else mark + text


class _Patterns(cst.CSTTransformer):
    def __init__(
        self, patterns: dict[int, Pattern], positions: Mapping[cst.CSTNode, CodeRange]
    ) -> None:
        super().__init__()
        self.patterns = patterns
        self.positions = positions

    def leave_FunctionDef(  # noqa: N802
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        place = self.positions[original_node.name]
        pattern = self.patterns.get(place.start.line)
        if pattern is None:
            return updated_node
        suite = updated_node.body
        if isinstance(suite, cst.IndentedBlock):
            body = suite
        else:  # def f(): return 1
            small = [one for one in suite.body if isinstance(one, cst.BaseSmallStatement)]
            body = cst.IndentedBlock(body=[cst.SimpleStatementLine(body=small)])
        statements = list(body.body)
        at = 1 if _is_docstring(statements) else 0
        made: list[cst.BaseStatement] = [cst.parse_statement(text) for text in pattern.statements]
        if pattern.manager:
            inner = body.with_changes(
                body=[*made, *statements[at:]], header=cst.TrailingWhitespace()
            )
            manager = cst.With(
                items=[
                    cst.WithItem(
                        cst.parse_expression("TestPortManager()"),
                        asname=cst.AsName(cst.Name("port_manager")),
                    )
                ],
                body=inner,
            )
            statements[at:] = [manager]
        else:
            statements[at:at] = made
        changed = updated_node.with_changes(body=body.with_changes(body=statements))
        if not pattern.parameter:
            return changed
        parameter = cst.Param(cst.Name(pattern.parameter))
        parameters = changed.params
        return changed.with_changes(
            params=parameters.with_changes(params=[*parameters.params, parameter])
        )

    def leave_ClassDef(  # noqa: N802
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef:
        place = self.positions[original_node.name]
        pattern = self.patterns.get(place.start.line)
        body = updated_node.body
        if pattern is None or not pattern.in_class or not isinstance(body, cst.IndentedBlock):
            return updated_node
        statements = list(body.body)
        at = 1 if _is_docstring(statements) else 0
        statements[at:at] = [cst.parse_statement(text) for text in pattern.statements]
        return updated_node.with_changes(body=body.with_changes(body=statements))


def _is_docstring(statements: list[cst.BaseStatement]) -> bool:
    first = statements[0] if statements else None
    return (
        isinstance(first, cst.SimpleStatementLine)
        and isinstance(first.body[0], cst.Expr)
        and isinstance(first.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def add_imports(source: str, imports: list[str], after: list[str], own: Set[str]) -> str:
    """The source with imports where isort would have them, and lines behind all of them.

    own: the names of the project's modules and folders.
    """
    lines = [line for line in _LINES.split(source) if line]
    newline = next((line[len(line.rstrip("\r\n")) :] for line in lines), "") or "\n"
    present = {line.strip() for line in lines}
    last = 0  # how many lines stand before the end of the first block of imports
    top: list[tuple[int, int, str]] = []  # each import's lines, and what it imports from
    for statement in ast.parse(source.removeprefix("\ufeff")).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            top.append((statement.lineno - 1, statement.end_lineno or 0, _imported(statement)))
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            break
        last = statement.end_lineno or 0
    missing = [line for line in imports if line not in present]
    if re.search(r"^import\s(.*,)?\s*os\s*(,|$)", source, re.M):
        missing = [line for line in missing if line != "import os"]
    if not missing and not after:
        return source
    if last and not lines[last - 1].endswith(("\n", "\r")):
        lines[last - 1] += newline
    if not top:
        return _without_imports(lines, missing, after, last, newline)
    inserted: dict[int, list[str]] = {}
    for line in missing:
        place, blank_before, blank_after = _place(line, top, lines, own)
        if place in inserted:
            inserted[place].insert(len(inserted[place]) - blank_after, line)
        else:
            inserted[place] = [*([""] * blank_before), line, *([""] * blank_after)]
    if after:
        following = lines[last] if last < len(lines) else ""
        inserted[last] = [*inserted.get(last, []), "", *after, *([""] if following.strip() else [])]
    out: list[str] = []
    for count in range(len(lines) + 1):
        out += [line + newline for line in inserted.get(count, [])]
        out += lines[count : count + 1]
    return "".join(out)


def _without_imports(
    lines: list[str], imports: list[str], after: list[str], last: int, newline: str
) -> str:
    """Imports for a file that has none: behind its docstring, its licence, its first line."""
    new = [
        *sorted(imports, key=lambda line: line.startswith("from ")),
        *(["", *after] if after else []),
    ]
    if last:
        new = ["", *new]
    elif lines and lines[0].startswith("#"):
        last = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    following = lines[last] if last < len(lines) else ""
    if following.strip():
        new = [*new, ""]
    return "".join([*lines[:last], *(line + newline for line in new), *lines[last:]])


def _imported(statement: ast.Import | ast.ImportFrom) -> str:
    """`import a.b` or `from a.b`: by which isort sorts."""
    if isinstance(statement, ast.Import):
        return f"import {statement.names[0].name}"
    return f"from {'.' * statement.level}{statement.module or ''}"


def _place(
    line: str, top: list[tuple[int, int, str]], lines: list[str], own: Set[str]
) -> tuple[int, bool, bool]:
    """Before which line an import goes, and whether a blank one stands before it or behind it."""
    word, module = line.split()[:2]
    kind = _section(module, own)
    same = [one for one in top if _section(one[2].split()[1], own) == kind]
    if same:
        # Plain imports first, then `from`, each by the alphabet.
        wanted = (word == "from", module.lower())
        for first, _, said in same:
            if (said.startswith("from "), said.split()[1].lower()) > wanted:
                return first, False, False
        return same[-1][1], False, False
    before = [one for one in top if _section(one[2].split()[1], own) < kind]
    if before:
        end = before[-1][1]
        follows = end < len(lines) and bool(lines[end].strip())
        return end, True, follows
    return top[0][0], False, True


def _section(module: str, own: Set[str]) -> int:
    """Isort's sections: the future, the standard library, what is installed, the project's own."""
    name = module.split(".")[0]
    if name == "__future__":
        return 0
    if name in sys.stdlib_module_names:
        return 1
    return 3 if not name or name in own else 2

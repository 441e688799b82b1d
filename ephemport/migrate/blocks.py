"""Edits of whole blocks: imports at the top, parameters, and statements around a body."""

import re

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from ephemport.migrate.patterns import Pattern

_LINES = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


def apply_patterns(source: str, patterns: list[Pattern]) -> str:
    """The source with the patterns' parameters and statements."""
    if not patterns:
        return source
    mark = "\ufeff" if source.startswith("\ufeff") else ""
    wrapper = MetadataWrapper(cst.parse_module(source))
    by_line: dict[int, Pattern] = {}
    for pattern in patterns:
        first = by_line.get(pattern.line)
        if first is not None:
            pattern = first._replace(statements=(*first.statements, *pattern.statements))
        by_line[pattern.line] = pattern
    changed = wrapper.visit(_Patterns(by_line))
    text = changed.code
    return text if not mark or text.startswith(mark) else mark + text


class _Patterns(cst.CSTTransformer):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, patterns: dict[int, Pattern]) -> None:
        super().__init__()
        self.patterns = patterns

    def leave_FunctionDef(  # noqa: N802
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        place = self.get_metadata(PositionProvider, original_node.name)
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


def _is_docstring(statements: list[cst.BaseStatement]) -> bool:
    first = statements[0] if statements else None
    return (
        isinstance(first, cst.SimpleStatementLine)
        and isinstance(first.body[0], cst.Expr)
        and isinstance(first.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def add_imports(source: str, imports: list[str], after: list[str]) -> str:
    """The source with imports at the end of its first block of them, and lines behind that."""
    module = cst.parse_module(source)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    newline = module.default_newline
    lines = [line for line in _LINES.split(source) if line]
    present = {line.strip() for line in lines}
    last = 0  # how many lines stand before the new ones
    only_docstring = True
    for statement in module.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            break
        small = statement.body[0]
        if isinstance(small, (cst.Import, cst.ImportFrom)):
            only_docstring = False
        elif not _is_docstring([statement]):
            break
        last = positions[statement].end.line
    imports = sorted(imports, key=lambda line: line.startswith("from "))
    missing = [line for line in imports if line not in present]
    if re.search(r"^import\s(.*,)?\s*os\s*(,|$)", source, re.M):
        missing = [line for line in missing if line != "import os"]
    new = [*missing, *(["", *after] if after else [])]
    if not new:
        return source
    if last and only_docstring:
        new = ["", *new]
    if not last and lines and lines[0].startswith("#"):
        # An interpreter line, an encoding or a licence stays first.
        last = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    following = lines[last] if last < len(lines) else ""
    if following.strip() and (after or not last or only_docstring):
        new = [*new, ""]
    if last and not lines[last - 1].endswith(("\n", "\r")):
        lines[last - 1] += newline
    return "".join([*lines[:last], *(line + newline for line in new), *lines[last:]])

"""The edits: a literal gives way to an expression, and everything around it stays as it was."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ephemport.migrate.blocks import add_imports, apply_patterns
from ephemport.migrate.deciding import Decision
from ephemport.migrate.defaults import argument
from ephemport.migrate.patterns import Pattern
from ephemport.migrate.tree import is_test_file
from ephemport.migrate.uses import File, Use

_BRACES = re.compile(r"\\N\{[^}]*\}|\\\\|[{}]")
_PREFIX = re.compile(r"[a-zA-Z]*")
_MAP_IMPORT = "from ephemport import port_map"
_MANAGER_IMPORT = "from ephemport.compat import TestPortManager"
_HANDED_ON = (
    "# What the suite runs in processes of its own finds the same numbers in the environment."
)


def rewrite(decision: Decision, patterns: list[Pattern]) -> dict[Path, str]:
    """The new sources of the files that change."""
    variables = {
        (pattern.path, pattern.line, number): name
        for pattern in patterns
        for number, name in pattern.variables.items()
    }
    for pattern in patterns:
        for number in decision.converted() if pattern.in_class else ():
            name = pattern.variables.get(number.number)
            for use in number.uses if name else ():
                inside = f"{pattern.in_class}.{name}" if use.function else str(name)
                variables[use.path, use.function or 0, number.number] = inside
    uses: dict[Path, list[Use]] = defaultdict(list)
    converted = {number.number for number in decision.converted()}
    for number in decision.converted():
        for use in number.uses:
            if use not in uses[use.path]:
                uses[use.path].append(use)
    own_names = {path.stem for path in decision.files}
    own_names |= {path.parent.name for path in decision.files}
    handed_on = _numbers_handed_on(decision, uses, variables)
    changed: dict[Path, str] = {}
    for path in sorted({*uses, *handed_on}):
        file = decision.files[path]
        name = _map_name(file)
        source, mapped = _replaced(decision, file, uses.get(path, []), converted, variables, name)
        own = [pattern for pattern in patterns if pattern.path == path]
        source = apply_patterns(source, own + _inside(path, uses.get(path, []), converted, name))
        imports = []
        if mapped or path in handed_on:
            imports.append(_MAP_IMPORT + (f" as {name}" if name != "port_map" else ""))
        if any(pattern.needs_manager for pattern in own):
            imports.append(_MANAGER_IMPORT)
        after = []
        if path in handed_on:
            numbers = ", ".join(str(number) for number in handed_on[path])
            after = [_HANDED_ON, f"os.environ.update({name}.environ({numbers}))"]
            imports.append("import os")
        changed[path] = add_imports(source, imports, after, own_names)
    return changed


def _map_name(file: File) -> str:
    """What to call the map in a file: as everywhere, unless the file has a port_map of its own."""
    own = "port_map" in file.identifiers and not re.search(
        r"^from ephemport import .*\bport_map\b(?! as)", file.source, re.M
    )
    return "ephemport_port_map" if own else "port_map"


def _replaced(
    decision: Decision,
    file: File,
    uses: Iterable[Use],
    converted: set[int],
    variables: Mapping[tuple[Path, int, int], str],
    map_name: str,
) -> tuple[str, bool]:
    """The source with every use replaced, and whether any goes to the map."""
    source = file.source
    edits: list[tuple[int, int, str]] = []
    literals: dict[tuple[int, int], list[tuple[Use, str]]] = defaultdict(list)
    mapped = False
    for use in uses:
        number = use.numbers[0]
        # The same literal may hold a number that stays.
        if not converted.issuperset(use.numbers):
            continue
        if use.parameter:
            mapped = True
            continue
        variable = variables.get((use.path, use.function or 0, number))
        mapped = mapped or variable is None
        expression = variable or f"{map_name}[{number}]"
        written = source[use.start : use.end]
        if use.form == "int":
            edits.append((use.start, use.end, expression))
        elif use.form == "sum":
            edits.append((use.start, use.end, f"{map_name}[{written}]"))
        elif use.form == "range":
            edits.append((use.start, use.end, f"[{map_name}[port] for port in {written}]"))
        elif use.form == "count":
            edits.append((use.start, use.end, f"({map_name}[port] for port in {written})"))
        elif use.form == "argument":
            value = _value_of(decision, use.source, expression) if use.source else expression
            told = argument(source, use.end + 1, use.name, value)
            if told is not None:
                edits.append((told[0], told[0], told[1]))
        elif use.form == "inner":
            edits.append((use.start, use.end, f"{{{expression}}}"))
        elif use.form == "whole":
            start, end = use.literal
            is_bytes = "b" in _prefix(source[start:end]).lower()
            text = f"str({expression})" + (".encode()" if is_bytes else "")
            edits.append((start, end, text))
        else:
            literals[use.literal].append((use, expression))
    for (start, end), inside in literals.items():
        text = _formatted(source[start:end], start, inside)
        is_argument = source[:start].rstrip()[-1:] in "(,=" and source[end:].lstrip()[:1] in "),"
        if "b" in _prefix(source[start:end]).lower() and not is_argument:
            text = f"({text})"
        edits.append((start, end, text))
    for start, end, text in sorted(set(edits), reverse=True):
        source = source[:start] + text + source[end:]
    return source, mapped


def _value_of(decision: Decision, default: Use, expression: str) -> str:
    """The product's text with the number in it replaced."""
    start, end = default.literal
    literal = decision.files[default.path].source[start:end]
    if default.form == "whole":
        return f"str({expression})"
    return _formatted(literal, start, [(default, expression)])


def _inside(path: Path, uses: Iterable[Use], converted: set[int], map_name: str) -> list[Pattern]:
    """Statements by which a test replaces what parametrize gives it: its ids stay as they are."""
    texts: dict[int, list[str]] = defaultdict(list)
    numbers: dict[tuple[int, str], list[int]] = defaultdict(list)
    whole: set[tuple[int, str]] = set()
    for use in uses:
        # A fixture's request.param is replaced where it is used.
        if not use.parameter.isidentifier() or use.numbers[0] not in converted:
            continue
        line, name, number = use.decorates or 0, use.parameter, use.numbers[0]
        if use.form == "int":
            if number not in numbers[line, name]:
                numbers[line, name].append(number)
            if use.beside and use.beside <= converted:
                whole.add((line, name))
        else:
            replaced = f'{name} = {name}.replace("{number}", str({map_name}[{number}]))'
            if use.is_mixed:
                replaced += f" if isinstance({name}, str) else {name}"
            if replaced not in texts[line]:
                texts[line].append(replaced)
    for (line, name), known in numbers.items():
        if (line, name) in whole:
            texts[line].append(f"{name} = {map_name}[{name}]")
            continue
        pairs = ", ".join(f"{number}: {map_name}[{number}]" for number in known)
        texts[line].append(f"{name} = {{{pairs}}}.get({name}, {name})")
    return [Pattern(path, line, "", tuple(made), False, {}) for line, made in texts.items()]


def _formatted(literal: str, offset: int, inside: list[tuple[Use, str]]) -> str:
    """A string literal as one that is formatted, of the same value but for the numbers."""
    prefix = _prefix(literal)
    if "b" in prefix.lower():
        pieces = _pieces(literal, offset, inside, lambda text: text.replace("%", "%%"), "%d")
        numbers = ", ".join(expression for _, expression in sorted(inside, key=_place))
        return f"{pieces} % ({numbers})" if len(inside) > 1 else f"{pieces} % {numbers}"
    raw = "r" in prefix.lower()
    double = _double_braces if not raw else lambda text: re.sub(r"[{}]", r"\g<0>\g<0>", text)
    written = _pieces(literal[len(prefix) :], offset + len(prefix), inside, double, "")
    return (prefix if raw else "") + "f" + written


def _pieces(
    literal: str,
    offset: int,
    inside: list[tuple[Use, str]],
    escape: Callable[[str], str],
    mark: str,
) -> str:
    """The literal with `mark`, or the expression in braces, for each number."""
    out: list[str] = []
    last = 0
    for use, expression in sorted(inside, key=_place):
        out.append(escape(literal[last : use.start - offset]))
        out.append(mark or f"{{{expression}}}")
        last = use.end - offset
    return "".join([*out, escape(literal[last:])])


def _place(item: tuple[Use, str]) -> int:
    return item[0].start


def _double_braces(text: str) -> str:
    return _BRACES.sub(lambda m: m[0] * 2 if m[0] in "{}" else m[0], text)


def _prefix(literal: str) -> str:
    match = _PREFIX.match(literal)
    return match[0] if match else ""


def _numbers_handed_on(
    decision: Decision,
    uses: Mapping[Path, list[Use]],
    variables: Mapping[tuple[Path, int, int], str],
) -> dict[Path, list[int]]:
    """Which files have to put which numbers into the environment, for what runs apart."""
    apart: set[int] = set()
    users: set[Path] = set()
    for path, here in uses.items():
        if decision.runs_apart(decision.files[path]):
            for use in here:
                if (use.path, use.function or 0, use.numbers[0]) not in variables:
                    apart |= set(use.numbers)
    if not apart:
        return {}
    for path, here in uses.items():
        if is_test_file(path) and any(apart & set(use.numbers) for use in here):
            users.add(path)
    starters = {
        file.path for file in decision.suite if file.starts_processes and is_test_file(file.path)
    }
    users = (starters & decision.chosen) or users
    above = [
        path
        for path in decision.files
        if path.name == "conftest.py"
        and path in decision.chosen
        and all(user.is_relative_to(path.parent) for user in users)
    ]
    where = {min(above, key=lambda path: len(path.parts))} if above else users
    return dict.fromkeys(where, sorted(apart))

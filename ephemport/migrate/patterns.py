"""Which numbers go to the documented fixtures: those that lie in one function altogether."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ephemport.migrate.deciding import Decision, Number
from ephemport.migrate.uses import Function

_OURS = ("server_port", "port_pair", "server_cluster_ports", "session_reserve_port")
_WIDER = ("class", "module", "package", "session")
STYLES = ("auto", "map", "fixtures")


class Pattern(NamedTuple):
    """What one function gets: a parameter, a first statement, or a block around its body.

    variables: what stands for each number. manager: around the body, for TestPortManager.
    in_class: the class whose first statements these are; its methods name the variables with it.
    """

    path: Path
    line: int
    parameter: str
    statements: tuple[str, ...]
    manager: bool
    variables: dict[int, str]
    in_class: str = ""

    @property
    def needs_manager(self) -> bool:
        """Whether the file must import TestPortManager."""
        return self.manager or any("TestPortManager" in one for one in self.statements)


def choose(decision: Decision, style: str) -> list[Pattern]:
    """The patterns for the numbers that can have one; `fixtures` gives the others a reason."""
    alone: dict[tuple[Path, int], list[Number]] = defaultdict(list)
    in_class: dict[tuple[Path, str], list[Number]] = defaultdict(list)
    computed = decision.computed()
    for number in decision.converted():
        places = {(use.path, use.function) for use in number.uses}
        path, line = next(iter(places))
        simple = all(use.form not in ("sum", "range", "count") for use in number.uses)
        simple = simple and number.number not in computed
        if len(places) == 1 and line is not None and simple:
            alone[path, line].append(number)
        elif simple and len(classes := {(use.path, use.in_class) for use in number.uses}) == 1:
            in_class[next(iter(classes))].append(number)
    patterns = []
    # With the map everything is certain; the fixtures' holds want a server that sets an option.
    optionless = any(file.needs_options for file in (*decision.suite, *decision.product))
    if style != "map" and not (style == "auto" and optionless):
        for (path, name), numbers in sorted(in_class.items()):
            pattern = _class_pattern(decision, path, name, numbers, style)
            if pattern is not None:
                patterns.append(pattern)
        for (path, line), numbers in sorted(alone.items()):
            pattern = _pattern(decision, path, line, numbers, style)
            if pattern is not None:
                patterns.append(pattern)
    if style == "fixtures":
        covered = {number for pattern in patterns for number in pattern.variables}
        for number in decision.converted():
            if number.number not in covered:
                number.reason = "several functions share it, and --style fixtures leaves those"
    return patterns


def _pattern(
    decision: Decision, path: Path, line: int, numbers: list[Number], style: str
) -> Pattern | None:
    file = decision.files[path]
    function = file.functions[line]
    # What is never ended outlives a fixture's hold, and is reported as left behind.
    together = [function]
    if function.name == "setUp":  # tearDown ends what it starts
        together = [one for one in file.functions.values() if one.in_class == function.in_class]
    if style == "auto" and not any(one.ends_things for one in together):
        return None
    # In the order in which they are written down.
    numbers = sorted(numbers, key=lambda number: min(use.start for use in number.uses))
    count = len(numbers)
    if set(_OURS) & decision._identifiers or "port_manager" in file.identifiers:
        return None
    if not function.only_marks or _is_called(decision, function):
        return None
    names = _fresh_names(count, file.identifiers)
    variables = {number.number: name for number, name in zip(numbers, names, strict=True)}
    targets = ", ".join(names)
    by_pytest = (function.is_test or function.is_fixture) and not _is_unittest(
        file.classes, function
    )
    if by_pytest and function.is_fixture and function.scope in _WIDER:
        if not function.simple_parameters:
            return None
        made = tuple(f"{name} = session_reserve_port().port" for name in names)
        return Pattern(path, line, "session_reserve_port", made, False, variables)
    if by_pytest and function.scope == "function":
        if count <= 4 and function.simple_parameters:
            if count == 1:
                alone = {numbers[0].number: "server_port"}
                return Pattern(path, line, "server_port", (), False, alone)
            if count == 2:
                return Pattern(
                    path, line, "port_pair", (f"{targets} = port_pair",), False, variables
                )
            taken = "server_cluster_ports" + ("" if count == 4 else f"[:{count}]")
            made = (f"{targets} = {taken}",)
            return Pattern(path, line, "server_cluster_ports", made, False, variables)
        if function.is_test or function.yields:
            return _managed(path, line, names, variables)
        return None
    if _is_test_case(file.classes, function) and (function.is_test or function.name == "setUp"):
        # enterContext ends it after tearDown, and leaves the body where it was.
        if count == 1:
            taken = f"{names[0]} = self.enterContext(TestPortManager()).get_server_port()"
            return Pattern(path, line, "", (taken,), False, variables)
        entered = "port_manager = self.enterContext(TestPortManager())"
        return Pattern(path, line, "", (entered, _taken(names)), False, variables)
    # A helper that returns a running server would outlive its manager: only the map is certain.
    if not by_pytest and not function.returns and (function.is_test or style == "fixtures"):
        return None if function.yields else _managed(path, line, names, variables)
    if not by_pytest and not (function.returns or function.yields) and _is_whole(function):
        return _managed(path, line, names, variables)
    return None


def _class_pattern(
    decision: Decision, path: Path, name: str, numbers: list[Number], style: str
) -> Pattern | None:
    """A class that has a number to itself gets a manager of its own, for as long as it exists."""
    file = decision.files[path]
    line = file.plain_classes.get(name, 0)
    bases = [base.rpartition(".")[2] for base in file.classes.get(name, [])]
    # An enumeration would take them for members, a model for fields.
    plain = all(base == "object" or base.endswith("TestCase") for base in bases)
    methods = [one for one in file.functions.values() if one.in_class == name]
    if not line or not plain or "port_manager" in file.identifiers:
        return None
    if style == "auto" and not any(one.ends_things for one in methods):
        return None
    # In the class's own body a name is only known where it is assigned from.
    if any(
        not use.function and not (use.name and use.form == "int") for n in numbers for use in n.uses
    ):
        return None
    numbers = sorted(numbers, key=lambda number: min(use.start for use in number.uses))
    names = _fresh_names(len(numbers), file.identifiers)
    variables = {number.number: name for number, name in zip(numbers, names, strict=True)}
    made = ("port_manager = TestPortManager()", _taken(names))
    return Pattern(path, line, "", made, False, variables, name)


def _taken(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} = port_manager.get_server_port()"
    return f'{", ".join(names)} = port_manager.get_port_range({len(names)}, "servers")'


def _managed(path: Path, line: int, names: list[str], variables: dict[int, str]) -> Pattern:
    made = (_taken(names),)
    return Pattern(path, line, "", made, True, variables)


def _is_whole(function: Function) -> bool:
    """Whether a plain function starts, uses and ends its server: nothing of it remains."""
    lasting = {"start", "Thread", "Popen", "Process", "create_task", "setattr"}
    return function.in_class is None and not function.calls & lasting


def _is_unittest(classes: dict[str, list[str]], function: Function) -> bool:
    """Whether the class of a method may be a TestCase, whose methods get no fixtures."""
    bases = classes.get(function.in_class or "", [])
    return any(base not in ("object", "") for base in bases)


def _is_test_case(classes: dict[str, list[str]], function: Function) -> bool:
    """Whether a method's class is a TestCase for certain."""
    bases = classes.get(function.in_class or "", [])
    return function.parameters[:1] == ["self"] and any(base.endswith("TestCase") for base in bases)


def _is_called(decision: Decision, function: Function) -> bool:
    """Whether the suite itself calls a test or fixture, and so would lack the new parameter."""
    return (function.is_test or function.is_fixture) and any(
        function.name in file.calls for file in decision.suite
    )


def _fresh_names(count: int, taken: set[str]) -> list[str]:
    if count == 1 and "port" not in taken:
        return ["port"]
    prefix = next(
        prefix
        for prefix in ("port", "server_port_", "held_port_", "ephemport_port_")
        if not any(f"{prefix}{place}" in taken for place in range(1, count + 1))
    )
    return [f"{prefix}{place}" for place in range(1, count + 1)]

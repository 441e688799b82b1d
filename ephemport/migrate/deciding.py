"""What becomes of each number: the same everywhere, or nothing anywhere (the package has why)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ephemport.migrate.binding import Binding
from ephemport.migrate.connecting import Connections
from ephemport.migrate.defaults import Defaults
from ephemport.migrate.reaching import Reached
from ephemport.migrate.tree import Tree, is_test_file, shown
from ephemport.migrate.uses import ALL, QUANTITY, File, Function, Meaning, Use
from ephemport.migrate.words import WELL_KNOWN, binds, is_pure, is_quantity, is_round, portish

_HARMLESS_FIXTURES = {"self", "cls", "monkeypatch", "tmp_path", "capsys", "caplog", "request"}
# The stand-ins of numbers this near to each other are so, too: see ephemport._port_map.
_NEAR = 100
# How far from its base a number may be computed.
_FAR = 20
# What programs add to a port of theirs for the next one.
_STEPS = (*range(1, 11), 100, 1000)
# How `finding` calls what a fixture gets from its params.
_PARAMS = "request.param"
_MARKS = ("EPH001", "EPH002", "EPH003")


@dataclass
class Number:
    """A number that is a port in this tree: all its uses, and why it stays if it does."""

    number: int
    uses: list[Use] = field(default_factory=list)
    reason: str = ""
    bound: str = "no"
    base: int = 0  # the bound number that it seems to be computed from, out of sight

    @property
    def reported(self) -> list[Use]:
        """The uses that a reader is told of; the others only change along."""
        return [use for use in self.uses if use.meaning.port and use.meaning.code]


class Decision:
    """The numbers of a tree."""

    def __init__(
        self,
        tree: Tree,
        reached: Reached,
        files: Mapping[Path, File],
        suite: frozenset[Path],
        codes: frozenset[str],
    ) -> None:
        self.root = tree.root
        self.files = files
        self.chosen = tree.chosen
        self.data = reached.data
        self.published = reached.published
        self.codes = codes
        self.suite = [file for path, file in files.items() if path in suite]
        self.product = [files[path] for path in sorted(reached.python - suite)]
        self._identifiers = set[str]().union(*(file.identifiers for file in self.suite))
        self._names_in_strings = set[str]().union(*(file.names_in_strings for file in self.suite))
        self._binding = Binding(self.suite, self.product)
        self._connections = Connections(self.suite)
        self._signatures: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self._bases: dict[str, set[str]] = defaultdict(set)
        for file in (*self.suite, *self.product):
            for name, signatures in file.signatures.items():
                self._signatures[name] |= signatures
            for name, bases in file.classes.items():
                self._bases[name] |= {base.rpartition(".")[2] for base in bases}
        self._defaults = Defaults(self.product, self.suite)
        self.numbers = self._numbers()
        for number in self.numbers.values():
            islands = partial(self._islands, number)
            number.uses += self._defaults.supplied(number.number, islands)
            number.bound = self._binding.of(number.uses)
        sure = {value for value, number in self.numbers.items() if number.bound != "no"}
        for value, number in self.numbers.items():
            if number.bound == "no" and value not in WELL_KNOWN:
                # A server out of sight may bind the port after its own.
                steps = (value - n for n in _STEPS if value - n in sure)
                near = (self.numbers[base] for base in steps)
                number.base = next((one.number for one in near if _share_files(one, number)), 0)
                number.bound = "maybe" if number.base else "no"
            number.reason = self._reason(number)
        self._keep_neighbours_together()

    def converted(self) -> list[Number]:
        """The numbers that change."""
        return [number for number in self.numbers.values() if not number.reason]

    def computed(self) -> set[int]:
        """The numbers from which others may be computed, or that may be computed from others."""
        ranges = {
            value
            for other in self.converted()
            for use in other.uses
            if use.form == "range"
            for value in use.numbers
        }
        near = {value + step for value in self.bases for step in range(-_FAR, _FAR + 1)}
        return near | {value + step for value in ranges for step in (-1, 0, 1)}

    # which uses count

    def _numbers(self) -> dict[int, Number]:
        found: dict[int, Number] = {}
        counted: dict[int, list[Use]] = defaultdict(list)
        for file in self.suite:
            file.uses = [self._told_by_signature(use) for use in file.uses]
            for use in file.uses:
                for value in use.numbers:
                    if use.meaning.port is False:
                        counted[value].append(use)
                    else:
                        found.setdefault(value, Number(value)).uses.append(use)
        computed = {
            name
            for file in self.suite
            for name, distance in file.computed.items()
            if distance <= _FAR
        }
        bases = {
            use.numbers[0]
            for number in found.values()
            for use in number.uses
            if use.meaning.port
            and (use.form in ("sum", "count") or use.is_counted or use.name in computed)
        }
        self.bases = bases
        kept: dict[int, Number] = {}
        for value, number in found.items():
            tainted = self._made_of(number)
            number.uses = [use for use in number.uses if not self._is_data(use, number, tainted)]
            near_bases = [base for base in bases if value - _FAR <= base < value]
            counted_from = bool(near_bases)
            clear = [use for use in number.uses if use.meaning.port]
            if len(clear) < len(number.uses):
                for base in near_bases:
                    clear += [use for use in found[base].uses if use.meaning.port]
                # In a function that counts with the number, what says nothing counts as well.
                counting = {
                    (use.path, use.function)
                    for use in counted[value]
                    if use.function and use.form not in ("text", "inner")
                }
                unclear = [
                    use
                    for use in number.uses
                    if not use.meaning.port
                    and (is_round(value) or (use.path, use.function) not in counting)
                ]
                near = self._connections.near(clear, unclear)
                number.uses = [use for use in number.uses if use.meaning.port or use in near]
            if any(use.meaning.port for use in number.uses) or (counted_from and number.uses):
                kept[value] = number
                if is_round(value):
                    self._look_for_quantities(number, counted[value])
        return kept

    def _told_by_signature(self, use: Use) -> Use:
        """A number that is passed by position, to a parameter whose name says what it is."""
        callee, place, _ = use.argument
        by_name_alone = use.meaning.code == "EPH001" and use.form == "int"
        if not callee or place < 0 or not (use.meaning.port is None or by_name_alone):
            return use
        names = {
            names[place]
            for one in self._with_bases(callee)
            for names in self._signatures.get(one, ())
            if place < len(names)
        }
        if names and all(map(is_quantity, names)):
            return replace(use, meaning=QUANTITY)
        if not names or not all(map(portish, names)) or by_name_alone:
            return use
        return replace(use, meaning=Meaning(True, binds(callee), "EPH002"))

    def _with_bases(self, name: str) -> set[str]:
        """A class and what it inherits its parameters from."""
        found = {name}
        waiting = [name]
        while waiting:
            bases = self._bases.get(waiting.pop(), set()) - found
            found |= bases
            waiting += bases
        return found

    def _is_data(self, use: Use, number: Number, tainted: set[str]) -> bool:
        """Whether a use lies in a test that has no server: about parsing, formatting, checking."""
        function = self.files[use.path].function_of(use)
        if function is None:
            return False
        is_argument = "parametrize" in use.obstacle
        if is_argument and is_round(number.number) and use.meaning.port is None:
            return not any(map(portish, function.parametrized))
        if {number.number, ALL} & function.replaced.get(use.parameter, set()):
            return True
        if use.parameter == _PARAMS:
            return function.maps_params
        return self._is_island(function, tainted)

    def _islands(self, number: Number) -> dict[Path, set[int]]:
        """The tests that have no server, by file: the lines where they begin."""
        tainted = self._made_of(number)
        return {
            file.path: {
                line for line, one in file.functions.items() if self._is_island(one, tainted)
            }
            for file in self.suite
        }

    def _is_island(self, function: Function, tainted: set[str]) -> bool:
        """Whether a test neither starts nor reaches a server, nor names anything `tainted`."""
        expected = set(function.parameters) - function.parametrized - _HARMLESS_FIXTURES
        return (
            function.is_test
            and not function.is_async
            and not expected
            and function.names.isdisjoint(tainted)
            and function.names.isdisjoint(self._binding.binders)
            and not function.uses_self
            and all(map(is_pure, function.calls))
        )

    def _made_of(self, number: Number) -> set[str]:
        """The names of constants, functions and classes whose value depends on the number."""
        places = defaultdict(list)
        names: set[str] = set()
        for use in number.uses:
            places[use.path].append(use)
        for path, uses in places.items():
            file = self.files[path]
            for name, _, start, end in file.made_of:
                if any(start <= use.start < end for use in uses):
                    names.add(name)
            for use in uses:
                function = file.functions.get(use.function) if use.function else None
                if function is not None and not function.is_test:
                    names.add(function.name)
            lines = {use.line for use in uses if use.function is None}
            names |= {one.function for one in file.defaults if one.line in lines}
        grown = True
        while grown:
            before = len(names)
            names |= self._connections.constants_made_of(names)
            grown = len(names) > before
        return names

    def _look_for_quantities(self, number: Number, counted: list[Use]) -> None:
        """Leave a number alone that also counts something beside uses of it that say nothing."""
        for use in number.uses:
            if use.meaning.port is None and any(
                (one.path == use.path and None in (use.function, one.function))
                or (one.path, one.function) == (use.path, use.function)
                for one in counted
            ):
                number.reason = (
                    f"the {number.number} at {self._place(use)} may be something else than the "
                    "port: it also counts something there"
                )

    # what stands in the way

    def _reason(self, number: Number) -> str:
        return (
            number.reason
            or self._not_to_be_touched(number)
            or self._repeated_elsewhere(number)
            or self._depends_on_it(number)
            or self._unbound(number)
        )

    def _not_to_be_touched(self, number: Number) -> str:
        for use in number.uses:
            file = self.files[use.path]
            if not use.form:
                return f"at {self._place(use)} {use.obstacle}"
            if use.parameter == _PARAMS:
                if not any(
                    number.number in one.numbers
                    and one is not use
                    and one.function == use.decorates
                    for one in number.uses
                ):
                    return f"at {self._place(use)} {use.obstacle}"
            elif use.parameter and not self._can_be_replaced_inside(file, use):
                return f"at {self._place(use)} {use.obstacle}"
            if use.path not in self.chosen:
                return f"it is also used at {self._place(use)}, outside of the paths given"
            codes = file.noqa.get(use.line, frozenset())
            if codes is None or codes & set(_MARKS):
                return f"{self._place(use)} is marked noqa"
            if use.meaning.code and use.meaning.code not in self.codes:
                return f"{use.meaning.code} at {self._place(use)} is not selected"
        return ""

    def _can_be_replaced_inside(self, file: File, use: Use) -> bool:
        """Whether a value of parametrize goes nowhere but to the test, which can replace it."""
        function = file.functions.get(use.decorates or 0)
        return (
            function is not None
            and function.is_test
            and use.parameter in function.parameters
            and not any(
                use.parameter in other.parameters or use.parameter == other.name
                for each in self.suite
                for other in each.functions.values()
                if other.is_fixture
            )
        )

    def _repeated_elsewhere(self, number: Number) -> str:
        if number.number in self.data:
            return f"{self.data[number.number]} repeats it, which is no Python"
        if number.number in self.published and number.bound != "yes":
            return f"{self.published[number.number]} may publish it for a container"
        for file in self.files.values():
            if file.unreadable and str(number.number) in _raw(file.path):
                return f"{shown(file.path, self.root)} repeats it, which cannot be read"
        islands = partial(self._islands, number)
        uses = self._defaults.in_force(number.number, number.uses, number.bound, islands)
        places = list(dict.fromkeys(map(self._place, uses)))
        if not places:
            return ""
        others = f" and {len(places) - 3} more" if len(places) > 3 else ""
        repeat = "repeat" if len(places) > 1 else "repeats"
        return f"{', '.join(places[:3])}{others} {repeat} it, which is no part of the suite"

    def _depends_on_it(self, number: Number) -> str:
        made = self._made_of(number)
        for file in self.suite:
            # The name of a function is no value of its number: its id is the name.
            constants = {name for one in self.suite for name, _, _, _ in one.made_of} & made
            if shared := constants & file.parametrize_names:
                return (
                    f"{sorted(shared)[0]}, made of it, is part of ids of tests in "
                    f"{shown(file.path, self.root)}, and ids must agree between workers"
                )
            for name in made & set(file.computed):
                if file.computed[name] > _NEAR:
                    return (
                        f"{name}, made of it, is calculated with in {shown(file.path, self.root)}"
                    )
        processes = [file for file in self.suite if file.hides_environment]
        for path in {use.path for use in number.uses}:
            names = {path.name, path.stem}
            for file in processes:
                if self.is_script(self.files[path]) and names & file.names_in_strings:
                    return (
                        f"{shown(path, self.root)} uses it in a process of its own, and "
                        f"{shown(file.path, self.root)} does not pass on os.environ"
                    )
        return ""

    def _unbound(self, number: Number) -> str:
        if number.bound == "maybe" and number.number in WELL_KNOWN:
            near = {number.number + step for step in range(-3, 4)} - {number.number}
            if not any(self.numbers[value].bound == "yes" for value in near & set(self.numbers)):
                return "it is the usual port of a service, which nothing here is seen to start"
        if number.bound != "no" or not any(use.meaning.port for use in number.uses):
            return ""
        return "nothing here binds it"

    def _keep_neighbours_together(self) -> None:
        """Numbers that one expression computes stay or change together."""
        changed = True
        while changed:
            changed = False
            for number in self.converted():
                reason = self._held_back_by(number)
                if reason:
                    number.reason = reason
                    changed = True

    def _held_back_by(self, number: Number) -> str:
        for use in number.uses:
            near: Iterable[int] = use.numbers
            if use.form in ("sum", "count"):
                near = range(number.number - _FAR, number.number + _FAR + 1)
            for value in near:
                other = self.numbers.get(value)
                if other is not None and other.reason and other.bound != "no":
                    return f"{self._place(use)} computes it with {value}, which stays"
        for value in range(number.number - _FAR, number.number):
            if value in self.bases and value in self.numbers and self.numbers[value].reason:
                return f"it may be counted from {value}, which stays"
        if number.base and self.numbers[number.base].reason:
            return f"it seems to follow from {number.base}, which stays"
        if number.bound == "no":
            # Known from its base alone.
            near = range(number.number - _FAR, number.number)
            if any(self.numbers[base].reason for base in near if base in self.numbers):
                return "the number that it is counted from stays"
        return ""

    # what runs in other processes

    def runs_apart(self, file: File) -> bool:
        """Whether a file is run, or imported again, in a process that the suite starts."""
        # A child of multiprocessing imports the module of its target, and what that imports.
        imported_again = file.imports_itself or not is_test_file(file.path)
        if imported_again and any(one.imports_itself for one in self.suite):
            return True
        return any(one.starts_processes for one in self.suite) and self.is_script(file)

    def is_script(self, file: File) -> bool:
        """Whether the suite seems to run a file as a program."""
        if is_test_file(file.path):
            return False
        return file.is_script or not self._names_in_strings.isdisjoint(
            (file.path.name, file.path.stem)
        )

    def _place(self, use: Use) -> str:
        return f"{shown(use.path, self.root)}:{use.line}"


def _share_files(one: Number, other: Number) -> bool:
    """Whether two numbers are used in one file, or the one in what every file shares."""
    paths = {use.path for use in one.uses}
    shared = any(not re.fullmatch(r"test_.*|.*_test\.py", path.name) for path in paths)
    return shared or not paths.isdisjoint(use.path for use in other.uses)


def _raw(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

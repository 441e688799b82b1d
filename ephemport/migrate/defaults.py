"""The product's own numbers: a default that the suite leaves in force binds what no test names.

The product is not changed. Where the suite calls something of the product without saying a port,
and the product then takes a number that the suite repeats, the call is given the port outright:
`Server()` becomes `Server(port=port_map[9001])`. Where that cannot be done, the number stays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ephemport.migrate.uses import Default, File, Meaning, Parameter, Supplied, Use
from ephemport.migrate.words import binds, is_round

# The tests that have no server, by file: the lines where they begin.
Islands = Callable[[], Mapping[Path, set[int]]]


class Defaults:
    """What the product does when the suite says nothing.

    product, suite: the files of each.
    """

    def __init__(self, product: Sequence[File], suite: Sequence[File]) -> None:
        self.product = product
        self.suite = suite
        self.strings = set[str]().union(*(file.strings for file in suite))
        self._given = set[tuple[Path, int]]()
        self._islands: Islands = dict
        self._bound = "no"
        self.starts_processes = any(file.starts_processes for file in suite)

    def supplied(self, number: int, islands: Islands) -> list[Use]:
        """The calls that are to be given the number, as uses of it; none if one cannot be."""
        found: list[Use] = []
        for default, source in self._defaults_of(number):
            for path, call in self._missing(default, islands):
                if not self._can_be_told(path, call, default):
                    return []
                found.append(
                    Use(
                        (number,),
                        path,
                        call.line,
                        1,
                        call.end - 1,
                        call.end - 1,
                        Meaning(True, binds(default.function)),
                        "argument",
                        function=call.function,
                        name=default.parameter,
                        source=source,
                    )
                )
        return list(dict.fromkeys(found))

    def in_force(self, number: int, uses: Sequence[Use], bound: str, islands: Islands) -> list[Use]:
        """The uses of the number in the product that the suite does not put out of force."""
        found: list[Use] = []
        self._given = {(use.path, use.end + 1) for use in uses if use.form == "argument"}
        self._islands, self._bound = islands, bound
        for file in self.product:
            for use in file.uses:
                if number not in use.numbers or use.meaning.port is False or use.told:
                    continue
                unclear = use.meaning.port is None and (is_round(number) or bound == "yes")
                if not unclear and not self._is_overridden(file, use, number, uses, bound):
                    found.append(use)
        return found

    def _is_overridden(
        self, file: File, use: Use, number: int, uses: Sequence[Use], bound: str
    ) -> bool:
        own = [one for one in file.defaults if one.line == use.line]
        if own:
            return all(self._is_settled(one) for one in own)
        said_outright = bound == "yes" and any(
            one.name == use.name and one.form != "argument" and one.meaning.binds == "yes"
            for one in uses
        )
        if use.name.startswith("-") or (use.name.isupper() and use.name in self.strings):
            # An option's default, or an environment variable's, for who starts the program.
            return use.name in self.strings or (bound == "yes" and not self._is_run(file))
        if use.function is not None:
            return use.name in self.strings or (use.is_fallback and said_outright)
        if use.name and not self._is_used(use.name):
            alias = [one for each in self.product for one in each.defaults if one.alias == use.name]
            passed = any(use.name in each.name_binds for each in self.product)
            if passed:
                return False
            if alias:
                return all(self._is_settled(one) for one in alias)
            return bound == "yes" and not self._is_run(file)
        return said_outright

    def _is_used(self, name: str) -> bool:
        """Whether the suite does more with a name of the product's than look at it."""
        apart = self._islands()
        for file in self.suite:
            if name not in file.identifiers:
                continue
            users = [line for line, one in file.functions.items() if name in one.names]
            at_top = any(name in parts for _, parts, _, _ in file.made_of)
            if at_top or name in file.name_binds or not users:
                return True
            if not apart.get(file.path, set()).issuperset(users):
                return True
        return False

    def _is_run(self, file: File) -> bool:
        """Whether the suite may start this file as a program, with whatever it does by default."""
        if not self.starts_processes:
            return False
        names = {file.path.name, file.path.stem, file.path.parent.name}
        return any(not names.isdisjoint(text.replace("/", ".").split(".")) for text in self.strings)

    # the defaults of functions and classes

    def _defaults_of(self, number: int) -> Iterator[tuple[Default, Use | None]]:
        """Each default that the number is, or is part of; for a text, where that is written."""
        for file in self.product:
            for use in file.uses:
                if use.numbers != (number,) or use.function is not None:
                    continue
                text = use if use.form in ("text", "whole") else None
                if use.form not in ("int", "text", "whole"):
                    continue
                for default in file.defaults:
                    if default.line == use.line and default.numbers == (number,):
                        yield default, text
                for each in self.product:
                    for default in each.defaults:
                        if default.alias and default.alias == use.name:
                            yield default, text

    def _is_settled(self, default: Default) -> bool:
        """Whether every call in sight says it, or is going to."""
        names = self._callees(default.function)
        missing = list(self._missing(default, self._islands))
        if not any(file.calls.get(name) for file in self.suite for name in names):
            # Then the product itself may call it, for a server that the suite starts.
            return not self.starts_processes and (self._bound == "yes" or not missing)
        return all((path, call.end) in self._given for path, call in missing)

    def _can_be_told(self, path: Path, call: Supplied, default: Default) -> bool:
        # A method's name may be anybody's: thread.start() is not our start(port=9001).
        certain = default.function[:1].isupper() or call.is_bare
        source = next((file.source for file in self.suite if file.path == path), "")
        return (
            certain
            and not call.unpacks
            and argument(source, call.end, default.parameter, "0") is not None
        )

    def _missing(self, default: Default, islands: Islands) -> Iterator[tuple[Path, Supplied]]:
        """The calls that leave the default in force."""
        missing = [
            (file.path, call)
            for name in self._callees(default.function)
            for file in (*self.suite, *self.product)
            for call in file.calls.get(name, ())
            if default.parameter not in call.keywords and call.positional <= default.position
            if call.unless is None or not self._is_given(call.unless)
        ]
        apart = islands() if missing else {}
        for path, call in missing:
            if call.function not in apart.get(path, ()):
                yield path, call

    def _is_given(self, parameter: Parameter) -> bool:
        """Whether the suite always gives a parameter a value."""
        return all(
            parameter.is_in(call.positional, call.keywords)
            for file in self.suite
            for name in self._callees(parameter.function)
            for call in file.calls.get(name, ())
        )

    def _callees(self, function: str) -> set[str]:
        """The names under which it is called: a class's subclasses, too."""
        names = {function}
        grown = True
        while grown:
            subclasses = {
                name
                for file in (*self.suite, *self.product)
                for name, bases in file.classes.items()
                if any(base.rpartition(".")[2] in names for base in bases)
            }
            grown = not subclasses <= names
            names |= subclasses
        return names


def argument(source: str, end: int, name: str, value: str) -> tuple[int, str] | None:
    """Where a call that ends at `end` takes one more keyword, and the text; None if it cannot."""
    before = source[: end - 1]
    head = before.rstrip()
    line = head.rpartition("\n")[2]
    if not head or "#" in line:
        return None
    added = f"{name}={value}"
    if head.endswith("("):
        return len(head), added
    if not head.endswith(","):
        return len(head), f", {added}"
    gap = before[len(head) :]
    if "\n" not in gap:
        return len(head), f" {added}"
    indent = line[: len(line) - len(line.lstrip())]
    newline = "\r\n" if "\r\n" in gap else "\n"
    return len(head), f"{newline}{indent}{added},"

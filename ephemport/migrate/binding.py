"""Whether anything in the tree binds a number: who is given it, and what that does with it."""

from collections.abc import Sequence

from ephemport.migrate.uses import File, Use
from ephemport.migrate.words import binds, is_everybodys


class Binding:
    """The classes and functions of a tree that bind what they are given."""

    def __init__(self, suite: Sequence[File], product: Sequence[File]) -> None:
        self.suite = suite
        self.files = [*suite, *product]
        self.binders = self._all_binders()
        self._uses: dict[str, set[str]] = {}
        self._defined = set[str]().union(
            *({*file.signatures, *file.classes} for file in self.files)
        )

    def of(self, uses: Sequence[Use]) -> str:
        """Whether something binds the number of these uses: "yes", "no" or "maybe"."""
        told = set()
        for use in uses:
            if use.meaning.port:
                told |= self._binds(use)
        if "yes" in told:
            return "yes"
        # What nobody reaches is data: an address that is formatted, a peer that is made up.
        return "maybe" if {"maybe", "no"} <= told else "no"

    def _all_binders(self) -> set[str]:
        """The classes and functions that bind what they are given, directly or through others."""
        found = set[str]().union(*(file.binders for file in self.files))
        grown = True
        while grown:
            more = {
                name
                for file in self.files
                for name, calls in file.calls_within.items()
                if calls & found and not is_everybodys(name)
            } | {
                name
                for file in self.files
                for name, bases in file.classes.items()
                if any(base.rpartition(".")[2] in found for base in bases)
            }
            grown = not more <= found
            found |= more
        return {name for name in found if not name.startswith("test")}

    def _binds(self, use: Use) -> set[str]:
        told = {use.meaning.binds}
        if use.meaning.binds == "maybe":
            if use.passed_to & self.binders or any(binds(one) == "yes" for one in use.passed_to):
                return {"yes"}
            if use.argument[0] and use.argument[0] not in self._defined:
                # Another library's class that is named like no server.
                told = {"no"}
        if use.name and use.name.isidentifier():
            used = self._used_for(use.name)
            if "yes" in used:
                return {"yes"}
            # A constant that only clients use, and nothing else, proves nothing.
            if used == {"no"} and use.function is None and use.name.isupper():
                return {"no"}
            told |= used
        return told

    def _used_for(self, name: str) -> set[str]:
        """What the suite does with a name: sides as in Meaning.binds."""
        if name not in self._uses:
            used = set[str]()
            for file in self.suite:
                used |= file.name_binds.get(name, set())
                if file.name_callees.get(name, set()) & self.binders:
                    used.add("yes")
            self._uses[name] = used
        return self._uses[name]

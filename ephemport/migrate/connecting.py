"""Which of a number's uses belong together: those that say nothing, with those that say port.

9001 in a test of something else is another 9001. A use that says nothing counts if the port is
near: in its function or class, at the top of its file, or through a fixture, helper or constant
that it names.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ephemport.migrate.tree import is_test_file
from ephemport.migrate.uses import File, Function, Use

_SETUPS = {
    "setup_module",
    "setUpModule",
    "setup_function",
    "pytest_configure",
    "pytest_sessionstart",
}


class Connections:
    """The functions of a suite, and who names whom."""

    def __init__(self, suite: Sequence[File]) -> None:
        self.files = {file.path: file for file in suite}
        self.functions = [
            (file, function) for file in suite for function in file.functions.values()
        ]

    def near(self, clear: Sequence[Use], unclear: Sequence[Use]) -> list[Use]:
        """Those of the unclear uses that are near the clear ones, the one through the other."""
        found: list[Use] = []
        while True:
            is_near = self._is_near([*clear, *found])
            more = [use for use in unclear if use not in found and is_near(use)]
            if not more:
                return found
            found += more

    def _is_near(self, clear: Sequence[Use]) -> Callable[[Use], bool]:
        names = self._names(clear)
        lines = {(use.path, use.function) for use in clear}
        tops = {use.path for use in clear if use.function is None and use.decorates is None}
        around = {
            (use.path, function.in_class)
            for use in clear
            if (function := self._function(use)) is not None and function.in_class
        }
        everywhere = self._set_up_by(names, lines)

        def is_near(use: Use) -> bool:
            path = use.path
            function = self._function(use)
            if (
                path in tops
                or (path, use.function) in lines
                or any(map(path.is_relative_to, everywhere))
            ):
                return True
            if function is None:
                return not is_test_file(path) or any(path == one for one, _ in lines)
            return bool(
                (function.in_class and (path, function.in_class) in around)
                or _named(function) & names
                or self.files[path].strings & names
            )

        return is_near

    def _function(self, use: Use) -> Function | None:
        return self.files[use.path].function_of(use)

    def constants_made_of(self, names: set[str]) -> set[str]:
        """The names at the tops of files whose values are made of these, in one step."""
        return {
            name
            for file in self.files.values()
            for name, parts, _, _ in file.made_of
            if parts & names
        }

    def _names(self, clear: Sequence[Use]) -> set[str]:
        """The constants, helpers and fixtures that have to do with the port."""
        names: set[str] = set()
        for use in clear:
            file = self.files[use.path]
            function = self._function(use)
            if function is not None and not function.is_test:
                names.add(_name(function))
            elif function is None:
                names |= {name for name, _, start, end in file.made_of if start <= use.start < end}
                names |= {one.function for one in file.defaults if one.line == use.line}
        grown = True
        while grown:
            before = len(names)
            names |= self.constants_made_of(names)
            for _, function in self.functions:
                if not function.is_test and _named(function) & names:
                    names.add(_name(function))
            grown = len(names) > before
        return names

    def _set_up_by(self, names: set[str], lines: set[tuple[Path, int | None]]) -> set[Path]:
        """The files and folders whose tests have the port without naming anything."""
        found = set()
        for file, function in self.functions:
            is_setup = function.is_autouse or function.name in _SETUPS
            if is_setup and ((file.path, function.line) in lines or _named(function) & names):
                shared = file.path.name == "conftest.py"
                found.add(file.path.parent if shared else file.path)
        return found


def _named(function: Function) -> set[str]:
    return function.names | {*function.parameters}


def _name(function: Function) -> str:
    """By which name others come to it: a method by its class's."""
    return function.in_class or function.name

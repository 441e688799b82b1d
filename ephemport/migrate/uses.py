"""The words of the search: a use of a number, the function around it, and what a file told."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple


class Meaning(NamedTuple):
    """What the surroundings of a number say about it.

    port: whether it is one; None when they do not tell. binds: whether the number is bound there,
    "yes", "no" or "maybe". code: as what it is reported; "" for a use that is only changed along.
    """

    port: bool | None
    binds: str = "no"
    code: str = ""


QUANTITY = Meaning(False)
UNKNOWN = Meaning(None)
# Among the numbers that a test replaces in its parameter: whatever it is given.
ALL = -1


@dataclass(frozen=True)
class Use:
    """One place where a number is written down, and how it can be replaced there.

    form: "int", "text" (the number within a string, `start` and `end` around its digits),
        "whole" (a string that is the number), "sum", "range" and "count" (an expression that
        computes ports), "argument" (a call that takes it by default, and is to be given it as
        `name`), or "" when nothing can stand there but a literal; then `obstacle` says why.
    literal: for strings, where the literal itself begins and ends.
    function: the outermost function, or None outside of any.
    """

    numbers: tuple[int, ...]
    path: Path
    line: int
    column: int
    start: int
    end: int
    meaning: Meaning
    form: str
    literal: tuple[int, int] = (0, 0)
    function: "int | None" = None
    obstacle: str = ""
    name: str = ""  # the variable, parameter or key that it is given to
    decorates: int | None = None  # the function whose decorator it stands in
    parameter: str = ""  # the parameter that parametrize gives it to
    passed_to: frozenset[str] = frozenset()  # what is called with it, or with what is made of it
    argument: tuple[str, int, str] = ("", 0, "")  # as flowing.passed_to has it
    told: bool = False  # it stands in what is printed or logged, or in a help text
    in_class: str = ""  # the outermost class
    is_fallback: bool = False  # `port or 9001`
    is_counted: bool = False  # its name is added to: `base + i`
    beside: frozenset[int] = frozenset()  # all that parametrize gives the parameter, if numbers
    is_mixed: bool = False  # parametrize gives the parameter other things than texts, too
    source: "Use | None" = None  # for "argument": the product's default, if that is a text


@dataclass
class Function:
    """An outermost function: what decides between the documented patterns, and islands."""

    name: str
    line: int
    in_class: str | None
    decorators: list[str] = field(default_factory=list)
    scope: str = "function"
    is_autouse: bool = False
    parameters: list[str] = field(default_factory=list)
    parametrized: set[str] = field(default_factory=set)
    simple_parameters: bool = True
    is_async: bool = False
    yields: bool = False
    ends_things: bool = False
    uses_self: bool = False
    params: tuple[int, ...] = ()  # a fixture's, if they are all numbers
    maps_params: bool = False
    returns: bool = False
    replaced: dict[str, set[int]] = field(default_factory=dict)  # parametrize's, in its body
    calls: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    @cached_property
    def is_fixture(self) -> bool:
        """Whether pytest calls it for a fixture's value."""
        return any(name.rpartition(".")[2] == "fixture" for name in self.decorators)

    @cached_property
    def is_test(self) -> bool:
        """Whether pytest collects it."""
        return self.name.startswith("test") and not self.is_fixture

    @property
    def only_marks(self) -> bool:
        """Whether nothing decorates it but pytest."""
        return all(
            name.startswith(("pytest.mark.", "mark.")) or name.rpartition(".")[2] == "fixture"
            for name in self.decorators
        )


class Finding(NamedTuple):
    """What is reported."""

    path: Path
    line: int
    column: int
    code: str
    message: str


class Default(NamedTuple):
    """A default value that holds if a caller of `function` says nothing."""

    numbers: tuple[int, ...]
    function: str
    parameter: str
    position: int
    line: int
    alias: str = ""  # the constant that is the default
    is_text: bool = False  # the number is part of it


class Parameter(NamedTuple):
    """A parameter of a function or class, and its place among the positional ones."""

    function: str
    name: str
    position: int

    def is_in(self, positional: int, keywords: frozenset[str]) -> bool:
        """Whether a call with these gives it a value."""
        return self.name in keywords or positional > self.position


class Supplied(NamedTuple):
    """What one call passes: how many positional arguments, which keywords.

    end: where it ends in the source. function: the outermost function around it. is_bare: what is
    called is a plain name. unless: `settings or Settings()` is only called if the function around
    it is called without the parameter.
    """

    positional: int
    keywords: frozenset[str]
    unpacks: bool
    line: int
    end: int
    function: int | None
    is_bare: bool
    unless: "Parameter | None" = None


@dataclass
class File:
    """What one Python file told."""

    path: Path
    source: str
    uses: list[Use] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    functions: dict[int, Function] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    plain_classes: dict[str, int] = field(default_factory=dict)  # undecorated; where they begin
    name_callees: dict[str, set[str]] = field(default_factory=dict)
    binders: set[str] = field(default_factory=set)
    calls_within: dict[str, set[str]] = field(default_factory=dict)
    name_binds: dict[str, set[str]] = field(default_factory=dict)
    made_of: list[tuple[str, set[str], int, int]] = field(default_factory=list)
    parametrize_names: set[str] = field(default_factory=set)
    computed: dict[str, int] = field(default_factory=dict)
    calls: dict[str, list[Supplied]] = field(default_factory=dict)
    defaults: list[Default] = field(default_factory=list)
    signatures: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    strings: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    noqa: dict[int, frozenset[str] | None] = field(default_factory=dict)
    starts_processes: int = 0
    hides_environment: int = 0
    imports_itself: bool = False  # a multiprocessing child imports the modules again
    is_script: bool = False
    needs_options: bool = False  # binds sockets that set neither SO_REUSEADDR nor SO_REUSEPORT
    unreadable: str = ""

    def function_of(self, use: Use) -> Function | None:
        """The outermost function that a use stands in, or decorates."""
        line = use.function if use.function is not None else use.decorates
        return self.functions.get(line) if line is not None else None

    @cached_property
    def names_in_strings(self) -> set[str]:
        """What may name a file or a module: the last parts of strings such as `a/b.py` or `a.b`."""
        return {text.rpartition(mark)[2] for text in self.strings for mark in "/."}

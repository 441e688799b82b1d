"""What the docstrings of the public face leave out: `python -m tests.docstrings` prints it.

It runs in a process of its own, because importing the drop-ins wraps socket.bind().
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Never, NoReturn

PACKAGES = ("ephemport", "ephemport.compat")
DROPINS = "ephemport.dropin"

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)
NAMED = re.compile(r"^    \*{0,2}(\w+)(?: \([^)]*\))?:", re.MULTILINE)
# A docstring that speaks of raising has a section for it.
SAYS_THAT_IT_RAISES = re.compile(r"\b[Rr]aises\b(?!:)")


class Documented(NamedTuple):
    """One thing that has a public docstring.

    name: what messages call it. text: its docstring. parameters: those that a caller passes.
    returns: whether it returns anything. raises: whether a `raise` stands in it directly.
    """

    name: str
    text: str
    parameters: list[str]
    returns: bool
    raises: bool


def missing(one: Documented) -> Iterator[str]:
    """What the docstring leaves out, as messages."""
    if not one.text:
        yield f"{one.name}: no docstring"
        return
    found = _sections(one.text)
    named = NAMED.findall(found.get("Args", "") + "\n" + found.get("Attributes", ""))
    for parameter in one.parameters:
        if parameter not in named:
            yield f"{one.name}: Args: lacks {parameter}"
    if one.returns and not found.keys() & {"Returns", "Yields"}:
        yield f"{one.name}: no Returns:"
    if "Raises" not in found and (one.raises or SAYS_THAT_IT_RAISES.search(one.text)):
        yield f"{one.name}: no Raises:"


def documented(name: str, thing: Any) -> Iterator[Documented]:
    """A public function, or a public class with its public methods and properties."""
    if isinstance(thing, type):
        yield _class(name, thing)
        for attribute, member in _members(thing):
            yield from _member(f"{name}.{attribute}", member)
    elif inspect.isfunction(thing):
        yield _function(name, thing)


def public() -> Iterator[Documented]:
    """Everything that `ephemport`, `ephemport.compat` and the drop-ins offer."""
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            found = getattr(package, name)
            named = found if isinstance(found, type) or inspect.isfunction(found) else type(found)
            yield from documented(f"{package.__name__}.{name}", named)
    for module in _dropins():
        for name, found in vars(module).items():
            # `main` is a command: its docstring is what the command prints for --help.
            hidden = name.startswith(("_", "pytest_")) or name == "main"
            if not hidden and getattr(found, "__module__", "") == module.__name__:
                yield from documented(f"{module.__name__}.{name}", found)


def _dropins() -> Iterator[ModuleType]:
    for one in pkgutil.walk_packages(importlib.import_module(DROPINS).__path__, f"{DROPINS}."):
        if not one.name.removeprefix(f"{DROPINS}.").startswith("_"):
            yield importlib.import_module(one.name)


def _class(name: str, thing: type) -> Documented:
    text = inspect.cleandoc(thing.__doc__ or "")
    fields = getattr(thing, "__dataclass_fields__", getattr(thing, "_fields", None))
    init = vars(thing).get("__init__")
    if fields is not None:
        return Documented(name, text, list(fields), returns=False, raises=False)
    if not inspect.isfunction(init):
        return Documented(name, text, [], returns=False, raises=False)
    return Documented(name, text, _parameters(init), returns=False, raises=_raises(init))


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    package = thing.__module__.partition(".")[0]
    for base in thing.__mro__:
        if base.__module__.partition(".")[0] == package:
            for name, member in vars(base).items():
                if not name.startswith("_") or name == "__call__":
                    yield name, member


def _member(name: str, member: Any) -> Iterator[Documented]:
    if isinstance(member, property):
        assert member.fget is not None
        # A property is read like an attribute: its first line says what it is.
        yield _function(name, member.fget)._replace(returns=False)
    elif isinstance(member, (classmethod, staticmethod)):
        yield _function(name, member.__func__)
    elif inspect.isfunction(member):
        yield _function(name, member)


def _function(name: str, function: Callable[..., Any]) -> Documented:
    returned = inspect.get_annotations(inspect.unwrap(function)).get("return")
    nothing = (None, "None", NoReturn, Never)
    return Documented(
        name,
        inspect.cleandoc(function.__doc__ or ""),
        _parameters(function),
        returned not in nothing,
        _raises(function),
    )


def _parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def _raises(function: Callable[..., Any]) -> bool:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    return any(isinstance(node, ast.Raise) for node in _own_nodes(ast.parse(source).body[0]))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _own_nodes(child)


def _sections(text: str) -> dict[str, str]:
    parts = SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


if __name__ == "__main__":
    for one in public():
        for message in missing(one):
            print(message)

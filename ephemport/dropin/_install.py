"""A drop-in under the name of its original, so that code of others imports it."""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType

from ephemport._arguments import shown
from ephemport._errors import EphemportError

# The modules that can be installed. `fixtures` stands in for fixtures, and for no module.
ORIGINALS = ("ephemeral_port_reserve", "port_for", "portpicker")


def original_named(name: str) -> str:
    """The name of an original's module, from it or from its package's. Raises ValueError."""
    found = name.strip().replace("-", "_")
    if found not in ORIGINALS:
        raise ValueError(f"unknown drop-in {shown(name)}; known are {', '.join(ORIGINALS)}")
    return found


def is_installed(original: str) -> bool:
    """Whether `import original` imports the drop-in."""
    found = sys.modules.get(original)
    return found is not None and found is sys.modules.get(_drop_in(original))


def install(original: str) -> None:
    """Put a drop-in and its modules under the original's names, for this process.

    Raises EphemportError if the original is imported already: who has imported it goes on to use
    it.
    """
    if is_installed(original):
        return
    if original in sys.modules:
        users = list(_users_of(original))
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        who = f" by {users[0]}{more}" if users else ""
        raise EphemportError(
            f"the drop-in for {original} is too late: {original} is imported already{who}"
        )
    for name, module in _modules_of(_drop_in(original)):
        sys.modules[f"{original}{name}"] = module


def uninstall(original: str) -> None:
    """Take the names away again. Whoever has imported the drop-in goes on to use it."""
    if is_installed(original):
        for name, module in _modules_of(_drop_in(original)):
            if sys.modules.get(f"{original}{name}") is module:
                del sys.modules[f"{original}{name}"]


def _drop_in(original: str) -> str:
    return f"{__package__}.{original}"


def _modules_of(drop_in: str) -> Iterator[tuple[str, ModuleType]]:
    """A drop-in and its modules, with what follows the drop-in's name: "", ".api", ..."""
    module = importlib.import_module(drop_in)
    yield "", module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{drop_in}."):
        yield found.name.removeprefix(drop_in), importlib.import_module(found.name)


def _users_of(original: str) -> Iterator[str]:
    """The modules that have the original, or something of it, among their names."""
    own = (original, f"{original}.")
    for name, module in list(sys.modules.items()):
        if name != "__main__" and not f"{name}.".startswith(own[1]):
            for value in list(getattr(module, "__dict__", {}).values()):
                home = value.__name__ if isinstance(value, ModuleType) else _home_of(value)
                if home == own[0] or home.startswith(own[1]):
                    yield name
                    break


def _home_of(value: object) -> str:
    home = getattr(value, "__module__", "") if isinstance(value, type) or callable(value) else ""
    return home if isinstance(home, str) else ""

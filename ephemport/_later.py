"""Names that a package offers at once and imports at their first use (PEP 562).

pytest loads the plugin, and with it the packages above it, in every run of an environment. Most of
these runs need no port at all.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ephemport._errors import EphemportError


@contextmanager
def importing(purpose: str) -> Iterator[None]:
    """Import what only `purpose` needs; EphemportError where the process sees it no longer."""
    try:
        yield
    except ImportError as error:
        raise EphemportError(
            f"cannot {purpose}: {error.name or error} cannot be imported. It was not needed until "
            "now, and this process may have lost sight of its installation since it started "
            "(chroot(), another user): do this once before that, or install it where it is seen"
        ) from error


def later(
    package: str, homes: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for `package`. `homes`: our modules and the names in each."""

    def get(name: str) -> object:
        for module, names in homes.items():
            if name in names:
                with importing(f"use {package}.{name}"):
                    import importlib

                    home = importlib.import_module(f"ephemport.{module}")
                found: object = getattr(home, name)
                setattr(sys.modules[package], name, found)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *(n for ns in homes.values() for n in ns)})

    return get, names

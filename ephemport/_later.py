"""Names that a package has from the start and imports when they are first asked for (PEP 562).

pytest loads the plugin, and with it the packages above it, in every run of an environment, and most
of these runs need no port at all.
"""

import sys
from collections.abc import Callable, Mapping


def later(
    package: str, homes: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for `package`; `homes`: our modules, and the names in each."""

    def get(name: str) -> object:
        import importlib

        for module, names in homes.items():
            if name in names:
                found: object = getattr(importlib.import_module(f"ephemport.{module}"), name)
                setattr(sys.modules[package], name, found)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *(n for ns in homes.values() for n in ns)})

    return get, names

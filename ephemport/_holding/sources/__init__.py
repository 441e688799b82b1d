"""Where ports come from: the operating system, a fixed range, or a portserver.

A source hands out holds. Each file here is one, and the file's name is its mode. To add a source,
write a file `NAME.py` beside these with a class of the shape of `Source` and a function
`open_sources(terms)`; `EPHEMPORT_MODE=NAME` and `--mode NAME` find it.
"""

import os
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ephemport._errors import PortsExhausted
    from ephemport._holding.hold import Hold


class Source(Protocol):
    """Where ports come from."""

    @property
    def ports(self) -> Sequence[int]:
        """The ports that this source can give, in ascending order."""

    def hold(self, protocol: str, exclude: Collection[int]) -> "Hold":
        """Hold one port of the source's choice. Raises PortsExhausted, or OSError (EMFILE)."""

    def hold_port(self, port: int, protocol: str) -> "Hold":
        """Hold this very port. Raises OSError (EADDRINUSE, EACCES) or PortUnavailable."""

    def exhausted(
        self, protocol: str, exclude: Collection[int], count: int = 1, *, in_a_row: bool = False
    ) -> "PortsExhausted":
        """The error for `count` ports that cannot be had, with what the source knows of why."""


class Terms(NamedTuple):
    """What a source may want to know.

    worker_id: xdist's, such as "gw0". lock_dir: the folder for lock files, None: the usual one.
    address: what stood behind the mode's colon, "" for nothing.
    """

    worker_id: str
    lock_dir: str | os.PathLike[str] | None
    address: str


def not_enough(protocol: str, count: int, *, in_a_row: bool) -> str:
    """How the error of a source begins that cannot give `count` ports."""
    if count == 1:
        return f"no port left: looked for a {protocol} port"
    row = " in a row" if in_a_row else ""
    return f"not enough ports left: looked for {count} {protocol} ports{row}"


@cache
def modes() -> tuple[str, ...]:
    """The names of all sources."""
    import pkgutil

    return tuple(one.name for one in pkgutil.iter_modules(__path__))


def open_sources(mode: str, terms: Terms) -> dict[str, Source]:
    """The sources of a mode, one of each category. Raises EphemportError where it cannot be had."""
    import importlib

    sources: dict[str, Source] = importlib.import_module(f"{__name__}.{mode}").open_sources(terms)
    return sources

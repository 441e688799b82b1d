"""Where ports come from: the operating system, a fixed range, or a portserver.

A source makes holds. Each file here is one source, and the file's name is its mode. To add one,
write a file `NAME.py` beside these with a class of the shape of `Source` and a function
`open_sources(terms)`. `EPHEMPORT_MODE=NAME` and `--mode NAME` find it.
"""

import os
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ephemport._holding.shape import ONE, Shape
from ephemport._later import importing

if TYPE_CHECKING:
    from ephemport._errors import PortsExhausted
    from ephemport._holding.hold import Hold
    from ephemport._holding.span import Span


class Source(Protocol):
    """A source of ports."""

    @property
    def ports(self) -> Sequence[int]:
        """The ports that this source can give, in ascending order."""

    @property
    def barred(self) -> Collection[int]:
        """What the other ports of a group around one of `ports` cannot be."""

    def within(self, span: "Span") -> "Source":
        """The source of those ports of this one that are in `span`."""

    def hold(self, protocol: str, exclude: Collection[int]) -> "Hold":
        """Hold one port of the source's choice. Raises PortsExhausted, or OSError (EMFILE)."""

    def hold_port(self, port: int, protocol: str) -> "Hold":
        """Hold `port`. Raises OSError (EADDRINUSE, EACCES) or PortUnavailable."""

    def exhausted(
        self, protocol: str, exclude: Collection[int], shape: Shape = ONE
    ) -> "PortsExhausted":
        """The error for a lack of such ports, with the reasons that the source knows."""


class Terms(NamedTuple):
    """The settings for a source.

    worker_id: xdist's, such as "gw0". lock_dir: the folder for lock files, None: the usual one.
    address: the part of the mode after the colon, or "".
    """

    worker_id: str
    lock_dir: str | os.PathLike[str] | None
    address: str


@cache
def modes() -> tuple[str, ...]:
    """The names of all sources."""
    with importing("find the modes"):
        import pkgutil

        found = tuple(one.name for one in pkgutil.iter_modules(__path__))
        if not found:
            raise ModuleNotFoundError(name=__name__)
    return found


def open_sources(mode: str, terms: Terms) -> dict[str, Source]:
    """The sources of a mode, one per category. Raises EphemportError if the mode cannot be used."""
    with importing(f"use mode {mode!r}"):
        import importlib

        module = importlib.import_module(f"{__name__}.{mode}")
    sources: dict[str, Source] = module.open_sources(terms)
    return sources

"""Where numbers come from: the operating system, a fixed range, or a portserver.

A source hands out holds. To add one, write a file beside these with a class of this shape and give
it a name in `MODES`.
"""

import os
from collections.abc import Collection, Sequence
from typing import Protocol

from ephemport._hold import Hold

MODES = ("ephemeral", "fixed", "portserver")


class Source(Protocol):
    """Where numbers come from."""

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers that this source can give, in ascending order."""

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        """Hold one number of the source's choice. Raises PortsExhausted, or OSError (EMFILE)."""

    def hold_number(self, port: int, protocol: str) -> Hold:
        """Hold this very number. Raises OSError (EADDRINUSE, EACCES) or PortUnavailable."""


def mode_named(mode: str | None = None) -> str:
    """The mode in force: `mode` if given, else the environment's EPHEMPORT_MODE, else "ephemeral".

    "portserver:ADDRESS" names the portserver as well. Raises ValueError for an unknown mode.
    """
    asked = mode if mode is not None else os.environ.get("EPHEMPORT_MODE") or "ephemeral"
    if not isinstance(asked, str):
        raise TypeError(f"mode must be a string, not {asked!r}")
    name, colon, _ = asked.partition(":")
    if name not in MODES or (colon and name != "portserver"):
        origin = " (from the environment's EPHEMPORT_MODE)" if mode is None else ""
        raise ValueError(f"unknown mode {asked!r}{origin}; known are {', '.join(MODES)}")
    return asked

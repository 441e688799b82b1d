"""Where numbers come from: the operating system, a fixed range, or a portserver.

A source hands out holds. To add one, write a file beside these with a class of this shape and give
it a name in `ephemport._mode.MODES` and in `ephemport.compat.allocator`.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from ephemport._hold import Hold


class Source(Protocol):
    """Where numbers come from."""

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers that this source can give, in ascending order."""

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        """Hold one number of the source's choice. Raises PortsExhausted, or OSError (EMFILE)."""

    def hold_number(self, port: int, protocol: str) -> Hold:
        """Hold this very number. Raises OSError (EADDRINUSE, EACCES) or PortUnavailable."""

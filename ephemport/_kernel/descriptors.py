"""Descriptors that this process keeps for long, and may find closed by others."""

import os
from contextlib import suppress


class Descriptor:
    """A descriptor that is closed only while it is what it was when this was made.

    Other code of this process may close descriptors that are not its own (os.closerange() in a
    library that daemonizes), and the kernel gives the number to whatever is opened next.

    number: the descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._what = _what(number)

    def is_open(self) -> bool:
        """Whether the number still means what was opened."""
        return self._what is not None and _what(self.number) == self._what

    def close(self) -> None:
        """Close it, unless it is somebody else's by now. May be called often."""
        if self.is_open():
            self._what = None
            with suppress(OSError):
                os.close(self.number)


def _what(number: int) -> tuple[int, int, str] | None:
    """What is open there: the file, and for those without one of their own what it is called."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    try:
        name = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        name = ""
    # Pidfds and seccomp listeners share one inode with all that are of no filesystem.
    return found.st_dev, found.st_ino, name if name.startswith("anon_inode:") else ""

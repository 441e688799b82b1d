"""Descriptors that this process keeps for long, and that other code may close meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Descriptor:
    """A descriptor that is closed only if it still means what it meant when this was made.

    Other code of this process may close descriptors that are not its own (os.closerange() in a
    library that daemonizes). The kernel then reuses the number for the next file that is opened.

    number: the descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._what = _what(number)

    def is_open(self) -> bool:
        """Whether the number still means what was opened."""
        return self._what is not None and _what(self.number) == self._what

    def close(self) -> None:
        """Close it, unless it now means another file. May be called often."""
        if self.is_open():
            self._what = None
            with suppress(OSError):
                os.close(self.number)


@contextmanager
def short_path(folder: str, name: str) -> Iterator[str]:
    """Yield a path of a Unix socket that fits into 108 bytes (sockaddr_un), for any folder."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _what(number: int) -> tuple[int, int, str] | None:
    """Return what is open there: the file, and the name where it has no file of its own."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    try:
        name = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        name = ""
    # Pidfds and seccomp listeners share one inode with all files that have no file system.
    return found.st_dev, found.st_ino, name if name.startswith("anon_inode:") else ""

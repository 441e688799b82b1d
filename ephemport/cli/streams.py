"""Standard output and standard error that may be closed, full, or read by nobody any more."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def fill_standard_streams() -> None:
    """Where 0, 1 or 2 is closed, a socket of ours would get that number: open the null device."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        # Python has none where it was closed, and print() then loses what it is given.
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def say(text: str) -> None:
    """Print a line for people on standard error; lost where nobody can be told."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"ephemport: {text}", file=sys.stderr, flush=True)


def unwritten() -> OSError | None:
    """Write what print() still keeps on standard output; the error where that cannot be done."""
    return _unwritten(sys.stdout)


def forget_unwritten() -> None:
    """Lose what cannot be written: the interpreter would complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and _unwritten(stream) is not None:
            with suppress(OSError):
                descriptor = os.open(os.devnull, os.O_WRONLY)
                os.dup2(descriptor, stream.fileno())
                os.close(descriptor)


def _unwritten(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        return error
    return None

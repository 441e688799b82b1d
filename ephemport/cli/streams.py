"""Standard output and standard error that may be closed, full, or read by nobody any more."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def fill_standard_streams() -> None:
    """Open the null device where descriptor 0, 1 or 2 is closed: else a socket would get it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        # Where it was closed, Python has no sys.stdout, and print() loses its text silently.
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def say(text: str) -> None:
    """Print a line for people on standard error; it is lost where standard error is closed."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"ephemport: {text}", file=sys.stderr, flush=True)


def unwritten() -> OSError | None:
    """Flush standard output; return the error if that fails, else None."""
    return _unwritten(sys.stdout)


def forget_unwritten() -> None:
    """Drop the text that cannot be written: else the interpreter complains when it ends."""
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

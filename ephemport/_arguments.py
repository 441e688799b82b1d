"""Checks of the arguments that callers pass: one function for each kind of argument.

Each one runs before anything is done. It raises TypeError for a value of the wrong type, ValueError
for a value that is out of bounds, and the message says what to write instead.
"""

import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import SupportsIndex, TypeVar

PORTS = 65536

# How many letters of a value a message shows.
_LONGEST = 200
# The kernel keeps pids in an int (pid_t).
_LARGEST_PID = 2**31 - 1

T = TypeVar("T")


def shown(value: object) -> str:
    """A value as messages show it: its repr, cut after 200 letters."""
    try:
        text = repr(value)
    except Exception:
        # repr() fails for an int of more than 4,300 digits (sys.set_int_max_str_digits).
        return f"<{type(value).__qualname__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} letters)"


def whole(value: object, must_be: str) -> int:
    """A plain int from an int or an object with `__index__()`. A bool is refused.

    `must_be` is how the message begins, such as "port must be an int".
    """
    if type(value) is int:
        return value
    as_int = getattr(type(value), "__index__", None)
    if as_int is None or isinstance(value, bool):
        raise TypeError(f"{must_be}, not {shown(value)}")
    number = as_int(value)
    if type(number) is not int:
        raise TypeError(f"{must_be}, not {shown(value)}: its __index__() returns {shown(number)}")
    return number


def checked_port(port: SupportsIndex) -> int:
    """`port`, an int or a Reservation, as a plain int from 1 to 65535."""
    plain = whole(port, "port must be an int or a Reservation")
    if not 0 < plain < PORTS:
        raise ValueError(f"{shown(plain)} is no port: ports are 1 to 65535")
    return plain


def port_or_any(value: object, argument: str) -> int:
    """A port as a plain int, or 0, which means any port."""
    port = whole(value, f"{argument} takes an int or an iterable of ints")
    if not 0 <= port < PORTS:
        raise ValueError(f"{argument}={shown(port)} is no port: ports are 1 to 65535 (0: any)")
    return port


def checked_count(count: SupportsIndex) -> int:
    """A count of ports as a plain int, 0 to 65535."""
    number = whole(count, "count must be an int")
    if number < 0:
        raise ValueError(f"count must not be negative, but is {shown(number)}")
    if number >= PORTS:
        raise ValueError(f"count is {shown(number)}, but there are only {PORTS - 1:,} ports")
    return number


def checked_pid(pid: object, must_be: str) -> int:
    """A pid as a plain int."""
    number = whole(pid, must_be)
    if not 0 < number <= _LARGEST_PID:
        raise ValueError(f"process must be the id of a process, but is {shown(number)}")
    return number


def seconds(value: object, argument: str) -> float:
    """A time in seconds, 0 or more, as a float. Infinity is allowed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number of seconds, not {shown(value)}")
    if not value >= 0:
        raise ValueError(f"{argument} must be 0 seconds or more, but is {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def text(value: object, must_be: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{must_be}, not {shown(value)}")
    return value


def checked_path(value: object, argument: str) -> str:
    """A path as a string, from a string or a Path."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a string or a Path, not {shown(value)}")
    if "\0" in name:
        raise ValueError(f"{argument} is no path: {shown(name)} contains a NUL")
    return name


def at_most(values: Iterable[T], most: int, argument: str) -> Iterator[T]:
    """The items of an iterable. More than `most` are refused: some iterables never end."""
    items = iter(values)
    yield from islice(items, most)
    for _ in items:
        raise ValueError(f"{argument} has more than {most:,} items")

"""What callers pass, checked before anything is done: one function for each kind of argument.

Each raises TypeError for what is of another kind and ValueError for what is out of bounds, and says
what to write instead.
"""

import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import SupportsIndex, TypeVar

PORTS = 65536

# Longer, nobody reads on.
_LONGEST = 200
# What pids are kept in (pid_t).
_LARGEST_PID = 2**31 - 1

T = TypeVar("T")


def shown(value: object) -> str:
    """A value as messages show it: its repr, cut where nobody would read on."""
    try:
        text = repr(value)
    except Exception:
        # Python writes no int of more than 4,300 digits (sys.set_int_max_str_digits).
        return f"<{type(value).__qualname__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} letters)"


def whole(value: object, must_be: str) -> int:
    """An int, or what stands for one by its `__index__()`, as a plain int. A bool is none.

    `must_be` begins the message, as in "port must be an int".
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
    number = whole(port, "port must be an int or a Reservation")
    if not 0 < number < PORTS:
        raise ValueError(f"{shown(number)} is no port: ports are 1 to 65535")
    return number


def port_or_any(value: object, argument: str) -> int:
    """A port, or 0, which means any."""
    number = whole(value, f"{argument} takes an int or an iterable of ints")
    if not 0 <= number < PORTS:
        raise ValueError(f"{argument}={shown(number)} is no port: ports are 1 to 65535 (0: any)")
    return number


def checked_count(count: SupportsIndex) -> int:
    """How many, as an int from 0 up."""
    number = whole(count, "count must be an int")
    if number < 0:
        raise ValueError(f"count must not be negative, and is {shown(number)}")
    if number >= PORTS:
        raise ValueError(f"count is {shown(number)}, and there are {PORTS - 1:,} ports")
    return number


def checked_pid(pid: object, must_be: str) -> int:
    """The id of a process."""
    number = whole(pid, must_be)
    if not 0 < number <= _LARGEST_PID:
        raise ValueError(f"process must be the id of a process, and is {shown(number)}")
    return number


def seconds(value: object, argument: str) -> float:
    """A time from 0 up, infinity among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number of seconds, not {shown(value)}")
    if not value >= 0:
        raise ValueError(f"{argument} must be a number of seconds from 0 up, and is {shown(value)}")
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
    """The path of a file or folder, a string or a Path, as a string."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a string or a Path, not {shown(value)}")
    if "\0" in name:
        raise ValueError(f"{argument} is no path: {shown(name)} contains a NUL")
    return name


def at_most(values: Iterable[T], most: int, argument: str) -> Iterator[T]:
    """The items of an iterable, of which some never end."""
    items = iter(values)
    yield from islice(items, most)
    for _ in items:
        raise ValueError(f"{argument} has more than {most:,} items")

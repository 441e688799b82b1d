"""What a failed test leaves as evidence: exceptions, their frames, and its output."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

if TYPE_CHECKING:
    from ephemport._reservation import Reservation

T = TypeVar("T")

# How common servers, in any language, report EADDRINUSE.
_IN_USE = re.compile(
    r"address already in use|EADDRINUSE|address in use|port \d+ is (?:already )?in use"
    r"|only one usage of each socket address|errno:? 98\b|BindException|already in use by",
    re.IGNORECASE,
)
# How such a line names the port: ('127.0.0.1', 9001), 127.0.0.1:9001, [::]:9001, port 9001.
_PORT = re.compile(
    r"(?:'[^']*', ?|(?:\d+\.\d+\.\d+\.\d+|\blocalhost|\]|::|\*|\s):|\bport[ =:]+)"
    r"(\d{2,5})\b(?![.\d])",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\b(\d{2,5})\b(?![.:\d])")
_ERROR_NUMBER = re.compile(r"errno[:= ]*-?\d+", re.IGNORECASE)
_PATH = re.compile(r"/[^\s'\"():,;]+")


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """`isinstance()` that runs no code of the value: the __class__ of a proxy may be a property."""
    return issubclass(type(value), kind)


def attributes_of(value: object) -> dict[str, object]:
    """Return the object's own attributes, and run no code of the object."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return own if type(own) is dict else {}


def lines_on_addresses_in_use(captured: str) -> list[str]:
    """Return the lines of a test's output that say that some address is in use."""
    return [line for line in captured.splitlines() if _IN_USE.search(line)]


def is_address_in_use(raised: BaseException) -> bool:
    """Whether the exception is the kernel's EADDRINUSE."""
    return isinstance(raised, OSError) and raised.errno == errno.EADDRINUSE


def chain_of(raised: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, its causes and contexts, and the members of groups."""
    waiting, seen = [raised], set()
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions


def frames_of(trace: TracebackType | None) -> Iterator[dict[str, Any]]:
    """Yield the local variables of each frame that an exception passed, the outermost first."""
    while trace is not None:
        yield trace.tb_frame.f_locals
        trace = trace.tb_next


def ports_in_text(lines: Iterable[str]) -> Iterator[int]:
    """Yield the ports in these lines that are written as part of an address."""
    for line in lines:
        for digits in _PORT.findall(line):
            yield from _port(int(digits))


def numbers_in_text(lines: Iterable[str]) -> Iterator[int]:
    """Yield every number in these lines that could be a port."""
    for line in lines:
        for digits in _NUMBER.findall(_ERROR_NUMBER.sub("", line)):
            yield from _port(int(digits))


def unix_sockets_in_text(lines: Iterable[str]) -> Iterator[bytes]:
    """Yield the paths in these lines at which there is a Unix socket."""
    for line in lines:
        for path in _PATH.findall(line):
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    yield os.fsencode(path)
            except OSError:
                continue


def ports_in_frames(chain: Iterable[BaseException]) -> Iterator[int]:
    """Yield what is named a port, or looks like an address, in the frames of an EADDRINUSE."""
    for raised in chain:
        if is_address_in_use(raised):
            for frame in reversed(list(frames_of(raised.__traceback__))):
                for name, value in frame.items():
                    yield from _ports_in_value(name, value)


def numbers_in_frames(
    chain: Iterable[BaseException], arguments: Mapping[str, object]
) -> Iterator[int]:
    """Yield every int in the test's arguments and in the frames that could be a port."""
    for names in (arguments, *(frame for one in chain for frame in frames_of(one.__traceback__))):
        for value in names.values():
            yield from _port(value)


def reservations_in_frames(
    chain: Iterable[BaseException], arguments: Mapping[str, object]
) -> "Iterator[Reservation]":
    """Yield the reservations that the test has, also the released ones."""
    if "ephemport._reservation" not in sys.modules:
        return
    from ephemport._reservation import Reservation, ReservationGroup

    for names in (arguments, *(frame for one in chain for frame in frames_of(one.__traceback__))):
        for name, value in names.items():
            parts: Iterable[object] = (value,)
            if type(value) in (list, tuple, ReservationGroup):
                parts = value
            elif type(value) is dict:
                parts = value.values()
            elif name == "self":
                parts = attributes_of(value).values()
            yield from (part for part in list(parts) if is_a(part, Reservation))


def _ports_in_value(name: str, value: object) -> Iterator[int]:
    if is_a(value, int) and "port" in name.lower():
        yield from _port(value)
    elif is_a(value, tuple) and len(value) in (2, 4) and is_a(value[0], str):
        yield from _port(value[1])
    elif name == "self":
        # Servers such as those of socketserver and http.server keep the address that they bind.
        for attribute in ("server_address", "address", "port", "_port"):
            yield from _ports_in_value("port", attributes_of(value).get(attribute))


def _port(value: object) -> Iterator[int]:
    if is_a(value, int) and not is_a(value, bool) and 0 < value < 65536:
        yield value

"""Which sockets are holds of ephemport's, told from the kernel alone, without a registry.

Three pieces of evidence, each of which can be missing:

1. What the socket is. A hold is bound and quiet, on the wildcard of both families (0.0.0.0 on a
   machine without IPv6) or on one of the addresses of a shadow. A UDP hold has the smallest
   receive buffer there is besides. sock_diag tells all of that, of everybody's sockets.
2. Its options, where its process may be traced (pidfd_getfd(2)): a TCP hold has SO_REUSEADDR and
   SO_REUSEPORT both on or both off.
3. The mark of its process (`ephemport._looking.mark`), where its memory map may be read.

With 1 and 3 and not against 2 it is ours. Without the mark, where one could be seen, it is not. Of
processes that may not be looked into only 1 is known, and the answer is "looks like": a stranger's
socket that is bound to [::] and waits to be used is the same to the kernel.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, StrEnum, auto
from functools import cache
from typing import NamedTuple

from ephemport._kernel.other_process import duplicate, socket_option
from ephemport._kernel.sockets import SocketRecord, State, smallest_receive_buffer
from ephemport._looking.mark import Mark, mark_of


class HoldKind(StrEnum):
    """How a port is held; UNKNOWN where the options of a full hold may not be read."""

    OPEN = "open"
    EXCLUSIVE = "exclusive"
    SHADOW = "shadow"
    UNKNOWN = "unknown"


_FULL = {(int(socket.AF_INET6), "::", False)}
_SHADOWS = {
    (int(socket.AF_INET6), "::1", True),
    (int(socket.AF_INET), "127.0.0.2", None),
    (int(socket.AF_INET), "127.0.0.3", None),
}


class Recognized(NamedTuple):
    """A socket that is, or looks like, a hold of ephemport's.

    `kind`: servers that set SO_REUSEADDR or SO_REUSEPORT can take over an open one. `certain` is
    False for "looks like". `mark` is its process's, where it may be read.
    """

    kind: HoldKind
    certain: bool
    mark: Mark | None


class Recognizer:
    """Recognises holds in one look at the machine, asking about each process once."""

    def __init__(self) -> None:
        self._marks: dict[int, Mark | None] = {}
        self._hidden: set[int] = set()

    def recognize(
        self, record: SocketRecord, openers: Sequence[tuple[int, int]]
    ) -> Recognized | None:
        """What `record` is, if it is a hold; `openers` are pairs of a pid and its descriptor."""
        place = _place_of_hold(record)
        if place is None:
            return None
        marks = [self._mark(pid) for pid, _ in openers]
        mark = next(filter(None, marks), None)
        if mark is None and any(pid not in self._hidden for pid, _ in openers):
            return None
        kind = HoldKind.SHADOW if place is _Place.SHADOW else _kind_by_options(record, openers)
        return None if kind is None else Recognized(kind, mark is not None, mark)

    def _mark(self, pid: int) -> Mark | None:
        if pid not in self._marks:
            self._marks[pid] = None
            try:
                self._marks[pid] = mark_of(pid)
            except PermissionError:
                self._hidden.add(pid)
            except LookupError:
                pass
        return self._marks[pid]


def is_udp_hold(record: SocketRecord) -> bool:
    """Whether a UDP socket is there to hold its number, which it says by its receive buffer."""
    return record.receive_buffer is not None and record.receive_buffer <= smallest_receive_buffer()


def reuse_options(pid: int, descriptor: int) -> tuple[bool, bool]:
    """SO_REUSEADDR and SO_REUSEPORT of a process's socket. Raises OSError: not allowed, or gone."""
    with duplicate(pid, descriptor) as copy:
        return (
            socket_option(copy, socket.SO_REUSEADDR) != 0,
            socket_option(copy, socket.SO_REUSEPORT) != 0,
        )


def _kind_by_options(record: SocketRecord, openers: Sequence[tuple[int, int]]) -> HoldKind | None:
    """The kind of what stands where a full hold stands; None for what is no hold."""
    if record.protocol == "udp":
        return HoldKind.EXCLUSIVE  # open for the moment of a hand-over only
    for pid, descriptor in openers:
        with suppress(OSError):
            options = reuse_options(pid, descriptor)
            return {(True, True): HoldKind.OPEN, (False, False): HoldKind.EXCLUSIVE}.get(options)
    return HoldKind.UNKNOWN


class _Place(Enum):
    """Where a hold stands."""

    FULL = auto()
    SHADOW = auto()


def _place_of_hold(record: SocketRecord) -> _Place | None:
    """Where a socket stands that is as quiet as a hold; None for what cannot be one."""
    if record.protocol == "udp":
        if record.state != State.CLOSE or not is_udp_hold(record):
            return None
    elif record.state != State.BOUND_INACTIVE:
        return None
    place = (record.family, record.address, record.v6only)
    if place in _SHADOWS:
        return _Place.SHADOW
    full = place in _FULL if _has_ipv6() else record.address == "0.0.0.0"
    return _Place.FULL if full else None


@cache
def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True

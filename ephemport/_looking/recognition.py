"""Which sockets are holds of ephemport. The kernel alone shows it, without a registry.

There are three pieces of evidence, and each can be missing:

1. What the socket is. A hold is bound and does not listen, on the wildcard of both families
   (0.0.0.0 on a machine without IPv6) or on one of the addresses of a shadow. A UDP hold also has
   the smallest possible receive buffer. sock_diag shows all of that, for all users' sockets.
2. Its options, where its process may be traced (pidfd_getfd(2)): a TCP hold has SO_REUSEADDR and
   SO_REUSEPORT both on or both off.
3. The mark of its process (`ephemport._looking.mark`), where its memory map may be read.

A socket with 1 and 3 is ours, unless 2 contradicts. A socket whose process visibly has no mark is
not ours. For a process that may not be looked into only 1 is known, and the answer is "looks like":
to the kernel, a stranger's unused socket that is bound to [::] is the same.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, StrEnum, auto
from functools import cache
from typing import NamedTuple, Self

from ephemport._kernel.other_process import open_process, socket_options
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
    """A socket that is, or looks like, a hold of ephemport.

    `kind`: servers that set SO_REUSEADDR or SO_REUSEPORT can take over an open one. `certain` is
    False for "looks like". `mark` is the mark of its process, where it may be read.
    """

    kind: HoldKind
    certain: bool
    mark: Mark | None


class Recognizer:
    """Recognises holds in one look at the machine. It asks about each process once."""

    def __init__(self) -> None:
        self._marks: dict[int, Mark | None] = {}
        self._hidden: set[int] = set()
        # Opened once a process: one may have 10,000 holds.
        self._pidfds: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()

    def recognize(
        self, record: SocketRecord, openers: Sequence[tuple[int, int]]
    ) -> Recognized | None:
        """Return what `record` is if it is a hold; `openers` are pairs of pid and descriptor."""
        place = _place_of_hold(record)
        if place is None:
            return None
        marks = [self._mark(pid) for pid, _ in openers]
        mark = next(filter(None, marks), None)
        if mark is None and any(pid not in self._hidden for pid, _ in openers):
            return None
        kind = HoldKind.SHADOW if place is _Place.SHADOW else self._kind(record, openers)
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

    def _kind(self, record: SocketRecord, openers: Sequence[tuple[int, int]]) -> HoldKind | None:
        """Return the kind of a socket that is where a full hold is; None if it is no hold."""
        if record.protocol == "udp":
            return HoldKind.EXCLUSIVE  # It is open only during a hand-over.
        for pid, descriptor in openers:
            with suppress(OSError):
                if pid not in self._pidfds:
                    self._pidfds[pid] = open_process(pid)
                address, port = socket_options(
                    self._pidfds[pid], descriptor, socket.SO_REUSEADDR, socket.SO_REUSEPORT
                )
                if bool(address) != bool(port):
                    return None
                return HoldKind.OPEN if address else HoldKind.EXCLUSIVE
        return HoldKind.UNKNOWN


def is_udp_hold(record: SocketRecord) -> bool:
    """Whether a UDP socket only holds its port; the size of its receive buffer shows it."""
    return record.receive_buffer is not None and record.receive_buffer <= smallest_receive_buffer()


class _Place(Enum):
    """Where a hold is bound."""

    FULL = auto()
    SHADOW = auto()


def _place_of_hold(record: SocketRecord) -> _Place | None:
    """Return where a socket is bound that can be a hold; None if it cannot be one."""
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

"""Which sockets are holds of ephemport's, told from the kernel alone, without a registry.

Three pieces of evidence, each of which can be missing:

1. What the socket is. A hold is bound and quiet, on the wildcard of both families (0.0.0.0 on a
   machine without IPv6) or on one of the addresses of a shadow. A UDP hold has the smallest
   receive buffer there is besides. sock_diag tells all of that, of everybody's sockets.
2. Its options, where its process may be traced (pidfd_getfd(2)): a TCP hold has SO_REUSEADDR and
   SO_REUSEPORT both on or both off.
3. The mark of its process (`ephemport._mark`), where its memory map may be read.

With 1 and 3 and not against 2 it is ours. Without the mark, where one could be seen, it is not. Of
processes that may not be looked into only 1 is known, and the answer is "looks like": a stranger's
socket that is bound to [::] and waits to be used is the same to the kernel.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from ephemport._hold import smallest_receive_buffer
from ephemport._kernel.sockets import SocketRecord, State
from ephemport._mark import Mark, mark_of

OPEN, EXCLUSIVE, SHADOW = "open", "exclusive", "shadow"

_PIDFD_GETFD = 438  # the same everywhere; Linux 5.6

_FULL = {(int(socket.AF_INET6), "::", False)}
_SHADOWS = {
    (int(socket.AF_INET6), "::1", True),
    (int(socket.AF_INET), "127.0.0.2", None),
    (int(socket.AF_INET), "127.0.0.3", None),
}


class Recognized(NamedTuple):
    """A socket that is, or looks like, a hold of ephemport's.

    `kind` is "open" (servers that set SO_REUSEADDR or SO_REUSEPORT can take over), "exclusive" or
    "shadow"; None for a full hold whose options may not be read. `certain` is False for "looks
    like". `mark` is its process's, where it may be read.
    """

    kind: str | None
    certain: bool
    mark: Mark | None


class Recognizer:
    """Recognises holds in one look at the machine, asking about each process once. For `with`."""

    def __init__(self) -> None:
        self._marks: dict[int, Mark | None] = {}
        self._hidden: set[int] = set()
        self._pidfds: dict[int, int] = {}

    def __enter__(self) -> "Recognizer":
        return self

    def __exit__(self, *_: object) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()

    def recognize(
        self, record: SocketRecord, openers: Sequence[tuple[int, int]]
    ) -> Recognized | None:
        """What `record` is, if it is a hold; `openers` are pairs of a pid and its descriptor."""
        kind = _likely_kind(record)
        if kind is None:
            return None
        marks = [self._mark(pid) for pid, _ in openers]
        mark = next(filter(None, marks), None)
        if mark is None and any(pid not in self._hidden for pid, _ in openers):
            return None
        if kind != SHADOW:
            kind = self._kind_by_options(record, openers)
            if kind == "":
                return None
        return Recognized(kind, mark is not None, mark)

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

    def _kind_by_options(
        self, record: SocketRecord, openers: Sequence[tuple[int, int]]
    ) -> str | None:
        """The kind of a full hold; None where it cannot be told, "" for what is no hold."""
        if record.protocol == "udp":
            return EXCLUSIVE  # open for the moment of a hand-over only
        for pid, descriptor in openers:
            with suppress(OSError):
                if pid not in self._pidfds:
                    self._pidfds[pid] = os.pidfd_open(pid)
                options = reuse_options(self._pidfds[pid], descriptor)
                return {(True, True): OPEN, (False, False): EXCLUSIVE}.get(options, "")
        return None


def is_udp_hold(record: SocketRecord) -> bool:
    """Whether a UDP socket is there to hold its number, which it says by its receive buffer."""
    return record.receive_buffer is not None and record.receive_buffer <= smallest_receive_buffer()


def reuse_options(pidfd: int, descriptor: int) -> tuple[bool, bool]:
    """SO_REUSEADDR and SO_REUSEPORT of another process's socket. Raises OSError: not allowed."""
    import ctypes

    from ephemport._assist._libc import libc, syscall

    value, size = ctypes.c_int(), ctypes.c_uint(ctypes.sizeof(ctypes.c_int))
    answers = []
    copy = syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            # No socket object: it would set O_NONBLOCK on both wherever there is a default timeout.
            if libc().getsockopt(
                copy, socket.SOL_SOCKET, option, ctypes.byref(value), ctypes.byref(size)
            ):
                raise OSError(ctypes.get_errno(), "getsockopt()")
            answers.append(value.value != 0)
    finally:
        os.close(copy)
    return answers[0], answers[1]


def _likely_kind(record: SocketRecord) -> str | None:
    if record.protocol == "udp":
        if record.state != State.CLOSE or not is_udp_hold(record):
            return None
    elif record.state != State.BOUND_INACTIVE:
        return None
    place = (record.family, record.address, record.v6only)
    if place in _SHADOWS:
        return SHADOW
    full = place in _FULL if _has_ipv6() else record.address == "0.0.0.0"
    return OPEN if full else None


@cache
def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True

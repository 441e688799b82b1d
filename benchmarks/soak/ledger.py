"""What the soak knows for certain: its promises, who may have a port, what a process has open."""

import fcntl
import mmap
import os
import socket
import stat
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntEnum, StrEnum, auto
from typing import NamedTuple


class Promise(StrEnum):
    """What must never be broken."""

    LOST = "lost"
    """A server could not start on a port that is held for it, or the hold itself is gone."""
    DOUBLE = "double"
    """Two have one port."""
    LEFT_BEHIND = "left behind"
    """Something stays that nobody answers for: a socket, a lock, a process."""
    NOT_FLAT = "not flat"
    """Descriptors or memory grow."""
    UNEXPECTED = "unexpected"
    """Anything else that should not have happened."""


class Count(IntEnum):
    """What is counted, by worker: the columns of a `Tally`."""

    EVENTS = 0
    EVENT = auto()
    """Not a count: the position of the present event in `events.EVENTS`."""
    STARTS = auto()
    RESTARTS = auto()
    CRASHES = auto()
    ASKED = auto()
    RESERVED = auto()
    RELEASED = auto()
    GROUPS = auto()
    NO_ROW = auto()
    REFUSED = auto()
    FORKS = auto()
    HOLDERS_KILLED = auto()
    SHARED = auto()
    SIGNALS = auto()
    SIGNALS_RAISED = auto()
    SHADOW_TAKEN = auto()
    AUDITS = auto()


class Tally:
    """Counts of several processes in memory that all of them share. Each writes its own row."""

    def __init__(self, workers: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * workers * len(Count))).cast("Q")
        self._workers = range(workers)

    def row(self, worker: int) -> memoryview:
        """The row of one worker, indexed by `Count`."""
        return self._cells[worker * len(Count) : (worker + 1) * len(Count)]

    def total(self, count: Count) -> int:
        return sum(self.row(worker)[count] for worker in self._workers)


class Claims:
    """Which process has which port: record locks on a file without a name (memfd_create(2)).

    The kernel gives a lock to one process at a time, a forked child has none of its parent's, and
    a process that dies loses them before its sockets: just what is promised of a port (fcntl(2)).
    """

    # struct flock: type, whence, start, length, pid
    _FLOCK = struct.Struct("hhqqi4x")

    def __init__(self) -> None:
        self._file = os.memfd_create("soak")

    def take(self, protocol: str, port: int) -> int | None:
        """Claim a port for this process; the pid of the one that has it already, else None."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(protocol, port))
        except BlockingIOError:
            return self.owner(protocol, port) or 0
        return None

    def give_back(self, protocol: str, port: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(protocol, port))

    def owner(self, protocol: str, port: int) -> int | None:
        """The pid of another process that has claimed the port."""
        asked = self._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _place(protocol, port), 1, 0)
        kind, _, _, _, pid = self._FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid


def _place(protocol: str, port: int) -> int:
    return port if protocol == "tcp" else port + 65536


class OwnSocket(NamedTuple):
    """A socket of this process that is bound to a port."""

    protocol: str
    port: int
    inode: int

    def __str__(self) -> str:
        return f"{self.protocol} {self.port} (inode {self.inode})"


def own_sockets() -> list[OwnSocket]:
    """The sockets of this process that are bound to a port, as the kernel says."""
    return [found for found in map(_own_socket, _own_descriptors()) if found is not None]


def count_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # the listing's own


def private_memory() -> int:
    """The resident memory of this process that is its own, in bytes (proc_pid_statm(5))."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * mmap.PAGESIZE


def quarters(samples: Sequence[int]) -> tuple[int, int] | None:
    """The medians of the first and of the last quarter; None where there are too few."""
    length = len(samples) // 4
    return (_median(samples[:length]), _median(samples[-length:])) if length else None


def _median(samples: Iterable[int]) -> int:
    ordered = sorted(samples)
    return ordered[len(ordered) // 2]


def _own_descriptors() -> Iterable[int]:
    return map(int, os.listdir("/proc/self/fd"))


def _own_socket(descriptor: int) -> OwnSocket | None:
    with suppress(OSError):  # the listing's own is closed by now
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode):
            return None
        sock = socket.socket(fileno=descriptor)
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and (port := sock.getsockname()[1]):
                protocol = "tcp" if sock.type == socket.SOCK_STREAM else "udp"
                return OwnSocket(protocol, port, status.st_ino)
        finally:
            sock.detach()
    return None

"""The documented allocator: numbers by category and worker, each of them held."""

import atexit
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

from ephemport._arguments import shown, whole
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.mode import mode_named
from ephemport._holding.ranges import CATEGORIES, category_named, current_worker, worker_range
from ephemport._holding.request import Request
from ephemport._holding.sources import Source, Terms, open_sources
from ephemport._kernel.fork import lock
from ephemport._kernel.port_range import ports_in_use
from ephemport._reservation import Reservation, reserve_from, reserve_many_from


class PortAllocator(EndsWithBlock):
    """Hands out numbers by category and holds every one of them until it is released.

    mode: "ephemeral" (the default), "fixed" (the documented ranges) or "portserver"; None takes
        the pytest run's, else the environment's EPHEMPORT_MODE.
    worker_id: xdist's, such as "gw0"; None takes this process's.
    lock_dir: mode "fixed": the folder of the lock files, else EPHEMPORT_LOCK_DIR, else a folder of
        this user's below the temporary folder.

    As a context manager it releases, at the end, what was allocated through it. Raises ValueError
    for an unknown mode, EphemportError when the mode cannot be had. Thread-safe.
    """

    def __init__(
        self,
        mode: str | None = None,
        worker_id: str | None = None,
        lock_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        asked = mode_named(mode)
        self.mode, _, address = asked.partition(":")
        self.worker_id = current_worker(worker_id)
        self._sources = open_sources(self.mode, Terms(self.worker_id, lock_dir, address))
        self._reservations: dict[int, Reservation] = {}

    def allocate_port(
        self, category: str = "testing", preferred_port: SupportsIndex | None = None
    ) -> int:
        """A held number of `category`: `preferred_port` if it can be had, otherwise another.

        Raises PortsExhausted, and ValueError for an unknown category or an impossible number.
        """
        # 0 behind it: any other number will do.
        wanted = None if preferred_port is None else (preferred_port, 0)
        return self.allocate(category, Request(port=wanted)).port

    def allocate(self, category: str, request: Request) -> Reservation:
        """The reservation of a number of `category`, kept until it is released here."""
        source = self.source(category)
        reservation = reserve_from(source, request)
        self._keep([reservation])
        return reservation

    def _keep(self, reservations: Iterable[Reservation]) -> None:
        with lock:
            self._reservations.update((kept.port, kept) for kept in reservations)

    def release_port(self, port: SupportsIndex) -> None:
        """Let `port` go; of no effect for a number that is not allocated."""
        key = whole(port, "port must be an int or a Reservation")
        with lock:
            reservation = self._reservations.pop(key, None)
            if reservation is not None:
                reservation.release()

    def allocate_port_range(self, count: int, category: str = "testing") -> list[int]:
        """`count` held numbers, all or none (not necessarily in a row)."""
        group = reserve_many_from(self.source(category), Request(), count)
        self._keep(group)
        return group.ports

    @contextmanager
    def port_context(
        self, category: str = "testing", preferred_port: SupportsIndex | None = None
    ) -> Iterator[int]:
        """A held number for the length of a `with` block."""
        port = self.allocate_port(category, preferred_port)
        try:
            yield port
        finally:
            self.release_port(port)

    @contextmanager
    def port_range_context(self, count: int, category: str = "testing") -> Iterator[list[int]]:
        """`count` held numbers for the length of a `with` block."""
        ports = self.allocate_port_range(count, category)
        try:
            yield ports
        finally:
            for port in ports:
                self.release_port(port)

    def reservation(self, port: SupportsIndex) -> Reservation:
        """The reservation behind an allocated number. KeyError for one that is not allocated."""
        key = whole(port, "port must be an int or a Reservation")
        with lock:
            found = self._reservations.get(key)
        if found is None or found.released:
            raise KeyError(f"port {shown(key)} is not allocated; it was released, or never was")
        return found

    @property
    def allocated_ports(self) -> list[int]:
        """The numbers that are allocated now, in ascending order."""
        with lock:
            return sorted(p for p, kept in self._reservations.items() if not kept.released)

    def get_worker_info(self) -> dict[str, Any]:
        """What this worker has: `worker_id`, `mode`, `allocated_ports`, and two tables by category.

        `port_ranges` are the ranges that the numbers of this mode come from, `documented_ranges`
        the documented ones for this worker. Each has `start`, `end` (the last number),
        `description` and `available_ports` (how many of them nobody uses).
        """
        used = ports_in_use()
        documented = {name: worker_range(name, self.worker_id) for name in CATEGORIES}
        return {
            "worker_id": self.worker_id,
            "mode": self.mode,
            "allocated_ports": self.allocated_ports,
            "port_ranges": {
                name: _range_info(name, self.source(name).ports, used) for name in CATEGORIES
            },
            "documented_ranges": {
                name: _range_info(name, numbers, used) for name, numbers in documented.items()
            },
        }

    def source(self, category: str) -> Source:
        """Where the numbers of `category` come from. ValueError for an unknown category."""
        category_named(category)
        return self._sources[category]

    def nested(self) -> "NestedAllocator":
        """An allocator with these very numbers whose `release_all()` releases only its own."""
        return NestedAllocator(self)

    def release_all(self) -> None:
        """Let go whatever was allocated through this allocator and is still held."""
        with lock:
            for reservation in self._reservations.values():
                reservation.release()
            self._reservations.clear()

    def _end(self) -> None:
        self.release_all()

    def __repr__(self) -> str:
        return (
            f"<PortAllocator mode={self.mode!r} worker_id={self.worker_id!r} "
            f"allocated={self.allocated_ports}>"
        )


class NestedAllocator(PortAllocator):
    """An allocator with another's numbers, which releases only what was allocated through it."""

    def __init__(self, outer: PortAllocator) -> None:
        self.mode = outer.mode
        self.worker_id = outer.worker_id
        self._sources = outer._sources
        self._reservations = outer._reservations
        self._own: list[Reservation] = []

    @property
    def own_reservations(self) -> Sequence[Reservation]:
        """The reservations made through this very allocator."""
        return self._own

    def _keep(self, reservations: Iterable[Reservation]) -> None:
        reservations = list(reservations)
        super()._keep(reservations)
        self._own.extend(reservations)

    def release_all(self) -> None:
        """Let go whatever was allocated through this very allocator and is still held."""
        with lock:
            for reservation in self._own:
                reservation.release()
                # The number may be somebody else's by now.
                if self._reservations.get(reservation.port) is reservation:
                    del self._reservations[reservation.port]
            self._own.clear()


_default: PortAllocator | None = None


def get_port_allocator() -> PortAllocator:
    """The one allocator of this process, made at the first call."""
    global _default
    with lock:
        if _default is None:
            _default = PortAllocator()
            # The documented automatic cleanup: numbers never given back are no mistake here.
            atexit.register(_default.release_all)
        return _default


@contextmanager
def default_allocator() -> Iterator[None]:
    """In the block `get_port_allocator()` has an allocator of its own.

    It is made at the first call, and releases everything at the end of the block.
    """
    global _default
    with lock:
        before, _default = _default, None
    try:
        yield
    finally:
        with lock:
            forget_default_allocator()
            _default = before


def forget_default_allocator() -> None:
    """Release what the process's allocator has; the next `get_port_allocator()` makes another."""
    global _default
    with lock:
        if _default is not None:
            _default.release_all()
            atexit.unregister(_default.release_all)
            _default = None


def allocate_port(category: str = "testing", preferred_port: SupportsIndex | None = None) -> int:
    """`PortAllocator.allocate_port()` of the process's allocator."""
    return get_port_allocator().allocate_port(category, preferred_port)


def release_port(port: SupportsIndex) -> None:
    """`PortAllocator.release_port()` of the process's allocator."""
    get_port_allocator().release_port(port)


def allocate_port_range(count: int, category: str = "testing") -> list[int]:
    """`PortAllocator.allocate_port_range()` of the process's allocator."""
    return get_port_allocator().allocate_port_range(count, category)


@contextmanager
def port_context(
    category: str = "testing", preferred_port: SupportsIndex | None = None
) -> Iterator[int]:
    """`PortAllocator.port_context()` of the process's allocator."""
    with get_port_allocator().port_context(category, preferred_port) as port:
        yield port


@contextmanager
def port_range_context(count: int, category: str = "testing") -> Iterator[list[int]]:
    """`PortAllocator.port_range_context()` of the process's allocator."""
    with get_port_allocator().port_range_context(count, category) as ports:
        yield ports


def _range_info(category: str, numbers: Sequence[int], used: Collection[int]) -> dict[str, Any]:
    return {
        "start": numbers[0],
        "end": numbers[-1],
        "description": category_named(category).description,
        "available_ports": len(numbers) - sum(1 for port in used if _has(numbers, port)),
    }


def _has(numbers: Sequence[int], port: int) -> bool:
    position = bisect_left(numbers, port)
    return position < len(numbers) and numbers[position] == port

"""The documented allocator: ports by category and worker, each of them held."""

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
from ephemport._serving.inside import offer


class PortAllocator(EndsWithBlock):
    """Allocates ports by category and holds each of them until it is released. Thread-safe.

    As a context manager it releases all its ports at the end of the block.

    Args:
        mode: "ephemeral" (the default), "fixed" (the documented ranges) or "portserver".
            "portserver:ADDRESS" names the portserver. None takes the mode of the pytest run, then
            the environment's EPHEMPORT_MODE.
        worker_id: The id of an xdist worker, such as "gw0". None takes this process's.
        lock_dir: The folder of the lock files, for mode "fixed": a string or a Path. None takes
            EPHEMPORT_LOCK_DIR, then a folder of this user below the temporary folder.

    Raises:
        ValueError: The mode is unknown, or `lock_dir` is no path.
        TypeError: An argument is of the wrong type.
        EphemportError: The mode cannot be used: the lock folder is refused, or there is no
            portserver.
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
        """Reserve a port of a category.

        Args:
            category: "servers", "clients", "federation" or "testing".
            preferred_port: The port to reserve if it is free, an int. If it is taken, or None,
                another port is reserved.

        Returns:
            The port, held until it is released.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            TypeError: `preferred_port` is not an int.
            ValueError: The category is unknown, or `preferred_port` is no port.
        """
        return self.allocate(category, _preferring(preferred_port)).port

    def allocate(self, category: str, request: Request) -> Reservation:
        """Reserve a port of a category, with the arguments of `reserve()`.

        Args:
            category: "servers", "clients", "federation" or "testing".
            request: The arguments of `reserve()`, checked.

        Returns:
            The reservation. This allocator keeps it until the port is released.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            PortUnavailable: The ports that the request names are taken.
            ValueError: The category is unknown.
        """
        source = self.source(category)
        reservation = reserve_from(source, request)
        self._keep([reservation])
        return reservation

    def _keep(self, reservations: Iterable[Reservation]) -> None:
        kept = list(reservations)
        with lock:
            self._reservations.update((one.port, one) for one in kept)
        offer(one._hold for one in kept)

    def release_port(self, port: SupportsIndex) -> None:
        """Let a port go. A port that is not allocated is left alone.

        Args:
            port: An int, or a Reservation.

        Raises:
            TypeError: `port` is neither.
        """
        key = whole(port, "port must be an int or a Reservation")
        with lock:
            reservation = self._reservations.get(key)
            if reservation is not None:
                self._let_go([reservation])

    def _let_go(self, reservations: Iterable[Reservation]) -> None:
        """Release first, then forget: after an exception of a signal handler, call it again."""
        with lock:
            self._release_and_forget(reservations)

    def _release_and_forget(self, reservations: Iterable[Reservation]) -> None:
        for reservation in reservations:
            reservation.release()
            # This allocator may have reserved the same port again.
            if self._reservations.get(reservation.port) is reservation:
                del self._reservations[reservation.port]

    @contextmanager
    def _kept_in_block(self, reservations: Sequence[Reservation]) -> Iterator[None]:
        # Twice: a signal handler may raise in the first.
        try:
            try:
                self._keep(reservations)
                yield
            finally:
                self._let_go(reservations)
        finally:
            self._let_go(reservations)

    def allocate_port_range(self, count: int, category: str = "testing") -> list[int]:
        """Reserve several ports of a category: all of them or, after an error, none.

        Args:
            count: How many ports. They are not always in a row.
            category: "servers", "clients", "federation" or "testing".

        Returns:
            The ports, in the order in which they were reserved. They are held until they are
            released.

        Raises:
            PortsExhausted: Not enough ports of the category, or file descriptors, are left.
            TypeError: `count` is not an int.
            ValueError: The category is unknown, or `count` is negative or above 65535.
        """
        group = reserve_many_from(self.source(category), Request(), count)
        self._keep(group)
        return group.ports

    @contextmanager
    def port_context(
        self, category: str = "testing", preferred_port: SupportsIndex | None = None
    ) -> Iterator[int]:
        """Reserve a port for the length of a `with` block.

        Args:
            category: "servers", "clients", "federation" or "testing".
            preferred_port: As for `allocate_port()`.

        Yields:
            The port. The end of the block releases it.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            TypeError: `preferred_port` is not an int.
            ValueError: The category is unknown, or `preferred_port` is no port.
        """
        # Only this frame has the reservation until the block that releases it has begun.
        reservation = reserve_from(self.source(category), _preferring(preferred_port))
        with self._kept_in_block([reservation]):
            yield reservation.port

    @contextmanager
    def port_range_context(self, count: int, category: str = "testing") -> Iterator[list[int]]:
        """Reserve several ports for the length of a `with` block.

        Args:
            count: How many ports. They are not always in a row.
            category: "servers", "clients", "federation" or "testing".

        Yields:
            The ports. The end of the block releases them.

        Raises:
            PortsExhausted: Not enough ports of the category, or file descriptors, are left.
            TypeError: `count` is not an int.
            ValueError: The category is unknown, or `count` is negative or above 65535.
        """
        group = reserve_many_from(self.source(category), Request(), count)
        with self._kept_in_block(group):
            yield group.ports

    def reservation(self, port: SupportsIndex) -> Reservation:
        """The reservation of an allocated port.

        Args:
            port: An int, or a Reservation.

        Returns:
            The reservation.

        Raises:
            KeyError: The port is not allocated.
            TypeError: `port` is neither an int nor a Reservation.
        """
        key = whole(port, "port must be an int or a Reservation")
        with lock:
            found = self._reservations.get(key)
        if found is None or found.released:
            raise KeyError(f"port {shown(key)} is not allocated; it was released, or never was")
        return found

    @property
    def allocated_ports(self) -> list[int]:
        """The ports that are allocated now, in ascending order."""
        with lock:
            return sorted(p for p, kept in self._reservations.items() if not kept.released)

    def get_worker_info(self) -> dict[str, Any]:
        """The state of this worker.

        Returns:
            A dict with `worker_id`, `mode`, `allocated_ports`, and two tables by category:
            `port_ranges` has the ranges that the ports of this mode come from,
            `documented_ranges` has the documented ranges of this worker. Each range has `start`,
            `end` (its last port), `description` and `available_ports` (how many of its ports are
            not in use).

        Raises:
            OSError: The kernel does not report which ports are in use.
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
                name: _range_info(name, ports, used) for name, ports in documented.items()
            },
        }

    def source(self, category: str) -> Source:
        """The source of a category: where its ports come from.

        Args:
            category: "servers", "clients", "federation" or "testing".

        Returns:
            The source.

        Raises:
            ValueError: The category is unknown.
        """
        category_named(category)
        return self._sources[category]

    def nested(self) -> "NestedAllocator":
        """An allocator with the ports of this one. Its `release_all()` releases only its own.

        Returns:
            The allocator.
        """
        return NestedAllocator(self)

    def release_all(self) -> None:
        """Release all ports that were allocated through this allocator."""
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
    """An allocator with the ports of another one. It releases only what it allocated itself."""

    def __init__(self, outer: PortAllocator) -> None:
        self.mode = outer.mode
        self.worker_id = outer.worker_id
        self._sources = outer._sources
        self._reservations = outer._reservations
        self._own: list[Reservation] = []

    @property
    def own_reservations(self) -> Sequence[Reservation]:
        """The reservations that this allocator made itself."""
        return self._own

    def _keep(self, reservations: Iterable[Reservation]) -> None:
        reservations = list(reservations)
        super()._keep(reservations)
        self._own.extend(reservations)

    def release_all(self) -> None:
        """Release all ports that this allocator allocated itself."""
        with lock:
            self._let_go(self._own)
            self._own.clear()


_default: PortAllocator | None = None


def get_port_allocator() -> PortAllocator:
    """The one allocator of this process. The first call makes it.

    Returns:
        The allocator. It releases its ports when the process ends.

    Raises:
        ValueError: The mode in the environment's EPHEMPORT_MODE is unknown.
        EphemportError: The mode cannot be used: the lock folder is refused, or there is no
            portserver.
    """
    global _default
    with lock:
        if _default is None:
            _default = PortAllocator()
            # The documented automatic cleanup: here it is no mistake to keep a port to the end.
            atexit.register(_default.release_all)
        return _default


@contextmanager
def default_allocator() -> Iterator[None]:
    """In the block `get_port_allocator()` returns an allocator of the block's own.

    The first call makes it. The end of the block releases all its ports.
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
    """Release the ports of the process's allocator. `get_port_allocator()` then makes another."""
    global _default
    with lock:
        if _default is not None:
            _default.release_all()
            atexit.unregister(_default.release_all)
            _default = None


def allocate_port(category: str = "testing", preferred_port: SupportsIndex | None = None) -> int:
    """Reserve a port of a category, with the process's allocator.

    Args:
        category: "servers", "clients", "federation" or "testing".
        preferred_port: The port to reserve if it is free, an int. If it is taken, or None, another
            port is reserved.

    Returns:
        The port, held until `release_port()` or the end of the process.

    Raises:
        PortsExhausted: No port of the category, or no file descriptor, is left.
        TypeError: `preferred_port` is not an int.
        ValueError: The category is unknown, or `preferred_port` is no port.
    """
    return get_port_allocator().allocate_port(category, preferred_port)


def release_port(port: SupportsIndex) -> None:
    """Let a port of the process's allocator go. A port that is not allocated is left alone.

    Args:
        port: An int, or a Reservation.

    Raises:
        TypeError: `port` is neither.
    """
    get_port_allocator().release_port(port)


def allocate_port_range(count: int, category: str = "testing") -> list[int]:
    """Reserve several ports, with the process's allocator: all or, after an error, none.

    Args:
        count: How many ports. They are not always in a row.
        category: "servers", "clients", "federation" or "testing".

    Returns:
        The ports, held until they are released or the process ends.

    Raises:
        PortsExhausted: Not enough ports of the category, or file descriptors, are left.
        TypeError: `count` is not an int.
        ValueError: The category is unknown, or `count` is negative or above 65535.
    """
    return get_port_allocator().allocate_port_range(count, category)


@contextmanager
def port_context(
    category: str = "testing", preferred_port: SupportsIndex | None = None
) -> Iterator[int]:
    """Reserve a port for the length of a `with` block, with the process's allocator.

    Args:
        category: "servers", "clients", "federation" or "testing".
        preferred_port: As for `allocate_port()`.

    Yields:
        The port. The end of the block releases it.

    Raises:
        PortsExhausted: No port of the category, or no file descriptor, is left.
        TypeError: `preferred_port` is not an int.
        ValueError: The category is unknown, or `preferred_port` is no port.
    """
    with get_port_allocator().port_context(category, preferred_port) as port:
        yield port


@contextmanager
def port_range_context(count: int, category: str = "testing") -> Iterator[list[int]]:
    """Reserve several ports for the length of a `with` block, with the process's allocator.

    Args:
        count: How many ports. They are not always in a row.
        category: "servers", "clients", "federation" or "testing".

    Yields:
        The ports. The end of the block releases them.

    Raises:
        PortsExhausted: Not enough ports of the category, or file descriptors, are left.
        TypeError: `count` is not an int.
        ValueError: The category is unknown, or `count` is negative or above 65535.
    """
    with get_port_allocator().port_range_context(count, category) as ports:
        yield ports


def _preferring(port: SupportsIndex | None) -> Request:
    # The 0 after it means any port.
    return Request(port=None if port is None else (port, 0))


def _range_info(category: str, ports: Sequence[int], used: Collection[int]) -> dict[str, Any]:
    return {
        "start": ports[0],
        "end": ports[-1],
        "description": category_named(category).description,
        "available_ports": len(ports) - sum(1 for port in used if _has(ports, port)),
    }


def _has(ports: Sequence[int], port: int) -> bool:
    position = bisect_left(ports, port)
    return position < len(ports) and ports[position] == port

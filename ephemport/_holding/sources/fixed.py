"""Ports from a fixed range, the documented way: a lock file for each port, and a hold as well."""

import errno
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import chain

from ephemport._arguments import PORTS
from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._holding.acquire import hold_port
from ephemport._holding.hold import Hold
from ephemport._holding.lack import not_enough
from ephemport._holding.lock_folder import LockFolder, Standing
from ephemport._holding.owners import listed
from ephemport._holding.ranges import CATEGORIES, worker_range
from ephemport._holding.shape import ONE, Shape
from ephemport._holding.sources import Source, Terms
from ephemport._holding.span import Span
from ephemport._kernel.fork import lock
from ephemport._kernel.port_range import ports_in_use
from ephemport._kernel.protocols import PARTS
from ephemport._looking.sight import in_use_in_words


def open_sources(terms: Terms) -> dict[str, Source]:
    """The documented ranges of this worker, one per category, locked in one folder."""
    locks = LockFolder(terms.lock_dir)
    return {
        name: Fixed(worker_range(name, terms.worker_id), locks, terms.worker_id)
        for name in CATEGORIES
    }


class Fixed:
    """The ports of one fixed range, in order, beginning after the last one that was held."""

    def __init__(
        self, ports: range, locks: LockFolder, worker_id: str, span: Span | None = None
    ) -> None:
        self._whole = ports
        self._span = span
        self._ports = ports if span is None else tuple(port for port in ports if port in span)
        self._locks = locks
        self._worker_id = worker_id
        self._next = 0

    @property
    def ports(self) -> Sequence[int]:
        return self._ports

    @property
    def barred(self) -> Collection[int]:
        return frozenset(range(PORTS)).difference(self._ports)

    def within(self, span: Span) -> "Fixed":
        return Fixed(self._whole, self._locks, self._worker_id, span)

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        with lock:
            held = self._hold_next(protocol, exclude)
        if held is None:
            raise self.exhausted(protocol, exclude)
        return held

    def _hold_next(self, protocol: str, exclude: Collection[int]) -> Hold | None:
        for port in self._in_turn():
            if port not in exclude:
                try:
                    held = self.hold_port(port, protocol)
                except PortUnavailable:
                    continue
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue
                self._next = (self._ports.index(port) + 1) % len(self._ports)
                return held
        return None

    def hold_port(self, port: int, protocol: str) -> Hold:
        if self._span is not None and port not in self._span:
            raise self._span.refusal(port, protocol)
        if port not in self._ports:
            raise PortUnavailable(
                f"port {port} is outside the range {listed(self._whole)} of worker "
                f"{self._worker_id!r}: mode 'fixed' gives no other ports; ask for one of these, "
                "or use mode 'ephemeral'",
                port=port,
                protocol=protocol,
            )
        # A child forked in between would keep the file locked.
        with lock:
            try:
                lease = self._locks.lock(port, self._worker_id)
            except PortUnavailable as error:
                error.protocol = protocol
                raise
            try:
                held = hold_port(port, protocol)
                held.lease = lease
            except BaseException:
                lease.close()
                raise
            return held

    def _in_turn(self) -> Iterator[int]:
        # No generator: it would end in a finalizer, where what a signal handler raises is lost.
        return chain(self._ports[self._next :], self._ports[: self._next])

    def exhausted(
        self, protocol: str, exclude: Collection[int], shape: Shape = ONE
    ) -> PortsExhausted:
        size = len(self._ports)
        asked = (
            f"{not_enough(protocol, shape)} in the fixed range {listed(self._whole)} of "
            f"worker {self._worker_id!r}"
        )
        if self._span is not None:
            asked += f" and {self._span}"
            if not self._ports:
                return PortsExhausted(
                    f"{asked}: no port is in both. Use mode 'ephemeral'", protocol=protocol
                )
        extent = self._ports[-1] - self._ports[0]
        if shape.offsets is not None and max(shape.offsets) - min(shape.offsets) > extent:
            asked += f", which has only {size} ports. Use mode 'ephemeral'"
            return PortsExhausted(asked, protocol=protocol)
        if shape.length > size:
            asked += f", which has only {size} ports. Ask for fewer, or use mode 'ephemeral'"
            return PortsExhausted(asked, protocol=protocol)
        return PortsExhausted(
            f"{asked}; of its {size} ports {self._taken(protocol, exclude)}. Release ports, or use "
            "mode 'ephemeral', which has no limit for each worker",
            protocol=protocol,
        )

    def _taken(self, protocol: str, exclude: Collection[int]) -> str:
        """How the ports of the range are taken now, each counted once, as a clause."""
        wanted = [port for port in self._ports if port not in exclude]
        standing = {port: self._locks.standing(port) for port in wanted}
        locked = sum(one is Standing.LOCKED for one in standing.values())
        files = [f"{port}.lock" for port, one in standing.items() if one is Standing.NOT_OURS]
        used: set[int] = set()
        with suppress(OSError):
            for part in PARTS[protocol]:
                used |= ports_in_use(part)
        unlocked = sum(port in used for port, one in standing.items() if one is Standing.NOTHING)
        taken = [f"{locked} are locked by ephemport (see {self._locks.path})"]
        if unlocked:
            number = in_use_in_words(unlocked, "udp" if protocol == "udp" else "tcp")
            taken.append(f"{number} are used by sockets without a lock there")
        if files:
            more = ", ..." if len(files) > 5 else ""
            taken.append(
                f"{len(files)} are left out because of files that ephemport did not write "
                f"({', '.join(files[:5])}{more})"
            )
        if len(wanted) < len(self._ports):
            taken.append(f"{len(self._ports) - len(wanted)} are excluded")
        return ", ".join(taken)

"""Numbers from a fixed range, the documented way: one lock file a number, and a hold as well."""

import errno
from collections.abc import Collection, Iterator

from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._holding.hold import Hold, hold_number
from ephemport._holding.lock_folder import LockFolder
from ephemport._holding.ranges import CATEGORIES, worker_range
from ephemport._holding.sources import Source, Terms
from ephemport._kernel.fork import lock


def open_sources(terms: Terms) -> dict[str, Source]:
    """The documented ranges of this worker, one of each category, locked in one folder."""
    locks = LockFolder(terms.lock_dir)
    return {
        name: Fixed(worker_range(name, terms.worker_id), locks, terms.worker_id)
        for name in CATEGORIES
    }


class Fixed:
    """The numbers of one fixed range, in order, starting behind the last one given."""

    def __init__(self, numbers: range, locks: LockFolder, worker_id: str) -> None:
        self._numbers = numbers
        self._locks = locks
        self._worker_id = worker_id
        self._next = 0

    @property
    def numbers(self) -> range:
        return self._numbers

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        with lock:
            for port in self._in_turn():
                if port not in exclude:
                    try:
                        held = self.hold_number(port, protocol)
                    except PortUnavailable:
                        continue
                    except OSError as error:
                        if error.errno != errno.EADDRINUSE:
                            raise
                        continue
                    self._next = (self._numbers.index(port) + 1) % len(self._numbers)
                    return held
        raise PortsExhausted(self._explain(protocol))

    def hold_number(self, port: int, protocol: str) -> Hold:
        if port not in self._numbers:
            raise PortUnavailable(
                f"port {port} is outside the range {self._span} of worker {self._worker_id!r}: "
                "mode 'fixed' gives no other numbers; ask for one of these, or use mode 'ephemeral'"
            )
        lease = self._locks.try_lock(port, self._worker_id)
        if lease is None:
            raise PortUnavailable(
                f"port {port} is locked ({self._locks.owner(port) or 'just now'}) in "
                f"{self._locks.path}; it is free again when that process releases it or ends"
            )
        try:
            held = hold_number(port, protocol)
        except BaseException:
            lease.close()
            raise
        held.lease = lease
        return held

    @property
    def _span(self) -> str:
        return f"{self._numbers.start}-{self._numbers.stop - 1}"

    def _in_turn(self) -> Iterator[int]:
        yield from self._numbers[self._next :]
        yield from self._numbers[: self._next]

    def _explain(self, protocol: str) -> str:
        locked = sum(1 for port in self._numbers if self._locks.owner(port) is not None)
        return (
            f"no port left: all {len(self._numbers)} {protocol} numbers of the fixed range "
            f"{self._span} (worker {self._worker_id!r}) are taken, {locked} of them locked by "
            f"ephemport (see {self._locks.path}), the others by strangers' sockets. Release "
            "numbers, or use mode 'ephemeral', which has no ranges to run out of"
        )

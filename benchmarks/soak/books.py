"""What one worker of the soak has, and whether that is all it has."""

import errno
import gc
import random
import socket
import sys
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.ledger import (
    Claims,
    Count,
    OwnSocket,
    Promise,
    count_descriptors,
    own_sockets,
    private_memory,
    quarters,
)
from benchmarks.soak.servers import start_server
from ephemport import EphemportError, Reservation, ReservationGroup

# What reserve() is asked for; the plain call is what most programs make.
TERMS: tuple[dict[str, Any], ...] = (
    *({},) * 6,
    {"host": "::1"},
    {"exclude": range(40000, 40010)},
    {"protocol": "udp"},
    {"protocol": "both"},
    {"handoff": "shadow"},
    {"handoff": "shadow", "protocol": "udp"},
    {"handoff": "fd"},
    {"handoff": "fd", "protocol": "both"},
)
# The medians of the first and the last quarter of a worker's life may be so far apart: in objects
# of Python, which are counted, and in bytes. What was freed stays with the process in arenas of
# 1 MiB, and a list of all closed connections, which some errors need, fills two for a moment.
BLOCKS_ALLOWANCE = 1000
MEMORY_ALLOWANCE = 4 * 1024 * 1024
# Below so many samples a quarter is the start of the interpreter, not its life.
_FEWEST_SAMPLES = 16
# Seconds between two samples: each collects garbage first, which takes some milliseconds.
_BETWEEN_SAMPLES = 0.2
# By then it is clear that something is broken, and ports that leaked begin to run out.
_MOST_FAULTS = 10

# Seconds that the thread which serves share()'s tokens may take to close what it used.
_PATIENCE_WITH_THREADS = 5.0

Place = tuple[str, int]
"""A protocol and a port."""


class Enough(Exception):
    """A worker cannot go on, or need not."""


@dataclass(eq=False)
class Kept:
    """What one call of `reserve()` or `reserve_many()` gave, and the servers that run on it."""

    whole: Reservation | ReservationGroup
    servers: dict[Place, socket.socket] = field(default_factory=dict)

    @property
    def reservations(self) -> list[Reservation]:
        return [self.whole] if isinstance(self.whole, Reservation) else list(self.whole)

    @property
    def places(self) -> list[Place]:
        """What it holds: both protocols of a port count."""
        return [place for one in self.reservations for place in places(one)]

    def close_servers(self) -> None:
        while self.servers:
            self.servers.popitem()[1].close()


class Books:
    """The books of one worker. What breaks a promise is reported with the event it was seen in.

    most: how many reservations and groups it keeps at a time. report: takes each broken promise.
    """

    def __init__(
        self,
        *,
        claims: Claims,
        row: memoryview,
        most: int,
        chance: random.Random,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.claims = claims
        self.chance = chance
        self.most = most
        self.kept: list[Kept] = []
        self._row = row
        self._report = report
        self._faults = 0
        self._leaked: set[int] = set()
        # Arrays, so that the samples themselves are no objects.
        self._blocks, self._memory = array("q"), array("q")
        self._next_sample = 0.0
        self._at_first = self._others = count_descriptors()

    def count(self, what: Count, times: int = 1) -> None:
        self._row[what] += times

    def next_event(self, position: int) -> None:
        self._row[Count.EVENTS] += 1
        self._row[Count.EVENT] = position

    def broken(self, promise: Promise, what: str) -> None:
        """Report a broken promise. Raises Enough once that makes too many."""
        self._report(
            {
                "promise": promise,
                "what": what,
                "event": self._row[Count.EVENTS],
                "kind": self._row[Count.EVENT],
            }
        )
        self._faults += 1
        if self._faults >= _MOST_FAULTS:
            raise Enough

    def surprised(self, error: Exception) -> None:
        """Report an error that nothing explains, with where it was raised."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}"
        self.broken(Promise.UNEXPECTED, f"{type(error).__name__}: {error} ({where})")

    def make_room(self) -> None:
        """Release something if no more can be kept."""
        while len(self.kept) >= self.most:
            self.drop(self.chance.choice(self.kept))

    def choose(self, fits: Callable[[Kept, Reservation], bool]) -> tuple[Kept, Reservation] | None:
        """One of the reservations that fit, and what it is kept in; None when none does."""
        fitting = [
            (kept, one) for kept in self.kept for one in kept.reservations if fits(kept, one)
        ]
        return self.chance.choice(fitting) if fitting else None

    def keep(self, whole: Reservation | ReservationGroup) -> Kept:
        """Write down what was reserved, and make sure that nobody else has it."""
        kept = Kept(whole)
        mine = {place for other in self.kept for place in other.places}
        for protocol, port in kept.places:
            owner = self.claims.take(protocol, port)
            if (protocol, port) in mine:
                self.broken(Promise.DOUBLE, f"{protocol} {port} was given to this process twice")
            if owner is not None:
                self.broken(
                    Promise.DOUBLE,
                    f"{protocol} {port} was given to this process and is pid {owner}'s",
                )
        self.kept.append(kept)
        self.count(Count.RESERVED, len(kept.reservations))
        return kept

    def give_up(self, kept: Kept) -> None:
        """Take what is kept out of the books: from now on another may have its ports."""
        self.kept.remove(kept)
        self.count(Count.RELEASED, len(kept.reservations))
        for protocol, port in kept.places:
            self.claims.give_back(protocol, port)

    def drop(self, kept: Kept) -> None:
        """Release what is kept, before or after its servers have ended."""
        self.give_up(kept)
        if self.chance.random() < 0.5:
            kept.close_servers()
        kept.whole.release()
        kept.close_servers()

    def start(self, kept: Kept, reservation: Reservation) -> None:
        """Start a server on a held port; one that runs there is ended first."""
        place = places(reservation)[0]
        running = kept.servers.pop(place, None)
        if running is not None:
            running.close()
            self.count(Count.RESTARTS)
        self.count(Count.STARTS)
        try:
            kept.servers[place] = start_server(reservation, self.chance)
        except (OSError, EphemportError) as error:
            self.not_started(reservation, error)

    def not_started(self, reservation: Reservation, error: object) -> None:
        """A server could not start: lost, unless the port was a stranger's by the documents."""
        if (
            reservation.handoff == "shadow"
            and reservation.protocol == "tcp"
            and getattr(error, "errno", None) == errno.EADDRINUSE
        ):
            # A shadow leaves its port to IPv4 bind(0), which is what neighbours do.
            self.count(Count.SHADOW_TAKEN)
        else:
            self.broken(Promise.LOST, f"no server could start on {reservation!r}: {error}")

    def sockets_of(self, kept: Kept) -> list[OwnSocket]:
        """The sockets that are bound to the ports of what is kept."""
        wanted = set(kept.places)
        return [one for one in own_sockets() if (one.protocol, one.port) in wanted]

    def look(self) -> None:
        """The quick audit: nothing is open that is not in the books."""
        if count_descriptors() != self._accounted_for():
            self.audit()

    def audit(self) -> None:
        """Compare every socket and the count of descriptors of this process with the books."""
        self.count(Count.AUDITS)
        self._sample()
        found = [one for one in own_sockets() if one.inode not in self._leaked]
        left = Counter(self._open())
        for one in found:
            place = (one.protocol, one.port)
            if left[place]:
                left[place] -= 1
            else:
                self._leaked.add(one.inode)
                self.broken(Promise.LEFT_BEHIND, f"{one} is open, and in nobody's books")
        for protocol, port in left.elements():
            self.broken(Promise.LOST, f"what held {protocol} {port} is gone, and not released")
        expected = self._accounted_for() - left.total()
        if not _come_to(expected):
            surplus = count_descriptors() - expected
            self._others += surplus
            self.broken(
                Promise.NOT_FLAT,
                f"{expected + surplus} descriptors are open and {expected} are accounted for",
            )

    def close(self) -> dict[str, Any]:
        """Release everything, look for the last time, and tell how flat it was."""
        with suppress(Enough):
            while self.kept:
                self.drop(self.kept[-1])
            self.audit()
        return {
            "descriptors": [self._at_first, count_descriptors()],
            "blocks": self._flat("objects", self._blocks, BLOCKS_ALLOWANCE),
            "memory": self._flat("bytes of memory", self._memory, MEMORY_ALLOWANCE),
        }

    def _sample(self) -> None:
        if time.monotonic() >= self._next_sample:
            gc.collect()
            self._blocks.append(sys.getallocatedblocks())
            self._memory.append(private_memory())
            self._next_sample = time.monotonic() + _BETWEEN_SAMPLES

    def _flat(self, what: str, samples: "array[int]", allowed: int) -> list[int] | None:
        """The medians of the first and the last quarter; that they differ too much is reported."""
        if len(samples) < _FEWEST_SAMPLES or (medians := quarters(samples)) is None:
            return None
        first, last = medians
        if last - first > allowed:
            with suppress(Enough):
                self.broken(
                    Promise.NOT_FLAT,
                    f"{first:,} {what} became {last:,} (medians of the first and the last quarter; "
                    f"allowed are {allowed:,} more)",
                )
        return [first, last]

    def _accounted_for(self) -> int:
        return self._others + len(self._leaked) + len(list(self._open()))

    def _open(self) -> Iterator[Place]:
        for kept in self.kept:
            yield from kept.places
            yield from kept.servers


def _come_to(descriptors: int) -> bool:
    """Whether so many are open, or will be in a moment: the thread that shares has its own."""
    until = time.monotonic() + _PATIENCE_WITH_THREADS
    while count_descriptors() != descriptors:
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def places(reservation: Reservation) -> list[Place]:
    """The protocols and the port that a reservation holds."""
    protocols = ("tcp", "udp") if reservation.protocol == "both" else (reservation.protocol,)
    return [(protocol, reservation.port) for protocol in protocols]

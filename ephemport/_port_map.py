"""`port_map[9001]`: the held number that stands for a number somebody once wrote down.

A suite with hard-coded ports keeps its meaning when each of its numbers is replaced by another one
everywhere, and that is what the map is for. So a stand-in must suit every server that 9001 suited,
and the numbers' neighbourhood must stay as it was:

- The hold is a shadow that is opened as well: on [::1] (without IPv6 on 127.0.0.2), with the
  take-over's options on. It lets in servers that set SO_REUSEADDR or SO_REUSEPORT on any address,
  and servers that set neither on IPv4.
- What such a hold leaves open is an IPv4 `bind(0)`, so the stand-ins lie outside the ephemeral
  port range, where the kernel hands out nothing. Other holds conflict with it, shadow or not.
- Numbers keep their distances (`port_map[9002] == port_map[9001] + 1`) as long as nobody is in the
  way: there is code that computes one port from another. Each worker of a run has a lane.

Where no number lies outside the range, or the mode has numbers of its own, it is a plain take-over.
"""

import atexit
import os
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import SupportsIndex

from ephemport._arguments import PORTS, checked_port
from ephemport._kernel.fork import lock
from ephemport._kernel.port_range import ephemeral_range, ports_in_use
from ephemport._kernel.processes import descendants
from ephemport._looking.listeners import listeners
from ephemport._reservation import Reservation, reserve_from

PREFIX = "EPHEMPORT_PORT_"
# Whose numbers the variables are. A worker inherits its controller's, and must not use them.
OWNER = "EPHEMPORT_PORTS_OF"

# 49152 and up: nobody's by IANA's word (RFC 6335). Below are the well-known services' numbers.
_PRIVATE = range(49152, 65436)  # the last 100: room for port + 1 and its like
_ENOUGH = 500
# What a suite's numbers are likely to be, seen from the first of them.
_AROUND = range(-50, 200)

# How far programs count from a port of theirs for the next one.
_FAR = 20
_DIGITS = re.compile(r"(?<!\d)\d{4,5}(?!\d)")


class PortMap(Mapping[int, int]):
    """A lazy mapping from the numbers that were written down to held numbers of this process.

    Each is reserved when it is first asked for and is the same for everyone in the process until
    the process ends. A child started with `environ()`'s variables has the same numbers, and so
    has a forked one; the parent holds them. Thread-safe. As a mapping it contains the numbers
    that were asked for. Raises TypeError or ValueError for a key that is no port.
    """

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._reservations: list[Reservation] = []
        self._lane: tuple[range, int] | None = None

    def __getitem__(self, port: SupportsIndex) -> int:
        key = checked_port(port)
        with lock:
            number = self._ports.get(key)
            if number is None:
                number = _inherited(key)
                if number is None:
                    number = self._reserve(key)
                self._ports[key] = number
            return number

    def environ(self, *ports: SupportsIndex) -> dict[str, str]:
        """The numbers as environment variables, for a subprocess: EPHEMPORT_PORT_9001=43211, ...

        Those of `ports` and all that were asked for before. A process with these variables gets
        the same numbers from its own `port_map`, without holding them.
        """
        for port in ports:
            self[port]
        with lock:
            told = {f"{PREFIX}{key}": str(number) for key, number in self._ports.items()}
        return {**told, OWNER: _worker() or "master"} if told else {}

    def as_written(self, value: object) -> str | None:
        """A text or number with the keys in place of their stand-ins; None if it has none.

        Parametrized tests are named by it: `http://127.0.0.1:9001` is the same in every worker.
        """
        with lock:
            written = {str(number): str(key) for key, number in self._ports.items()}
        if isinstance(value, bytes):
            text = value.decode("ascii", "backslashreplace")
        elif isinstance(value, str):
            text = str.__str__(value)  # a member of an enumeration, too
        elif isinstance(value, int) and 0 < value < PORTS:
            text = str(int(value))
        else:
            return None
        shown = _DIGITS.sub(lambda match: written.get(match[0], match[0]), text)
        return shown if shown != text else None

    def release(self) -> None:
        """Let all numbers go and forget them."""
        with lock:
            for reservation in self._reservations:
                reservation.release()
            self._reservations.clear()
            self._ports.clear()

    def _reserve(self, key: int) -> int:
        # The layer above, for the mode in force: it knows the sources, and is not needed before.
        from ephemport._allocator import PortAllocator
        from ephemport._holding.request import Request

        allocator = PortAllocator()
        request = Request()
        lane = self._lane_around(key) if allocator.mode == "ephemeral" else None
        if lane is not None:
            numbers, shift = lane
            wanted = numbers[(key + shift) % len(numbers)]
            if self._is_counted_from(key) and _is_ours(wanted):
                # BASE + 1 was computed, and its server is up already.
                return wanted
            others = random.sample(numbers, min(50, len(numbers)))
            request = Request(port=(wanted, *others, 0), handoff="shadow")
        reservation = reserve_from(allocator.source("testing"), request)
        if reservation.handoff == "shadow":
            reservation._hold.open()
        self._reservations.append(reservation)
        return reservation.port

    def _is_counted_from(self, key: int) -> bool:
        return any(key - _FAR <= other <= key + _FAR for other in self._ports)

    def _lane_around(self, key: int) -> tuple[range, int] | None:
        """Numbers outside the ephemeral range, and how far this worker's are shifted in them."""
        if self._lane is None:
            assigned = ephemeral_range()
            above = range(max(_PRIVATE.start, assigned.stop), _PRIVATE.stop)
            below = range(20000, min(assigned.start, _PRIVATE.stop))
            numbers = above if len(above) >= _ENOUGH else below
            if len(numbers) < _ENOUGH:
                return None
            self._lane = (numbers, _free_shift(numbers, key))
        return self._lane

    def __iter__(self) -> Iterator[int]:
        with lock:
            return iter(list(self._ports))

    def __len__(self) -> int:
        return len(self._ports)

    def __contains__(self, port: object) -> bool:
        return port in self._ports

    def __repr__(self) -> str:
        return f"<port_map {self._ports}>"


def _worker() -> str | None:
    return os.environ.get("PYTEST_XDIST_WORKER")


def _inherited(key: int) -> int | None:
    text = os.environ.get(f"{PREFIX}{key}")
    if text is None:
        return None
    worker, owner = _worker(), os.environ.get(OWNER)
    if worker is not None and owner is not None and owner != worker:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError(f"the environment's {PREFIX}{key}={text!r} is no port")
    return int(text)


def _is_ours(number: int) -> bool:
    """Whether this process, or a child, has a server on the number already."""
    try:
        if not (found := listeners(number)):
            return False
    except OSError:
        return False
    own = {os.getpid(), *descendants(os.getpid())}
    return any(listener.pid in own for listener in found)


def _free_shift(numbers: range, key: int) -> int:
    """A shift with which nobody is in the way of `key` and its neighbours."""
    try:
        taken = ports_in_use()
    except OSError:  # a sandbox without netlink
        taken = set()
    width = len(numbers)
    shifts = [_shift(width), *(random.randrange(width) for _ in range(30))]

    def in_the_way(shift: int) -> int:
        first = (key + shift + _AROUND.start) % width
        # A lane that runs over the end begins anew at the other, and is torn there.
        if first + len(_AROUND) > width:
            return width
        return sum(numbers[place] in taken for place in range(first, first + len(_AROUND)))

    return min(shifts, key=in_the_way)


def _shift(width: int) -> int:
    """Where this process's lane begins: at random, but the workers of one run far apart."""
    run, worker = os.environ.get("PYTEST_XDIST_TESTRUNUID"), _worker() or ""
    digits = "".join(filter(str.isdecimal, worker))
    if run is None or not digits:
        return random.randrange(width)
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)
    return (zlib.crc32(run.encode()) + int(digits) * (width // max(count, 1))) % width


port_map = PortMap()
atexit.register(port_map.release)

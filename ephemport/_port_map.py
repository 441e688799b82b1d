"""`port_map[9001]`: the held port that stands for a hard-coded port.

A suite with hard-coded ports keeps its meaning if each port is replaced by another one everywhere.
The map does that. So a stand-in must suit every server that 9001 suited, and the ports around it
must stay around it:

- The hold is a shadow that is opened as well: on [::1] (without IPv6 on 127.0.0.2), with the
  options of the take-over on. It lets in servers that set SO_REUSEADDR or SO_REUSEPORT on any
  address, and servers that set neither on IPv4.
- Such a hold does not keep the port from an IPv4 `bind(0)`. So the stand-ins lie outside the
  ephemeral port range, as with `outside_ephemeral=True`: there the kernel assigns no ports. Other
  holds conflict with it, shadow or not.
- Ports keep their distances (`port_map[9002] == port_map[9001] + 1`) as long as those ports are
  free: some code computes one port from another. Each worker of a run has its own lane.

If no port outside the range is left, or the mode has ports of its own, the hold is a plain
take-over.
"""

import atexit
import os
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import SupportsIndex
from weakref import WeakValueDictionary

from ephemport._arguments import PORTS, checked_port
from ephemport._errors import EphemportError, PortsExhausted
from ephemport._holding.hold import Hold
from ephemport._holding.request import Request
from ephemport._holding.sources import Source
from ephemport._holding.sources.ephemeral import EPHEMERAL
from ephemport._isolating.movers import Mover, movers
from ephemport._kernel.fork import lock
from ephemport._kernel.port_range import ports_in_use, reserved_ports, unassigned_ranges
from ephemport._kernel.processes import descendants
from ephemport._looking.listeners import listeners
from ephemport._reservation import Reservation, reserve_from
from ephemport._serving.inside import offer
from ephemport._workers import became_worker, starter_of_pool

PREFIX = "EPHEMPORT_PORT_"
# The worker whose ports the variables have. A worker inherits its controller's variables, but must
# not use those ports.
OWNER = "EPHEMPORT_PORTS_OF"

# Below are the ports of well-known servers. The last 100 are left for port + 1 and the like.
_LOWEST, _HIGHEST = 20000, 65435
_ENOUGH = 500
# Where the other ports of a suite most likely are, seen from its first one.
_AROUND = range(-50, 200)

# How far from one of its ports a program computes the next one.
_FAR = 20
_DIGITS = re.compile(r"(?<!\d)\d{4,5}(?!\d)")


_maps: "WeakValueDictionary[int, PortMap]" = WeakValueDictionary()


class PortMap(Mapping[int, int]):
    """A lazy mapping from hard-coded ports to held ports of this process. Thread-safe.

    `port_map[9001]` reserves a port at its first use and returns the same port in the whole process
    until the process ends. As a mapping it has the ports that were used so far as keys.

    A child process has the same ports if it is started with the variables of `environ()`, or if a
    test forks it (os.fork(), multiprocessing.Process, pytest-forked); the parent holds them. The
    processes of a pool, and children that are forked when no test runs, are workers: what they
    look up is their own. A value that was looked up before the fork is copied into every child.

    Raises:
        TypeError: A key is neither an int nor a Reservation.
        ValueError: A key is no port, or an EPHEMPORT_PORT_... variable has no port.
        PortsExhausted: No port, or no file descriptor, is left for a new key.
    """

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._reservations: list[Reservation] = []
        self._lane: tuple[range, int] | None = None
        # The ports that came with the environment: another process holds them.
        self._shared: set[int] = set()
        # In a worker that was forked: what the map had before, which values made at import have.
        self._of_parent: dict[int, int] = {}
        self._reservations_of_parent: list[Reservation] = []
        self._lane_of_parent: tuple[range, int] | None = None
        _maps[id(self)] = self

    def __getitem__(self, port: SupportsIndex) -> int:
        key = checked_port(port)
        with lock:
            held = self._ports.get(key)
            if held is None or (held in self._shared and starter_of_pool() is not None):
                held = self._ports[key] = self._look_up(key)
            return held

    def environ(self, *ports: SupportsIndex) -> dict[str, str]:
        """The ports as environment variables for a subprocess: EPHEMPORT_PORT_9001=43211, ...

        A process with these variables gets the same ports from its own `port_map`. It does not
        hold them.

        Args:
            *ports: Hard-coded ports to include, ints. All that were used before are included too.

        Returns:
            The variables by name; none if no port was used.

        Raises:
            TypeError: One of `ports` is neither an int nor a Reservation.
            ValueError: One of `ports` is no port.
            PortsExhausted: No port, or no file descriptor, is left for a new key.
        """
        for port in ports:
            self[port]
        with lock:
            variables = {f"{PREFIX}{key}": str(held) for key, held in self._ports.items()}
        return {**variables, OWNER: f"{_worker() or 'master'}/{os.getpid()}"} if variables else {}

    def as_written(self, value: object) -> str | None:
        """A value with the hard-coded ports in place of their stand-ins.

        The ids of parametrized tests use it: `http://127.0.0.1:9001` is the same in every worker.

        Args:
            value: A string, bytes or an int. Anything else has no stand-in.

        Returns:
            The value as a string with the hard-coded ports. None if it has no stand-in.
        """
        with lock:
            known = (*self._of_parent.items(), *self._ports.items())
            written = {str(held): str(key) for key, held in known}
        if isinstance(value, bytes):
            text = value.decode("ascii", "backslashreplace")
        elif isinstance(value, str):
            text = str.__str__(value)  # also for a member of an enumeration
        elif isinstance(value, int) and 0 < value < PORTS:
            text = str(int(value))
        else:
            return None
        shown = _DIGITS.sub(lambda match: written.get(match[0], match[0]), text)
        return shown if shown != text else None

    def release(self) -> None:
        """Let all ports go and forget them."""
        with lock:
            for reservation in self._reservations:
                reservation.release()
            self._reservations.clear()
            self._ports.clear()
            self._shared.clear()

    def _look_up(self, key: int) -> int:
        held = _inherited(key)
        if held is not None:
            self._shared.add(held)
            return held
        held = self._reserve(key)
        if starter_of_pool() is not None and _exported(key) is not None:
            # For the programs that this worker starts.
            os.environ[f"{PREFIX}{key}"] = str(held)
        return held

    def _begin_as_worker(self) -> None:
        """In a worker that was just forked: forget the ports, and export others where they were."""
        exported = [key for key, held in self._ports.items() if _exported(key) == str(held)]
        self._of_parent.update(self._ports)
        self._reservations_of_parent += self._reservations
        self._lane_of_parent = self._lane
        self._ports = {}
        self._reservations = []
        self._lane = None
        for key in exported:
            if self._of_parent[key] not in self._shared:
                del os.environ[f"{PREFIX}{key}"]
                os.environ.update(self.environ(key))

    def _hold_in_new_network(self) -> None:
        """After isolate(): the same ports, those of the parent too, so that copies agree."""
        with lock:
            before, self._reservations = self._reservations, []
            self._lane = self._lane_of_parent or self._lane
            self._ports = {**self._of_parent, **self._ports}
            ports = {port for port in self._ports.values() if port not in self._shared}
            for port in ports:
                # If it cannot be held (no descriptor is left), it is free here all the same.
                with suppress(EphemportError):
                    self._keep(reserve_from(EPHEMERAL, Request(port=port, handoff="shadow")))
            for reservation in before:
                reservation.release()

    def _keep(self, reservation: Reservation) -> None:
        if reservation.handoff == "shadow":
            reservation._hold.open()
        self._reservations.append(reservation)
        offer([reservation._hold])

    def _reserve(self, key: int) -> int:
        # The layer above knows the sources of the mode. It is imported when a port is needed.
        from ephemport._allocator import PortAllocator

        allocator = PortAllocator()
        source = allocator.source("testing")
        lane = self._lane_around(key) if allocator.mode == "ephemeral" else None
        reservation = None
        if lane is not None:
            ports, shift = lane
            wanted = ports[(key + shift) % len(ports)]
            if self._is_counted_from(key) and _is_ours(wanted):
                # The program computed BASE + 1 itself, and that server is up already.
                return wanted
            reservation = _in_lane(source, ports, wanted)
        if reservation is None:
            reservation = reserve_from(source, Request())
        self._keep(reservation)
        return reservation.port

    def _is_counted_from(self, key: int) -> bool:
        return any(key - _FAR <= other <= key + _FAR for other in self._ports)

    def _lane_around(self, key: int) -> tuple[range, int] | None:
        """The ports outside the ephemeral range, and how far this worker's are shifted in them."""
        if self._lane is None:
            lanes = (
                range(max(ports.start, _LOWEST), min(ports.stop, _HIGHEST + 1))
                for ports in unassigned_ranges()
            )
            ports = next((ports for ports in lanes if len(ports) >= _ENOUGH), None)
            if ports is None:
                return None
            self._lane = (ports, _free_shift(ports, key))
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


def _in_lane(source: Source, ports: range, wanted: int) -> Reservation | None:
    """Reserve `wanted`, or else any of `ports`. None: no port of them is left."""
    request = Request(port=(wanted, 0), exclude=reserved_ports(), handoff="shadow", range=ports)
    try:
        return reserve_from(source, request)
    except PortsExhausted:
        return None


def _worker() -> str | None:
    return os.environ.get("PYTEST_XDIST_WORKER")


def _exported(key: int) -> str | None:
    return os.environ.get(f"{PREFIX}{key}")


def _inherited(key: int) -> int | None:
    text = _exported(key)
    if text is None:
        return None
    worker, (owner, _, pid) = _worker(), os.environ.get(OWNER, "").partition("/")
    if worker is not None and owner and owner != worker:
        return None
    starter = starter_of_pool()
    if starter is not None and pid == str(starter):
        # The variables are those of the process that has the pool, and this is one of its workers.
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError(f"the environment's {PREFIX}{key}={text!r} is no port")
    return int(text)


def _is_ours(port: int) -> bool:
    """Whether this process, or a descendant, has a server on the port already."""
    try:
        if not (found := listeners(port)):
            return False
    except OSError:
        return False
    own = {os.getpid(), *descendants(os.getpid())}
    return any(listener.pid in own for listener in found)


def _free_shift(ports: range, key: int) -> int:
    """A shift that makes the stand-ins of `key` and its neighbours free ports."""
    try:
        taken = ports_in_use()
    except OSError:  # a sandbox without netlink
        taken = set()
    width = len(ports)
    shifts = [_shift(width), *(random.randrange(width) for _ in range(30))]

    def in_the_way(shift: int) -> int:
        first = (key + shift + _AROUND.start) % width
        # A lane that runs over the end goes on at the beginning, so neighbours are separated.
        if first + len(_AROUND) > width:
            return width
        return sum(ports[place] in taken for place in range(first, first + len(_AROUND)))

    return min(shifts, key=in_the_way)


def _shift(width: int) -> int:
    """Where this process's lane begins: at random, but far from the other workers of the run."""
    run, worker = os.environ.get("PYTEST_XDIST_TESTRUNUID"), _worker() or ""
    digits = "".join(filter(str.isdecimal, worker))
    if run is None or not digits or became_worker() or starter_of_pool() is not None:
        return random.randrange(width)
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)
    return (zlib.crc32(run.encode()) + int(digits) * (width // max(count, 1))) % width


def _after_fork_in_child() -> None:
    if became_worker():
        for ports in list(_maps.values()):
            ports._begin_as_worker()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _holds() -> Iterator[Hold]:
    return (one._hold for ports in list(_maps.values()) for one in ports._reservations)


def _move() -> None:
    for ports in list(_maps.values()):
        ports._hold_in_new_network()


movers.append(Mover(_holds, _move))

port_map = PortMap()
atexit.register(port_map.release)

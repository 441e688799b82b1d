"""Who has a port, and what that means for a server: one answer for people and for messages."""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, SupportsIndex

from ephemport._arguments import checked_port
from ephemport._kernel.networks import Network, inside, other_networks
from ephemport._kernel.processes import age, command_line, container, descriptors
from ephemport._kernel.protocols import PARTS, check_protocol
from ephemport._kernel.sockets import SocketRecord, State, read_proc_net, read_sockets
from ephemport._looking.listeners import owner_in_words, place
from ephemport._looking.recognition import HoldKind, Recognized, Recognizer, is_udp_hold
from ephemport._looking.sight import HOLDERS_UNSEEN, unseen
from ephemport._looking.trial import Trials, in_words, try_binds

LISTENS, RECEIVES, HOLDS = "listens", "receives", "holds"
CONNECTED, CLOSING, TIME_WAIT = "connected", "closing", "TIME_WAIT"

# How often to look when a port cannot be bound and nobody is seen to have it: a process that had it
# only for a moment is then gone.
_LOOKS = 3


class Found(NamedTuple):
    """Something that has a port: one socket, or similar connections of one process.

    `str()` returns one clause, as messages show it.

    Attributes:
        port: The port, an int.
        protocol: "tcp" or "udp".
        state: "listens", "receives" (UDP), "holds" (bound, and neither listens nor connects),
            "connected", "TIME_WAIT" or "closing" (connections that no process has open any more).
        address: The local IPv4 or IPv6 address.
        uid: The user id that owns the socket.
        pid: The id of a process that has it open. None if there is none, or if the process may not
            be looked into; then the facts about the process are None too.
        pids: The ids of all visible processes that have it open.
        command: The command line of `pid`, quoted for a shell.
        age: For how many seconds `pid` has run.
        container: The container that `pid` runs in, such as "docker 3f2a9c0d1e4b". None: no known
            container, or the one that this process runs in.
        ephemport: True for a hold of ephemport, False for another socket. None for a socket that
            looks like a hold, and whose process may not be looked into.
        hold: The kind of the hold: "open", "exclusive" or "shadow". None if it is no hold, or if
            the kind is unknown.
        worker: The name of the pytest-xdist worker that holds the port, such as "gw0".
        test: The id of the test that runs in the holding process.
        connections: How many connections this entry stands for; 0 for a socket without a peer.
        peer: The address and port at the other end, "ADDRESS:PORT". None without a peer.
        seconds_left: For TIME_WAIT: how many seconds the kernel still keeps it.
        network: The inode of another network namespace, which has its own ports. None: this one.
    """

    port: int
    protocol: str
    state: str
    address: str
    uid: int
    pid: int | None = None
    pids: tuple[int, ...] = ()
    command: str | None = None
    age: float | None = None
    container: str | None = None
    ephemport: bool | None = False
    hold: str | None = None
    worker: str | None = None
    test: str | None = None
    connections: int = 0
    peer: str | None = None
    seconds_left: float | None = None
    network: int | None = None

    def __str__(self) -> str:
        where = f"{place(self.address, self.port)} ({self.protocol})"
        some = f"{self.connections} connection{'s' if self.connections > 1 else ''}"
        if self.state == TIME_WAIT:
            left = self.seconds_left
            for_how_long = "" if left is None else f" for {math.ceil(left)} more s"
            return f"{some} from {where} in TIME_WAIT{for_how_long}"
        if self.state == CLOSING:
            return f"{some} from {where} that no process has open any more, closing"
        who = owner_in_words(self.pid, self.uid, self.command)
        if self.state == CONNECTED:
            peer = f" to {self.peer}" if self.peer and self.connections == 1 else ""
            return f"{who} has {some} from {where}{peer}"
        return f"{who} {self.state}{' on' if self.state != HOLDS else ''} {where}{self.whose}"

    @property
    def whose(self) -> str:
        """Whose hold it is, in words, with a comma before them; "" if it holds nothing."""
        if self.state != HOLDS:
            return ""
        if self.ephemport is False:
            return ", bound and not listening"
        kind = {"open": "open ", "exclusive": "exclusive ", "shadow": "shadow "}.get(
            self.hold or "", ""
        )
        if self.ephemport:
            return f", ephemport's {kind}hold"
        return f", which looks like ephemport's {kind}hold"


class Diagnosis(NamedTuple):
    """The answer of `diagnose()`.

    `str()` returns who has the port and what that means, as messages show it.

    Attributes:
        port: The port, an int.
        protocol: "tcp", "udp" or "both": what was asked for.
        free: Whether nothing has the port. Then any server can bind it.
        found: What has the port in this network namespace, a tuple of Found.
        elsewhere: What has the same port in other network namespaces; it is not in the way here.
        meaning: Which servers can bind the port now, as one line.
        unseen: What could not be looked at, one sentence each.
    """

    port: int
    protocol: str
    free: bool
    found: tuple[Found, ...]
    elsewhere: tuple[Found, ...]
    meaning: str
    unseen: tuple[str, ...]

    def __str__(self) -> str:
        who = "; ".join(map(str, self.found)) or "the kernel shows nobody"
        if not self.found and not self.free and "tcp" in PARTS[self.protocol]:
            hidden = [one for one in self.unseen if one.startswith(HOLDERS_UNSEEN)]
            who = "; ".join([who, *hidden])
        return f"{who} ({self.meaning})"

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis for JSON.

        Returns:
            A dict from the name of each attribute to its value. The values in `found` and
            `elsewhere` are dicts too.
        """
        return {
            **self._asdict(),
            "found": [one._asdict() for one in self.found],
            "elsewhere": [one._asdict() for one in self.elsewhere],
        }


def diagnose(port: SupportsIndex, protocol: str = "both", *, elsewhere: bool = False) -> Diagnosis:
    """Find out who has a port, and which servers can bind it.

    Asks the kernel for sockets in every state. Then it tries: it binds the port on each kind of
    address, as servers with and without SO_REUSEADDR and SO_REUSEPORT do, and closes at once. A
    trial takes some microseconds, in which it is in the way of others itself. It never listens.

    Args:
        port: The port, as an int from 1 to 65535 or as a Reservation.
        protocol: "tcp", "udp" or "both".
        elsewhere: Whether to look into the other network namespaces too, where that is allowed.

    Returns:
        A Diagnosis.

    Raises:
        TypeError: `port` is neither an int nor a Reservation.
        ValueError: `port` is no port, or `protocol` is unknown.
        CallRefused: The kernel answers neither through netlink nor through /proc.
    """
    port = checked_port(port)
    check_protocol(protocol)
    protocols = PARTS[protocol]
    found: list[Found] = []
    meanings: dict[str, str] = {}
    free = True
    for one in protocols:
        there, trials = _look_and_try(port, one)
        meanings[one] = in_words(trials, _until(there))
        if not there and trials.addresses and not trials.free and trials.refused is None:
            meanings[one] += "; the kernel does not show who has it"
        free = free and not there and (trials.free or trials.refused is not None)
        found += there
    return Diagnosis(
        port,
        protocol,
        free,
        tuple(found),
        tuple(_elsewhere(port, protocols)) if elsewhere else (),
        _joined(meanings),
        tuple(unseen(port)),
    )


def diagnosis_or_none(port: int, protocol: str) -> Diagnosis | None:
    """`diagnose()` for an error's message: None where the kernel does not answer."""
    try:
        return diagnose(port, protocol)
    except OSError:
        return None


def found_on(ports: Collection[int], protocol: str) -> list[Found]:
    """Return what has any of these ports, with one look; [] where the kernel does not answer.

    Connections in TIME_WAIT are left out: they keep no hold from a port.
    """
    try:
        return describe(
            record
            for kind in PARTS[protocol]
            for record in read_sockets(kind, _STATES[kind])
            if record.port in ports and record.state != State.TIME_WAIT
        )
    except OSError:
        return []


def all_holders_and_listeners() -> list[Found]:
    """Return every socket of this network namespace that listens, receives or holds."""
    records = read_sockets("tcp", {State.LISTEN, State.BOUND_INACTIVE})
    return describe([*records, *read_sockets("udp", {State.CLOSE})])


def describe(records: Iterable[SocketRecord], network: int | None = None) -> list[Found]:
    """Return who has these sockets; similar connections become one entry."""
    records = list(records)
    openers = descriptors({record.inode for record in records})
    groups: dict[tuple[Any, ...], list[SocketRecord]] = {}
    for record in records:
        state = _state(record)
        key: tuple[Any, ...] = (record.protocol, record.port, state, record.inode)
        if state in (CONNECTED, TIME_WAIT, CLOSING):
            who = tuple(openers.get(record.inode, ()))[:1]
            key = (*key[:3], record.address, record.uid, who[0][0] if who else None)
        groups.setdefault(key, []).append(record)
    facts = _Facts()
    with Recognizer() as recognizer:
        found = [_found(group, openers, recognizer, facts, network) for group in groups.values()]
    return sorted(found, key=lambda one: (one.port, one.protocol, _ORDER[one.state], one.address))


_STATES = {
    "tcp": tuple(State),
    "udp": (State.CLOSE, State.ESTABLISHED),
}
_ORDER = {
    state: number
    for number, state in enumerate((LISTENS, RECEIVES, HOLDS, CONNECTED, CLOSING, TIME_WAIT))
}


def _look_and_try(port: int, protocol: str) -> tuple[list[Found], Trials]:
    for _ in range(_LOOKS):
        records = read_sockets(protocol, _STATES[protocol], port=port)
        share = protocol == "tcp" or all(
            record.state == State.CLOSE and is_udp_hold(record) for record in records
        )
        trials = try_binds(port, protocol, share=share)
        if records or trials.free or trials.refused is not None:
            break
    return describe(records), trials


def _elsewhere(port: int, protocols: Sequence[str]) -> list[Found]:
    found: list[Found] = []
    for network in other_networks():
        found += describe(_records_of(network, port, protocols), network.inode)
    return found


def _records_of(network: Network, port: int, protocols: Sequence[str]) -> list[SocketRecord]:
    def look() -> list[SocketRecord]:
        return [
            record for kind in protocols for record in read_sockets(kind, _STATES[kind], port=port)
        ]

    try:
        return inside(network, look)
    except OSError:
        pass  # not root there
    try:
        return [
            record
            for kind in protocols
            for record in read_proc_net(kind, _STATES[kind], port=port, process=network.pid)
        ]
    except OSError:
        return []  # it ended meanwhile


def _state(record: SocketRecord) -> str:
    if record.protocol == "udp":
        if record.state != State.CLOSE:
            return CONNECTED
        return HOLDS if is_udp_hold(record) else RECEIVES
    if record.state in (State.LISTEN, State.BOUND_INACTIVE, State.TIME_WAIT):
        return {State.LISTEN: LISTENS, State.TIME_WAIT: TIME_WAIT}.get(record.state, HOLDS)
    return CONNECTED if record.inode else CLOSING


class _Facts:
    """The facts about processes, read once for each process."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Any]] = {}

    def of(self, pid: int) -> dict[str, Any]:
        if pid not in self._known:
            self._known[pid] = {
                "command": command_line(pid),
                "age": age(pid),
                "container": container(pid),
            }
        return self._known[pid]


def _found(
    group: list[SocketRecord],
    openers: dict[int, list[tuple[int, int]]],
    recognizer: Recognizer,
    facts: _Facts,
    network: int | None,
) -> Found:
    record, state = group[0], _state(group[0])
    who = openers.get(record.inode, [])
    known: dict[str, Any] = facts.of(who[0][0]) if who else {}
    hold: Recognized | None = recognizer.recognize(record, who) if state == HOLDS else None
    if hold is not None:
        kind = None if hold.kind is HoldKind.UNKNOWN else hold.kind.value
        known = {**known, "ephemport": True if hold.certain else None, "hold": kind}
        if hold.mark is not None:
            known |= {"worker": hold.mark.worker, "test": hold.mark.test}
    left = [one.seconds_left for one in group if one.seconds_left is not None]
    return Found(
        port=record.port,
        protocol=record.protocol,
        state=state,
        address=record.address,
        uid=record.uid,
        pid=who[0][0] if who else None,
        pids=tuple(pid for pid, _ in who),
        connections=len(group) if state in (CONNECTED, CLOSING, TIME_WAIT) else 0,
        peer=place(record.peer_address, record.peer_port) if record.peer_port else None,
        seconds_left=max(left, default=None),
        network=network,
        **known,
    )


def _until(found: Sequence[Found]) -> str:
    """Return until when servers are kept out: known only where all are in TIME_WAIT."""
    if not found or any(one.state != TIME_WAIT for one in found):
        return ""
    left = max((one.seconds_left or 0.0 for one in found), default=0.0)
    # Rounded up to a second, because the kernel's timer may be late by an eighth (timer wheel).
    return time.strftime(" until %H:%M:%S", time.localtime(math.ceil(time.time() + left)))


def _joined(meanings: dict[str, str]) -> str:
    if len(set(meanings.values())) == 1:
        return next(iter(meanings.values()))
    return ". ".join(f"{kind.upper()}: {text}" for kind, text in meanings.items())

"""Who has a port, and what that means for a server: one answer for people and for messages."""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, SupportsIndex

from ephemport._arguments import checked_port
from ephemport._findings import (
    CLOSING,
    CONNECTED,
    HOLDS,
    LISTENS,
    RECEIVES,
    TIME_WAIT,
    Diagnosis,
    Found,
    place,
)
from ephemport._kernel.networks import Network, inside, other_networks
from ephemport._kernel.processes import age, command_line, container, descriptors
from ephemport._kernel.protocols import PARTS, check_protocol
from ephemport._kernel.sockets import SocketRecord, State, read_proc_net, read_sockets
from ephemport._looking.recognition import HoldKind, Recognized, Recognizer, is_udp_hold
from ephemport._looking.sight import unseen
from ephemport._looking.trial import Trials, in_words, try_binds

# How often to look when a port cannot be bound and nobody is seen to have it: a process that had it
# only for a moment is then gone.
_LOOKS = 3


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

"""The errors of a wait that failed: what the kernel says of the port, the hold and the server."""

import os
import socket
from collections.abc import Sequence

from ephemport import _spelling
from ephemport._errors import ServerExited, TakeoverTimeout, WrongListener
from ephemport._holding.host import bracketed
from ephemport._kernel.processes import owners
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.diagnosis import LISTENS, RECEIVES, Diagnosis, diagnosis_or_none
from ephemport._looking.listeners import (
    listener_of,
    listening_records,
    owner_in_words,
    owners_of,
)
from ephemport._looking.process_sockets import options_of, what_processes_have
from ephemport._looking.reach import LOOPBACK_INTERFACE, target_of
from ephemport._serving.awaited import Anybody
from ephemport._serving.destination import Destination
from ephemport._serving.hints import hint, says_taken, who_has

_IF_LOG_SAYS = "If its log says 'Address already in use'"
_OUTPUT_SAYS = "Its output says that an address is in use. If that is this port"
# A message names at most so many sockets.
_MOST_NAMED = 4


def timed_out(destination: Destination, awaited: Anybody, timeout: float) -> TakeoverTimeout:
    """Return the error that says who holds, who listens, and what the process does."""
    diagnosis = diagnosis_or_none(destination.port, destination.protocol)
    where = f"({' and '.join(destination.protocols)}) within {timeout:g} s"
    elsewhere = _elsewhere(destination, awaited)
    if elsewhere:
        message = f"nothing listened on {destination} {where}: {elsewhere}"
    else:
        message = f"nothing listened on port {destination.port} {where}: {who_has(diagnosis)}"
        message = _with_what_helps(message, destination, awaited, diagnosis)
    return TakeoverTimeout(
        message, port=destination.port, protocol=destination.protocol, diagnosis=diagnosis
    )


def wrong_listener(
    destination: Destination, awaited: Anybody, record: SocketRecord, also: bool
) -> WrongListener:
    """Return the error for a stranger's socket; `also`: who is awaited listens there as well."""
    openers = owners_of([record]).get(record.inode) or []
    options = options_of(record, openers)
    end = "Close it in this process" if os.getpid() in openers else "End it"
    if awaited.has_ended:
        state = "has ended"
    else:
        state = "listens there too" if also else "runs and does not listen there"
    return WrongListener(
        f"port {destination.port} has the wrong listener: {listener_of(record, openers)}"
        f"{f' ({options})' if options is not None else ''}, while {awaited.name} {state}. "
        f"Clients that connect reach the wrong server. {end}, or reserve another port",
        port=destination.port,
        protocol=destination.protocol,
        diagnosis=diagnosis_or_none(destination.port, destination.protocol),
    )


def exited(destination: Destination, awaited: Anybody) -> ServerExited:
    """Return the error for somebody who ended, with the status and the output where known."""
    ending = awaited.ending()
    output = awaited.output()
    diagnosis = diagnosis_or_none(destination.port, destination.protocol)
    message = f"{awaited.name} {ending.how} before it listened on port {destination.port}"
    found = diagnosis.found if diagnosis is not None else ()
    others = [str(one) for one in found if one.state in (LISTENS, RECEIVES)]
    if others:
        message += f", on which {'; '.join(others)}"
    if output:
        message += f"; its last output:\n{output}\n"
    if says_taken(output) and not others:
        message = _hinted(message, _OUTPUT_SAYS, destination, diagnosis)
    elif output is None and not others and ending.returncode:
        message = _hinted(message, _IF_LOG_SAYS, destination, diagnosis)
    return ServerExited(
        message,
        returncode=ending.returncode,
        output=output,
        port=destination.port,
        protocol=destination.protocol,
        diagnosis=diagnosis,
    )


def _elsewhere(destination: Destination, awaited: Anybody) -> str:
    """Say who listens on another address of the port than the wanted one; "" if nobody does."""
    try:
        records = [
            record
            for protocol in destination.protocols
            for record in _beside(destination, listening_records(destination.port, protocol))
        ]
        family = awaited.family()
        openers = owners_of(records) if family is None else _owners_within(records, family)
    except OSError:
        return ""
    clauses: dict[str, list[str]] = {}
    hosts: list[str] = []
    for record in records:
        if family is not None and record.inode not in openers:
            continue
        listener = listener_of(record, openers.get(record.inode))
        who = owner_in_words(listener.pid, listener.uid, listener.command)
        clauses.setdefault(who, []).append(_where(record))
        hosts.append(_host_of(record))
    said = [
        f"{who} listens on {' and '.join(dict.fromkeys(where))}"
        for who, where in list(clauses.items())[:_MOST_NAMED]
    ]
    if not said:
        return ""
    return (
        f"{'; '.join(said)}, not on {destination.host_in_words}: bind there, or "
        f"{_spelling.reserve_with_host(hosts[0])}"
    )


def _beside(destination: Destination, records: list[SocketRecord]) -> list[SocketRecord]:
    return [] if destination.reached(records) else records


def _owners_within(records: Sequence[SocketRecord], family: list[int]) -> dict[int, list[int]]:
    return owners({record.inode for record in records}, within=family)


def _where(record: SocketRecord) -> str:
    """Return the address of a socket, and what narrows it."""
    where = bracketed(record.address)
    if record.address == "::" and record.v6only:
        where += " for IPv6 only (IPV6_V6ONLY)"
    if record.interface > LOOPBACK_INTERFACE:
        where += f" by {_interface(record.interface)} only"
    return where


def _host_of(record: SocketRecord) -> str:
    """Return the host whose clients reach the socket."""
    _, address, interface = target_of(record.family, record.address, record.interface)
    if address in ("0.0.0.0", "::"):
        return "127.0.0.1" if address == "0.0.0.0" else "::1"
    return f"{address}%{_interface(interface)}" if address.startswith("fe80:") else address


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _with_what_helps(
    message: str, destination: Destination, awaited: Anybody, diagnosis: Diagnosis | None
) -> str:
    family = awaited.family()
    if family is None:
        message += ". It is unknown here whether a server was started (process= was not given)"
        return _hinted(message, "If one reports 'Address already in use'", destination, diagnosis)
    output = awaited.output()
    message += f"; {awaited.name} still runs; {_what_it_has(family, destination)}"
    if output:
        message += f"; its last output:\n{output}\n"
    if says_taken(output):
        return _hinted(message, _OUTPUT_SAYS, destination, diagnosis)
    message += "" if output else ". "
    message += f"Wait longer ({_spelling.TIMEOUT}), or check which port it was started with"
    if output is None:
        message = _hinted(message, _IF_LOG_SAYS, destination, diagnosis)
    return message


def _what_it_has(family: list[int], destination: Destination) -> str:
    try:
        return what_processes_have(family, destination.port, destination.protocols)
    except OSError as error:
        return f"its sockets are unknown ({error})"


def _hinted(
    message: str, condition: str, destination: Destination, diagnosis: Diagnosis | None
) -> str:
    hinted = hint(condition, diagnosis, destination.protocols, destination.given)
    between = "" if message.endswith("\n") else ". "
    return f"{message}{between}{hinted}" if hinted else message

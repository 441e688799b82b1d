"""The errors of a wait that failed: what the kernel says of the port, the hold and the server."""

import os
import socket
from collections.abc import Sequence

from ephemport import _spelling
from ephemport._errors import EphemportError, ServerExited, TakeoverTimeout, WrongListener
from ephemport._findings import LISTENS, RECEIVES, Diagnosis, owner_in_words
from ephemport._holding.host import bracketed
from ephemport._kernel.processes import owners
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.diagnosis import diagnosis_or_none
from ephemport._looking.fronts import front_in_words
from ephemport._looking.listeners import listener_of, listening_records, owners_of
from ephemport._looking.process_sockets import options_of, what_processes_have
from ephemport._looking.reach import LOOPBACK_INTERFACE, target_of
from ephemport._serving.awaited import Anybody
from ephemport._serving.destination import Destination
from ephemport._serving.event_loop import Loop
from ephemport._serving.hints import hint, says_taken, who_has

_IF_LOG_SAYS = "If its log says 'Address already in use'"
_IF_THIS_PORT = "If that is this port"
_OUTPUT_SAYS = "Its output says that an address is in use. If that is this port"
_ENDED_WELL = "Servers that daemonize end their first process with status 0 and live on"
# A message names at most so many sockets.
_MOST_NAMED = 4


def timed_out(
    destination: Destination, awaited: Anybody, timeout: float, loop: Loop | None = None
) -> TakeoverTimeout:
    """Return the error that says who holds, who listens, and what the process does.

    loop: the event loop that the wait has blocked.
    """
    diagnosis = diagnosis_or_none(destination.port, destination.protocol)
    where = f"({' and '.join(destination.protocols)}) within {timeout:g} s"
    elsewhere = _elsewhere(destination, awaited)
    if elsewhere:
        message = f"nothing listened on {destination} {where}: {elsewhere}"
    else:
        listened = "nothing" if awaited.is_known else f"nothing that is known to be {awaited.name}"
        message = f"{listened} listened on port {destination.port} {where}: {who_has(diagnosis)}"
        message = _with_what_helps(message, destination, awaited, diagnosis, loop)
    return TakeoverTimeout(
        message, port=destination.port, protocol=destination.protocol, diagnosis=diagnosis
    )


def wrong_listener(
    destination: Destination, awaited: Anybody, record: SocketRecord, also: bool
) -> WrongListener:
    """Return the error for a stranger's socket; `also`: who is awaited listens there as well."""
    openers = owners_of([record]).get(record.inode) or []
    stranger = listener_of(record, openers)
    options = options_of(record, openers)
    if awaited.has_ended:
        state = "has ended"
    else:
        state = "listens there too" if also else "runs and does not listen there"
    front = front_in_words(stranger.command, getattr(awaited, "command", None))
    end = "Close it in this process" if os.getpid() in openers else "End it"
    helps = (
        f"Clients that connect reach the wrong server. {end}, or reserve another port"
        if front is None
        else f"{front}. Do not end it: {_spelling.WITHOUT_PROCESS} (docs/starting.md)"
    )
    return WrongListener(
        f"port {destination.port} has the wrong listener: {stranger}"
        f"{f' ({options})' if options is not None else ''}, while {awaited.name} {state}. {helps}",
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
    others = [one for one in found if one.state in (LISTENS, RECEIVES)]
    if others:
        message += f", on which {'; '.join(map(str, others))}"
    if output:
        message += f"; its last output:\n{output}\n"
    if ending.returncode == 0:
        message += "" if message.endswith("\n") else ". "
        command = getattr(awaited, "command", None)
        fronts = [front_in_words(one.command, command) for one in others]
        front = next(filter(None, fronts), None)
        message += (
            f"{_ENDED_WELL}. If this one does: {_spelling.DAEMON}"
            if front is None
            else f"{front}: {_spelling.WITHOUT_PROCESS} (docs/starting.md)"
        )
    elif says_taken(output) and not others:
        message = _hinted(message, _OUTPUT_SAYS, destination, diagnosis)
    elif says_taken(ending.how) and not others:
        message = _hinted(message, _IF_THIS_PORT, destination, diagnosis)
    elif output is None and not others and ending.returncode:
        message = _hinted(message, _IF_LOG_SAYS, destination, diagnosis)
    error = ServerExited(
        message,
        returncode=ending.returncode,
        output=output,
        port=destination.port,
        protocol=destination.protocol,
        diagnosis=diagnosis,
    )
    error.__cause__ = ending.cause
    return error


def in_vain(
    destination: Destination,
    awaited: Anybody,
    why: str,
    loop: Loop | None,
    *,
    stops: bool = False,
) -> EphemportError:
    """Return the error for a wait that would keep its server from listening, or from stopping."""
    blocked = "this thread" if loop is None else f"the {loop.name} event loop of this thread"
    helps = (
        "Wait in another thread"
        if loop is None
        else f"Write 'await {'wait_not_listening_async' if stops else 'wait_listening_async'}"
        f"(...)'{awaited.else_name}"
    )
    now = "somebody still listens on" if stops else "nobody listens yet on"
    return EphemportError(
        f"{now} port {destination.port}, and to wait here would block {blocked}: {why}, and then "
        f"it could never {'stop' if stops else 'listen'}. {helps}",
        port=destination.port,
        protocol=destination.protocol,
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
    message: str,
    destination: Destination,
    awaited: Anybody,
    diagnosis: Diagnosis | None,
    loop: Loop | None,
) -> str:
    family = awaited.family()
    if loop is not None and (family is None or os.getpid() in family):
        return (
            f"{message}. This wait has blocked the {loop.name} event loop of this thread. If the "
            "server runs in that loop, write 'await wait_listening_async(...)'"
        )
    if family is None:
        message += ". It is unknown here whether a server was started (process= was not given)"
        return _hinted(message, "If one reports 'Address already in use'", destination, diagnosis)
    output = awaited.output()
    message += f"; {awaited.name} {awaited.state}"
    if family:
        message += f"; {_what_it_has(family, destination)}"
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

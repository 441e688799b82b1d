"""The sockets of a server's processes: which port they listen on instead, and their options.

Only errors use it: it looks at every descriptor of a process, which is too much for a loop. Options
and unbound sockets can be seen where the process may be traced (pidfd_getfd(2)).
"""

import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from ephemport._findings import place
from ephemport._kernel.networks import network_of
from ephemport._kernel.other_process import duplicate, socket_option
from ephemport._kernel.processes import open_sockets
from ephemport._kernel.sockets import SocketRecord, State, can_see_bound_inactive, read_sockets
from ephemport._looking.recognition import is_udp_hold

_SO_DOMAIN, _SO_PROTOCOL = 39, 38  # include/uapi/asm-generic/socket.h
_PROTOCOLS = {int(socket.IPPROTO_TCP): "tcp", int(socket.IPPROTO_UDP): "udp"}
_FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))
# A message names at most so many sockets.
_MOST_NAMED = 4


class Options(NamedTuple):
    """Which of the two options that let a socket share a port are set."""

    reuse_address: bool
    reuse_port: bool

    def __str__(self) -> str:
        said = {True: "set", False: "not set"}
        return f"SO_REUSEADDR {said[self.reuse_address]}, SO_REUSEPORT {said[self.reuse_port]}"


class Unbound(NamedTuple):
    """A TCP or UDP socket that is bound to no port."""

    protocol: str
    options: Options


def options_of(record: SocketRecord, pids: Collection[int]) -> Options | None:
    """Return the options of a socket that a process has open; None where they cannot be read."""
    for pid in pids:
        descriptor = (open_sockets(pid) or {}).get(record.inode)
        if descriptor is not None:
            with suppress(OSError), duplicate(pid, descriptor) as copy:
                return _options(copy)
    return None


def what_processes_have(pids: Sequence[int], port: int, protocols: Collection[str]) -> str:
    """Say in one clause what the processes' sockets do instead of a server on `port`.

    Each part is what the kernel says. What it does not say is called unknown.
    """
    own = network_of("thread-self")
    records = {
        record.inode: record
        for protocol in protocols
        for record in read_sockets(protocol, tuple(State))
    }
    clauses: list[str] = []
    for pid in pids:
        network = network_of(pid)
        descriptors = open_sockets(pid)
        if descriptors is None or network is None:
            clauses.append(f"the sockets of pid {pid} are unknown: it may not be looked into")
        elif network != own:
            clauses.append(f"pid {pid} is in another network namespace, which has its own ports")
        else:
            bound = [records[inode] for inode in descriptors if inode in records]
            unseen = [fd for inode, fd in descriptors.items() if inode not in records]
            clauses += _of_one(pid, bound, _unbound(pid, unseen, protocols), port)
    if clauses:
        return "; ".join(clauses[:_MOST_NAMED])
    kinds = " or ".join(one.upper() for one in protocols)
    return f"it has no {kinds} socket" + (", nor has any child of it" if len(pids) > 1 else "")


def _of_one(
    pid: int, bound: Sequence[SocketRecord], unbound: Sequence[Unbound], port: int
) -> list[str]:
    clauses = []
    for record in bound:
        where = f"{place(record.address, record.port)} ({record.protocol})"
        if record.state == State.LISTEN or (
            record.protocol == "udp" and record.state == State.CLOSE and not is_udp_hold(record)
        ):
            verb = "listens" if record.protocol == "tcp" else "receives"
            instead = f", not on port {port}" if record.port != port else ""
            clauses.append(f"pid {pid} {verb} on {where}{instead}")
        elif record.state == State.BOUND_INACTIVE:
            clauses.append(f"pid {pid} has bound {where} and does not listen")
    if unbound:
        what = "is bound to no port" if can_see_bound_inactive() else "does not listen"
        clauses += [
            f"pid {pid} has a {one.protocol.upper()} socket that {what} ({one.options})"
            for one in dict.fromkeys(unbound)
        ]
    return clauses


def _unbound(pid: int, descriptors: Sequence[int], protocols: Collection[str]) -> list[Unbound]:
    """Return the TCP and UDP sockets of a process that no listing of the kernel shows."""
    found = []
    for descriptor in descriptors:
        with suppress(OSError), duplicate(pid, descriptor) as copy:
            protocol = _PROTOCOLS.get(socket_option(copy, _SO_PROTOCOL), "")
            if socket_option(copy, _SO_DOMAIN) in _FAMILIES and protocol in protocols:
                found.append(Unbound(protocol, _options(copy)))
    return found


def _options(descriptor: int) -> Options:
    return Options(
        socket_option(descriptor, socket.SO_REUSEADDR) != 0,
        socket_option(descriptor, socket.SO_REUSEPORT) != 0,
    )

"""Who listens on a port, and who holds it without listening."""

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple, SupportsIndex

from ephemport._arguments import checked_port
from ephemport._findings import owner_in_words, place
from ephemport._kernel.processes import command_line, descendants, owners
from ephemport._kernel.sockets import SocketRecord, State, read_sockets
from ephemport._looking.recognition import is_udp_hold


class Listener(NamedTuple):
    """A socket that listens (TCP) or receives (UDP) on a port.

    `str()` returns one clause, as messages show it.

    Attributes:
        port: The port, an int.
        address: The IPv4 or IPv6 address that the socket is bound to, such as "127.0.0.1" or "::".
        protocol: "tcp" or "udp".
        uid: The user id that owns the socket.
        pid: The id of the process that has it open. None if that process belongs to another user
            and may not be looked into, or is in another pid namespace.
        command: The command line of the process, quoted for a shell. None where `pid` is.
    """

    port: int
    address: str
    protocol: str
    uid: int
    pid: int | None
    command: str | None

    def __str__(self) -> str:
        return _describe(self, "listens on")


class Holder(NamedTuple):
    """A socket that is bound to a port and does not listen.

    `str()` returns one clause, as messages show it.

    Attributes:
        port: The port, an int.
        address: The IPv4 or IPv6 address that the socket is bound to, such as "127.0.0.1" or "::".
        protocol: "tcp" or "udp".
        uid: The user id that owns the socket.
        pid: The id of the process that has it open. None if that process belongs to another user
            and may not be looked into, or is in another pid namespace.
        command: The command line of the process, quoted for a shell. None where `pid` is.
    """

    port: int
    address: str
    protocol: str
    uid: int
    pid: int | None
    command: str | None

    def __str__(self) -> str:
        return _describe(self, "holds")


def listeners(port: SupportsIndex | None = None) -> list[Listener]:
    """List who listens on `port`, or on any port: TCP listeners and UDP servers, IPv4 and IPv6.

    Asks the kernel (sock_diag, else /proc/net) and connects to nobody. It sees the network
    namespace of this process.

    Args:
        port: The port, as an int from 1 to 65535 or as a Reservation. None: every port.

    Returns:
        One Listener for each socket, in no particular order.

    Raises:
        TypeError: `port` is neither an int nor a Reservation.
        ValueError: `port` is no port.
        CallRefused: The kernel answers neither through netlink nor through /proc.
    """
    records = listening_records(_maybe(port))
    pids = owners_of(records)
    return [listener_of(record, pids.get(record.inode)) for record in records]


def holders(port: SupportsIndex | None = None) -> list[Holder]:
    """List who holds `port`, or any port, without listening. ss, lsof and psutil cannot show them.

    TCP needs Linux 6.8 (sock_diag, state TCP_BOUND_INACTIVE). An older kernel shows no TCP holder.

    Args:
        port: The port, as an int from 1 to 65535 or as a Reservation. None: every port.

    Returns:
        One Holder for each socket, in no particular order.

    Raises:
        TypeError: `port` is neither an int nor a Reservation.
        ValueError: `port` is no port.
        CallRefused: The kernel answers neither through netlink nor through /proc.
    """
    records = _holding_records(_maybe(port))
    pids = owners_of(records)
    return [Holder(*_fields(record, pids.get(record.inode))) for record in records]


def listener_of(record: SocketRecord, pids: Sequence[int] | None) -> Listener:
    """Make a Listener of a record of the kernel and the pids that have the socket open."""
    return Listener(*_fields(record, pids))


def listening_records(port: int | None, protocol: str = "both") -> list[SocketRecord]:
    """Return the kernel's records of the sockets that listen (UDP: receive) on `port`."""
    records = read_sockets("tcp", {State.LISTEN}, port=port) if protocol != "udp" else []
    if protocol != "tcp":
        udp = read_sockets("udp", {State.CLOSE}, port=port)
        records += [record for record in udp if not is_udp_hold(record)]
    return records


def owners_of(records: Collection[SocketRecord]) -> dict[int, list[int]]:
    """Return the pids that have each record's socket open, by inode."""
    inodes = {record.inode for record in records if record.inode}
    # Most servers are ours, and a look at our own processes costs a tenth of a look at all.
    ours = owners(inodes, within=descendants(os.getpid())) if len(inodes) == 1 else {}
    return ours or owners(inodes)


def _maybe(port: SupportsIndex | None) -> int | None:
    return None if port is None else checked_port(port)


def _holding_records(port: int | None) -> list[SocketRecord]:
    tcp = read_sockets("tcp", {State.BOUND_INACTIVE}, port=port)
    udp = read_sockets("udp", {State.CLOSE}, port=port)
    return tcp + [record for record in udp if is_udp_hold(record)]


def _fields(
    record: SocketRecord, pids: Sequence[int] | None
) -> tuple[int, str, str, int, int | None, str | None]:
    pid = pids[0] if pids else None
    command = None if pid is None else command_line(pid)
    return (record.port, record.address, record.protocol, record.uid, pid, command)


def _describe(one: Listener | Holder, verb: str) -> str:
    who = owner_in_words(one.pid, one.uid, one.command)
    return f"{who} {verb} {place(one.address, one.port)} ({one.protocol})"

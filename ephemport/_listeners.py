"""Who listens on a number, and who holds it without listening."""

import os
from collections.abc import Collection, Sequence
from operator import index
from typing import NamedTuple, SupportsIndex

from ephemport._hold import smallest_receive_buffer
from ephemport._kernel.processes import command_line, owners
from ephemport._kernel.sockets import SocketRecord, State, read_sockets


class Listener(NamedTuple):
    """A socket that listens (TCP) or receives (UDP) on a number.

    `uid` owns the socket. `pid` and `command` are None when the process is another user's that we
    may not look into, or lives in another pid namespace.
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
    """A socket that is bound to a number and does not listen. The fields are a Listener's."""

    port: int
    address: str
    protocol: str
    uid: int
    pid: int | None
    command: str | None

    def __str__(self) -> str:
        return _describe(self, "holds")


def listeners(port: SupportsIndex | None = None) -> list[Listener]:
    """Who listens on `port`, or on any port: TCP listeners and UDP servers, both families.

    Asks the kernel (sock_diag, else /proc/net), connects to nobody. `port` is an int or a
    Reservation; ValueError if it is no port.
    """
    records = listening_records(_maybe(port))
    pids = owners_of(records)
    return [listener_of(record, pids.get(record.inode)) for record in records]


def holders(port: SupportsIndex | None = None) -> list[Holder]:
    """Who holds `port`, or any port, without listening; ss, lsof and psutil do not show these.

    Needs Linux 6.8 for TCP (sock_diag, state TCP_BOUND_INACTIVE): where the kernel is older, none
    are seen.
    """
    records = _holding_records(_maybe(port))
    pids = owners_of(records)
    return [Holder(*_fields(record, pids.get(record.inode))) for record in records]


def listener_of(record: SocketRecord, pids: Sequence[int] | None) -> Listener:
    """The Listener that a record of the kernel's and the processes that have it open make."""
    return Listener(*_fields(record, pids))


def listening_records(port: int | None, protocol: str = "both") -> list[SocketRecord]:
    """The kernel's records of the sockets that listen (or, UDP, receive) on `port`."""
    records = read_sockets("tcp", {State.LISTEN}, port=port) if protocol != "udp" else []
    if protocol != "tcp":
        udp = read_sockets("udp", {State.CLOSE}, port=port)
        records += [record for record in udp if not _is_udp_hold(record)]
    return records


def owners_of(records: Collection[SocketRecord]) -> dict[int, list[int]]:
    """The pids that have each record's socket open, by inode."""
    return owners({record.inode for record in records if record.inode})


def who_has(port: int, protocol: str = "tcp") -> str | None:
    """One sentence on who stands in the way of `port`, or None where the kernel shows nobody."""
    protocols = ("tcp", "udp") if protocol == "both" else (protocol,)
    found: list[Listener | Holder] = [*listeners(port), *holders(port)]
    told = [str(one) for one in found if one.protocol in protocols]
    if told:
        return "; ".join(told)
    states = {
        State.ESTABLISHED,
        State.TIME_WAIT,
        State.FIN_WAIT1,
        State.FIN_WAIT2,
        State.CLOSE_WAIT,
    }
    connections = read_sockets("tcp", states, port=port) if "tcp" in protocols else []
    if connections:
        waiting = sum(1 for record in connections if record.state == State.TIME_WAIT)
        return f"{len(connections)} connection(s) use it as their local port" + (
            f", {waiting} of them in TIME_WAIT (60 s at most)" if waiting else ""
        )
    return None


def checked_port(port: SupportsIndex) -> int:
    """`port`, an int or a Reservation, as a plain int.

    Raises TypeError or ValueError for what is no port.
    """
    if isinstance(port, bool) or not isinstance(port, SupportsIndex):
        raise TypeError(f"port must be an int or a Reservation, not {port!r}")
    number = index(port)
    if not 0 < number < 65536:
        raise ValueError(f"{number} is no port: ports are 1 to 65535")
    return number


def _maybe(port: SupportsIndex | None) -> int | None:
    return None if port is None else checked_port(port)


def _holding_records(port: int | None) -> list[SocketRecord]:
    tcp = read_sockets("tcp", {State.BOUND_INACTIVE}, port=port)
    udp = read_sockets("udp", {State.CLOSE}, port=port)
    return tcp + [record for record in udp if _is_udp_hold(record)]


def _is_udp_hold(record: SocketRecord) -> bool:
    return record.receive_buffer is not None and record.receive_buffer <= smallest_receive_buffer()


def _fields(
    record: SocketRecord, pids: Sequence[int] | None
) -> tuple[int, str, str, int, int | None, str | None]:
    pid = pids[0] if pids else None
    command = None if pid is None else command_line(pid)
    return (record.port, record.address, record.protocol, record.uid, pid, command)


def _describe(one: Listener | Holder, verb: str) -> str:
    if one.pid is None:
        who = f"a process of uid {one.uid} that cannot be looked into"
    elif one.pid == os.getpid():
        who = f"this process (pid {one.pid})"
    else:
        who = f"pid {one.pid} ({one.command or 'command line unknown'})"
    where = f"[{one.address}]" if ":" in one.address else one.address
    return f"{who} {verb} {where}:{one.port} ({one.protocol})"

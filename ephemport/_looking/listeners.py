"""Who listens on a number, and who holds it without listening."""

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple, SupportsIndex

from ephemport._arguments import checked_port
from ephemport._kernel.processes import command_line, descendants, owners
from ephemport._kernel.sockets import SocketRecord, State, read_sockets
from ephemport._looking.recognition import is_udp_hold

# Command lines can be as long as the kernel's memory; nobody reads so much of one in a message.
_LONGEST_COMMAND = 300


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
        records += [record for record in udp if not is_udp_hold(record)]
    return records


def owners_of(records: Collection[SocketRecord]) -> dict[int, list[int]]:
    """The pids that have each record's socket open, by inode."""
    inodes = {record.inode for record in records if record.inode}
    # Most often a server is ours, and a look at our own processes costs a tenth of one at all.
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


def owner_in_words(pid: int | None, uid: int, command: str | None) -> str:
    """Whose a socket is, as messages say it."""
    if pid is None:
        return (
            f"{unknown_owner(uid)} process" if uid != os.geteuid() else f"an {unknown_owner(uid)}"
        )
    if pid == os.getpid():
        return f"this process (pid {pid})"
    return f"pid {pid} ({command_in_words(command or 'command line unknown')})"


def command_in_words(command: str) -> str:
    """A command line as messages show it: one line, cut where nobody would read on."""
    told = one_line(command)
    return told if len(told) <= _LONGEST_COMMAND else f"{told[:_LONGEST_COMMAND]}..."


def unknown_owner(uid: int) -> str:
    """Whose a socket is whose process cannot be seen: "another user's (uid 1000)"."""
    # Our own are not seen when they live in another pid namespace.
    return f"another user's (uid {uid})" if uid != os.geteuid() else f"unseen process (uid {uid})"


def place(address: str, port: int) -> str:
    """An address with its port."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def one_line(text: str) -> str:
    """`text` without what would break a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _describe(one: Listener | Holder, verb: str) -> str:
    who = owner_in_words(one.pid, one.uid, one.command)
    return f"{who} {verb} {place(one.address, one.port)} ({one.protocol})"

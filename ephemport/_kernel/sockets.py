"""The TCP and UDP sockets of the current network namespace.

There are two readers with one signature. `read_netlink` asks sock_diag(7), which filters inside
the kernel and answers for listeners in some 20 microseconds. `read_proc_net` parses
proc_pid_net(5), which is always there, but costs milliseconds and cannot show bound sockets that
do not listen. `read_sockets` uses the first and falls back to the second.
"""

import errno
import functools
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

from ephemport._errors import CallRefused, refusal_in_words
from ephemport._kernel.fork import lock

# Kept at import: tests patch socket.socket, and netlink must still answer.
_Socket = socket.socket

__all__ = [
    "SocketRecord",
    "State",
    "can_see_bound_inactive",
    "read_netlink",
    "read_proc_net",
    "read_sockets",
]


class State(IntEnum):
    """A socket's state, in the kernel's numbers (include/net/tcp_states.h).

    UDP uses two of them: CLOSE for an ordinary socket, ESTABLISHED for a connected one.
    A half-open connection is reported as SYN_RECV; NEW_SYN_RECV is internal to the kernel.
    BOUND_INACTIVE is a TCP socket that is bound and neither listens nor connects. The kernel has
    this state only in netlink queries (net/ipv4/inet_diag.c, Linux 6.8), and answers with CLOSE;
    records say BOUND_INACTIVE. No TCP record is ever in state CLOSE.
    """

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13


class SocketRecord(NamedTuple):
    """One socket as the kernel lists it.

    Addresses are written as the kernel keeps them: a dual-stack socket is AF_INET6, and an IPv4
    connection that it accepted reads ``::ffff:127.0.0.1``. `uid` is the owner's user id as seen
    from the current user namespace. `inode` is the number in ``socket:[...]`` under
    ``/proc/PID/fd``, 0 for a socket that no process has open (TIME_WAIT, SYN_RECV). Without a peer
    `peer_port` is 0 and `peer_address` is the wildcard.
    """

    protocol: str
    """``"tcp"`` or ``"udp"``."""
    family: int
    """socket.AF_INET or socket.AF_INET6."""
    address: str
    port: int
    state: State
    uid: int
    inode: int
    receive_buffer: int | None = None
    """SO_RCVBUF as getsockopt() gives it, in bytes; for UDP through netlink, else None."""
    peer_address: str = ""
    peer_port: int = 0
    v6only: bool | None = None
    """IPV6_V6ONLY, for AF_INET6 sockets without a peer and through netlink, else None."""
    interface: int = 0
    """The index of the interface that it is bound to, through netlink; 0 for none, or unknown."""
    seconds_left: float | None = None
    """For TIME_WAIT: how many seconds the kernel still keeps it."""


class _Query(NamedTuple):
    protocol: str
    states: frozenset[int]
    port: int | None


_IPV4, _IPV6 = int(socket.AF_INET), int(socket.AF_INET6)
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_STATES = {int(state): state for state in State}
_UNCONNECTED = frozenset({State.LISTEN, State.CLOSE, State.BOUND_INACTIVE})

# include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
SOCK_DIAG_BY_FAMILY = 20
_NLM_F_DUMP_REQUEST = 0x301
_NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR = 2
_NLMSG_DONE = 3
_ANSWERS = (_TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY)
_LARGEST_ERRNO = 4095  # MAX_ERRNO in include/linux/err.h
_INET_DIAG_SKMEMINFO = 7
_INET_DIAG_SKV6ONLY = 11
_SK_MEMINFO_RCVBUF = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_ERRNO = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_WORD = struct.Struct("=I")
_BYTE = struct.Struct("=B")
# inet_diag_msg: family, state, the two ports as bytes (they alone are big-endian), the two
# addresses, the interface, then past the cookie the timer's milliseconds, past the queues uid and
# inode
_MESSAGE = struct.Struct("=BB2x4B16s16sI8xI8xII")
# Ticks of the timer in /proc/net per second (jiffies_delta_to_clock_t), on today's machines.
_TICKS = 100

# The kernel sends at most 32 KiB of a dump at a time (netlink_dump in net/netlink/af_netlink.c).
_RECEIVE_BYTES = 1 << 16

# Other processes disturb at most so many dumps in a row; after that the kernel is at fault.
_MAX_REPEATS = 10

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_REFUSED = frozenset({
    errno.EPERM,  # SELinux, seccomp
    errno.EACCES,
    errno.ENOENT,  # tcp_diag or udp_diag neither built in nor loadable
    errno.ENOSYS,  # seccomp, gVisor
    errno.EPROTONOSUPPORT,  # no sock_diag at all
    errno.EAFNOSUPPORT,  # no netlink at all, or systemd's RestrictAddressFamilies=
    errno.EOPNOTSUPP,
    errno.ECONNREFUSED,
})  # fmt: skip


def read_sockets(
    protocol: str, states: Collection[State], *, port: int | None = None
) -> list[SocketRecord]:
    """Return the sockets of both families that are in one of `states`, in no particular order.

    `protocol` is ``"tcp"`` or ``"udp"``; with `port` only sockets with that local port. Asks
    netlink, and reads /proc/net where netlink is refused. Sockets that open or close meanwhile may
    be missed, and in listings longer than one read (32 KiB from netlink, some hundred sockets;
    a page from /proc) they can make the kernel miss a neighbour. So ask again before you conclude
    that there is none; with `port`, netlink's answer fits in one read.

    Raises ValueError for another protocol, CallRefused where neither source can be read.
    """
    try:
        return read_netlink(protocol, states, port=port)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        netlink = error
    try:
        return read_proc_net(protocol, states, port=port)
    except OSError as error:
        if error.errno in _USED_UP:
            raise
        raise CallRefused(
            f"who listens and who holds cannot be seen: netlink (sock_diag): "
            f"{refusal_in_words(netlink.errno)}, and {error.filename or '/proc/net'}: "
            f"{os.strerror(error.errno or 0)}. Allow AF_NETLINK sockets, or mount /proc",
            netlink.errno,
        ) from error


def read_netlink(
    protocol: str, states: Collection[State], *, port: int | None = None
) -> list[SocketRecord]:
    """As `read_sockets`, through NETLINK_SOCK_DIAG only (sock_diag(7)).

    Raises OSError where it is refused.
    """
    query = _Query(protocol, frozenset(states), port)
    # A new socket per call costs 3 us, and always belongs to the right namespace and process.
    # Do not block: the kernel writes each part of an answer before the call that asks for it
    # returns (netlink_dump in net/netlink/af_netlink.c). A wait for a missing part would not end.
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with _Socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as diag:
        records: list[SocketRecord] = []
        for request in _requests(query):
            records += _dump(diag, request, query)
    return _once_each(records)


def _requests(query: _Query) -> Iterator[bytes]:
    number = _protocol_number(query.protocol)
    mask = sum(1 << state for state in query.states)
    # inet_diag_sockid: the kernel leaves out sockets with another local port; 0 means any. The
    # trailing ones are INET_DIAG_NOCOOKIE.
    identity = struct.pack("!H", query.port or 0) + bytes(38) + b"\xff" * 8
    if number == socket.IPPROTO_TCP:
        # The first version of the request knows TCP only, and answers for both families at once
        # (inet_diag_dump_compat in net/ipv4/inet_diag.c): one walk of the tables, not two.
        body = bytes(4) + identity + struct.pack("=II", mask, 0)
        yield _HEADER.pack(16 + len(body), _TCPDIAG_GETSOCK, _NLM_F_DUMP_REQUEST, 1, 0) + body
        return
    extensions = 1 << (_INET_DIAG_SKMEMINFO - 1)
    for family in (_IPV4, _IPV6):
        body = _REQUEST.pack(family, number, extensions, mask) + identity
        yield _HEADER.pack(16 + len(body), SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0) + body


def _dump(diag: socket.socket, request: bytes, query: _Query) -> list[SocketRecord]:
    for _ in range(_MAX_REPEATS):
        diag.send(request)
        records: list[SocketRecord] = []
        more, all_flags = True, 0
        while more:
            more, flags = _parse(diag.recv(_RECEIVE_BYTES), query, records)
            all_flags |= flags
        if not all_flags & _NLM_F_DUMP_INTR:
            break
    return records


def _parse(data: bytes, query: _Query, records: list[SocketRecord]) -> tuple[bool, int]:
    """Append what one datagram holds to `records`; return whether more follow, and all flags.

    Raises OSError where the kernel reports a failure, EBADMSG for what is no answer of sock_diag.
    """
    try:
        return _parse_messages(data, query, records)
    except (struct.error, ValueError):  # cut off, or of another family
        raise malformed() from None


def malformed() -> OSError:
    """Return the error for something that is no answer."""
    return OSError(errno.EBADMSG, "sock_diag gave a malformed answer")


def failure_in(data: bytes, offset: int) -> int:
    """Return the errno that a message at `offset` reports, 0 for none."""
    failure: int = -_ERRNO.unpack_from(data, offset + _HEADER.size)[0]
    if failure > _LARGEST_ERRNO:
        raise malformed()
    return max(failure, 0)


def _parse_messages(data: bytes, query: _Query, records: list[SocketRecord]) -> tuple[bool, int]:
    protocol, states, port = query
    udp = protocol == "udp"
    all_flags = offset = 0
    while offset < len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            raise malformed()
        all_flags |= flags
        body = offset + _HEADER.size
        if kind in (_NLMSG_DONE, NLMSG_ERROR):
            # A dump that fails on its way says so in NLMSG_DONE, with a negative number.
            failure = failure_in(data, offset)
            if failure:
                raise OSError(failure, f"sock_diag: {errno.errorcode.get(failure, failure)}")
            return False, all_flags
        if kind not in _ANSWERS or length < _HEADER.size + _MESSAGE.size:
            raise malformed()
        family, state, port1, port0, peer1, peer0, source, peer, interface, timer, uid, inode = (
            _MESSAGE.unpack_from(data, body)
        )
        local_port = port1 << 8 | port0
        if state == State.CLOSE and not udp:
            state = State.BOUND_INACTIVE
        # Checked again: a socket may change its state after the kernel chose it, and not every
        # kernel checks the port in every table.
        if state in states and (port is None or local_port == port):
            receive_buffer = v6only = None
            if udp or (family == _IPV6 and state in _UNCONNECTED):
                receive_buffer, v6only = _attributes(data, body + _MESSAGE.size, offset + length)
            records.append(SocketRecord(
                protocol,
                family,
                _address(family, source),
                local_port,
                _STATES[state],
                uid,
                inode,
                receive_buffer,
                _address(family, peer),
                peer1 << 8 | peer0,
                v6only,
                interface,
                timer / 1000 if state == State.TIME_WAIT else None,
            ))  # fmt: skip
        offset += (length + 3) & ~3
    return True, all_flags


def _attributes(data: bytes, offset: int, end: int) -> tuple[int | None, bool | None]:
    """The receive buffer and IPV6_V6ONLY, where the kernel gave them."""
    receive_buffer: int | None = None
    v6only: bool | None = None
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise malformed()
        if kind == _INET_DIAG_SKMEMINFO:
            receive_buffer = _WORD.unpack_from(data, offset + 4 + 4 * _SK_MEMINFO_RCVBUF)[0]
        elif kind == _INET_DIAG_SKV6ONLY:
            v6only = _BYTE.unpack_from(data, offset + 4)[0] != 0
        offset += (length + 3) & ~3
    return receive_buffer, v6only


@functools.lru_cache(maxsize=1024)
def _address(family: int, raw: bytes) -> str:
    return socket.inet_ntop(family, raw[:4] if family == _IPV4 else raw)


def read_proc_net(
    protocol: str,
    states: Collection[State],
    *,
    port: int | None = None,
    process: int | str = "thread-self",
) -> list[SocketRecord]:
    """As `read_sockets`, from /proc/net/{tcp,udp}{,6} only (proc_pid_net(5)).

    With `process`, in that process's network namespace; it may be any user's. There are no receive
    buffers, and no sockets in state BOUND_INACTIVE: the kernel does not list those there. Raises
    OSError where the files cannot be read.
    """
    _protocol_number(protocol)  # raises for another
    records: list[SocketRecord] = []
    wanted = {f"{int(state):02X}": state for state in states}
    for family, suffix in ((_IPV4, ""), (_IPV6, "6")):
        try:
            # Not /proc/net: that is the main thread's namespace, and netlink asks the own one.
            with open(f"/proc/{process}/net/{protocol}{suffix}", encoding="utf-8") as file:
                lines = file.readlines()
        except FileNotFoundError:
            if family == _IPV4:
                raise
            continue  # a machine without IPv6
        for line in lines[1:]:
            _, local, remote, code, _, timer, _, uid, _, inode, *_ = line.split(None, 10)
            if code not in wanted:
                continue
            address, _, local_port = local.partition(":")
            if port is not None and int(local_port, 16) != port:
                continue
            peer_address, _, peer_port = remote.partition(":")
            records.append(SocketRecord(
                protocol,
                family,
                _hex_address(family, address),
                int(local_port, 16),
                wanted[code],
                int(uid),
                int(inode),
                None,
                _hex_address(family, peer_address),
                int(peer_port, 16),
                None,
                0,
                _seconds(timer) if wanted[code] == State.TIME_WAIT else None,
            ))  # fmt: skip
    return _once_each(records)


def _once_each(records: list[SocketRecord]) -> list[SocketRecord]:
    # The kernel makes a listing in pieces, and counts to find where the next one begins. A socket
    # that is added before that place makes it list another one twice. No two sockets are equal in
    # everything but the timer, which runs on between the pieces.
    return list({record[:-1]: record for record in records}.values())


def _seconds(timer: str) -> float:
    return int(timer.partition(":")[2], 16) / _TICKS


@functools.lru_cache(maxsize=1024)
def _hex_address(family: int, text: str) -> str:
    # Each 32-bit word of the address, in network order in memory, is printed as a native number.
    words = [_WORD.pack(int(text[i : i + 8], 16)) for i in range(0, len(text), 8)]
    return socket.inet_ntop(family, b"".join(words))


def _protocol_number(protocol: str) -> int:
    try:
        return _PROTOCOLS[protocol]
    except KeyError:
        raise ValueError(f"protocol must be 'tcp' or 'udp', not {protocol!r}") from None


@functools.cache
def can_see_bound_inactive() -> bool:
    """Return whether this kernel shows TCP sockets that are bound and do not listen (Linux 6.8).

    Asks about a socket of its own, once a process. Raises OSError where that socket cannot be
    bound (no free port); the next call asks again.
    """
    with lock, _Socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        _bind_somewhere(probe)
        try:
            return bool(read_netlink("tcp", {State.BOUND_INACTIVE}, port=probe.getsockname()[1]))
        except OSError:
            return False


def _bind_somewhere(probe: socket.socket) -> None:
    # Not 127.0.0.1: machines with IPv6 alone do not have it.
    try:
        return probe.bind(("0.0.0.0", 0))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        full = error
    # The ephemeral port range is full, and so most of the others are free.
    for port in range(1024, 65536, 1021):
        with suppress(OSError):
            return probe.bind(("0.0.0.0", port))
    raise full


@functools.cache
def smallest_receive_buffer() -> int:
    """Return the smallest SO_RCVBUF that can be set, in bytes (SOCK_MIN_RCVBUF, net/sock.h)."""
    with _Socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

"""The TCP and UDP sockets of the current network namespace.

Two readers with one signature: `read_netlink` asks sock_diag(7), which filters inside the kernel
and answers for listeners in some 20 microseconds; `read_proc_net` parses proc_pid_net(5), which
is always there but costs milliseconds and cannot show bound sockets that do not listen.
`read_sockets` uses the first and falls back to the second.
"""

import errno
import functools
import socket
import struct
from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import NamedTuple

from ephemport._kernel.fork import lock

# Kept from the start: tests patch socket.socket, and want their numbers all the same.
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
    A half-open connection is reported as SYN_RECV; NEW_SYN_RECV is the kernel's own bookkeeping.
    BOUND_INACTIVE is a TCP socket that is bound and neither listens nor connects. To the kernel it
    is a name in netlink queries only (net/ipv4/inet_diag.c, Linux 6.8), which it answers with
    CLOSE; records say BOUND_INACTIVE. No TCP record is ever in state CLOSE.
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
    connection it accepted reads ``::ffff:127.0.0.1``. `uid` is the owner's user id as seen from
    the current user namespace. `inode` is the number in ``socket:[...]`` under ``/proc/PID/fd``,
    0 for sockets that no process has open any more (TIME_WAIT) or yet (SYN_RECV). Without a peer
    `peer_port` is 0 and `peer_address` the wildcard.
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
    seconds_left: float | None = None
    """For TIME_WAIT: how long the kernel will keep it yet."""


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
# addresses, then past interface and cookie the timer's milliseconds, past the queues uid and inode
_MESSAGE = struct.Struct("=BB2x4B16s16s12xI8xII")
# What /proc/net counts the timer in (jiffies_delta_to_clock_t), on every machine of today.
_TICKS = 100

# The kernel makes at most 32 KiB of dump at a time (netlink_dump in net/netlink/af_netlink.c).
_RECEIVE_BYTES = 1 << 16

# A process elsewhere can only disturb so many dumps in a row before the kernel is at fault.
_MAX_REPEATS = 10

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

    `protocol` is ``"tcp"`` or ``"udp"``; with `port` only sockets with that local number. Asks
    netlink, and reads /proc/net where netlink is refused. Sockets that come or go meanwhile may
    be missed, and in listings longer than one read (32 KiB from netlink, some hundred sockets;
    a page from /proc) they can make the kernel miss a neighbour. Ask again before concluding from
    absence; with `port`, netlink's answer fits in one.

    Raises ValueError for another protocol, OSError where neither source can be read.
    """
    try:
        return read_netlink(protocol, states, port=port)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    return read_proc_net(protocol, states, port=port)


def read_netlink(
    protocol: str, states: Collection[State], *, port: int | None = None
) -> list[SocketRecord]:
    """As `read_sockets`, through NETLINK_SOCK_DIAG only (sock_diag(7)).

    Raises OSError where it is refused.
    """
    query = _Query(protocol, frozenset(states), port)
    # A socket per call costs 3 us, and is always in the namespace and the process it serves.
    # Nothing is waited for: the kernel writes each part of an answer before the call that asks for
    # it returns (netlink_dump in net/netlink/af_netlink.c), and what never comes would be waited
    # for without end.
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with _Socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as diag:
        records: list[SocketRecord] = []
        for request in _requests(query):
            records += _dump(diag, request, query)
    return _once_each(records)


def _requests(query: _Query) -> Iterator[bytes]:
    number = _protocol_number(query.protocol)
    mask = sum(1 << state for state in query.states)
    # inet_diag_sockid: the kernel leaves out sockets with another local port, 0 being any; the
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

    Raises OSError where the kernel says that it failed, EBADMSG for what is no answer of sock_diag.
    """
    try:
        return _parse_messages(data, query, records)
    except (struct.error, ValueError):  # cut off, or of another family
        raise malformed() from None


def malformed() -> OSError:
    """The error for an answer that is none."""
    return OSError(errno.EBADMSG, "sock_diag gave a malformed answer")


def failure_in(data: bytes, offset: int) -> int:
    """The error number that a message at `offset` reports, 0 for none."""
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
        family, state, port1, port0, peer1, peer0, source, peer, timer, uid, inode = (
            _MESSAGE.unpack_from(data, body)
        )
        number = port1 << 8 | port0
        if state == State.CLOSE and not udp:
            state = State.BOUND_INACTIVE
        # Checked again: a socket may change its state between the kernel's choosing it and its
        # describing it, and not every kernel minds the port number in every table.
        if state in states and (port is None or number == port):
            receive_buffer = v6only = None
            if udp or (family == _IPV6 and state in _UNCONNECTED):
                receive_buffer, v6only = _attributes(data, body + _MESSAGE.size, offset + length)
            records.append(SocketRecord(
                protocol,
                family,
                _address(family, source),
                number,
                _STATES[state],
                uid,
                inode,
                receive_buffer,
                _address(family, peer),
                peer1 << 8 | peer0,
                v6only,
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

    With `process`, in that one's network namespace, whoever's it is. Has no receive buffers and
    never a socket in state BOUND_INACTIVE: the kernel does not list those there. Raises OSError
    where the files cannot be read.
    """
    _protocol_number(protocol)  # raises for another
    records: list[SocketRecord] = []
    wanted = {f"{int(state):02X}": state for state in states}
    for family, suffix in ((_IPV4, ""), (_IPV6, "6")):
        try:
            # Not /proc/net: that is the main thread's namespace, while netlink has our own.
            with open(f"/proc/{process}/net/{protocol}{suffix}", encoding="ascii") as file:
                lines = file.readlines()
        except FileNotFoundError:
            if family == _IPV4:
                raise
            continue  # a machine without IPv6
        for line in lines[1:]:
            _, local, remote, code, _, timer, _, uid, _, inode, *_ = line.split(None, 10)
            if code not in wanted:
                continue
            address, _, number = local.partition(":")
            if port is not None and int(number, 16) != port:
                continue
            peer_address, _, peer_number = remote.partition(":")
            records.append(SocketRecord(
                protocol,
                family,
                _hex_address(family, address),
                int(number, 16),
                wanted[code],
                int(uid),
                int(inode),
                None,
                _hex_address(family, peer_address),
                int(peer_number, 16),
                None,
                _seconds(timer) if wanted[code] == State.TIME_WAIT else None,
            ))  # fmt: skip
    return _once_each(records)


def _once_each(records: list[SocketRecord]) -> list[SocketRecord]:
    # A listing is made in pieces, each found again by counting: what comes before it meanwhile
    # makes the kernel list a socket twice. No two sockets are alike in everything but the timer,
    # which runs on from one to the other.
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
    """Tell whether this kernel shows TCP sockets that are bound and do not listen (Linux 6.8).

    Asks about a socket of its own, once a process. Raises OSError where not even that can be
    bound to 127.0.0.1 (no loopback, no free port); the next call asks again.
    """
    with lock, _Socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        try:
            return bool(read_netlink("tcp", {State.BOUND_INACTIVE}, port=probe.getsockname()[1]))
        except OSError:
            return False


@functools.cache
def smallest_receive_buffer() -> int:
    """Return the least that SO_RCVBUF can be set to, in bytes (SOCK_MIN_RCVBUF, net/sock.h)."""
    with _Socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

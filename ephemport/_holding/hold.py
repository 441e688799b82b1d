"""The sockets that keep a number: exclusive, open, shadow. The place for setsockopt().

A hold is bound and never listens. It starts exclusive: bound on the wildcard address of both
families with every option off, so that the kernel gives its number to nobody, whatever they set
(man 7 socket, SO_REUSEADDR; net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict). Then it may
be opened, so that a server can take it over, or moved to an address that the server does not use.
"""

import errno
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_RCVBUF,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    SocketType,
    socket,
)
from typing import Protocol

from ephemport import _spelling
from ephemport._holding.host import Endpoint, is_of_this_machine
from ephemport._kernel.fork import lock
from ephemport._kernel.protocols import KINDS
from ephemport._kernel.sockets import State, read_sockets
from ephemport._looking.mark import mark_this_process

# `with lock:` looks both up each time, which is a twentieth of what a hold costs. Taken inside of
# the try: a signal that arrives right after the acquire must not leave the lock taken.
_lock, _unlock = lock.acquire, lock.release

_live: set["Hold"] = set()

# The one place that makes sockets for holds. The C type: what socket.socket adds to it in Python
# is not needed here and costs a tenth of a hold.
_new_socket = SocketType

# EACCES: a range that reaches below ip_unprivileged_port_start.
TAKEN = (errno.EADDRINUSE, errno.EACCES)

# Wildcard holds conflict with it, connections and servers practically never use it.
_GATE = "127.255.255.254"


class Lease(Protocol):
    """What a source keeps as long as a number is held, a lock file say."""

    def close(self) -> None:
        """Give it back."""

    def abandon(self) -> None:
        """Drop this process's copy after a fork; the parent still has it."""


class Hold:
    """One number and the socket(s) that keep it. Closed by `close()`, or in a forked child."""

    __slots__ = ("gone_to", "lease", "port", "sockets")

    def __init__(self, port: int, sockets: tuple[SocketType, ...]) -> None:
        self.port = port
        # TCP before UDP; none as soon as the number was let go.
        self.sockets = sockets
        self.lease: Lease | None = None
        self.gone_to: str | None = None
        if not _live:
            mark_this_process()
        _live.add(self)

    @property
    def closed(self) -> bool:
        """Whether the number was let go (by this process)."""
        return not self.sockets

    def close(self) -> None:
        """Let the number go. May be called often, and from any thread."""
        try:
            _lock()
            for sock in self.sockets:
                sock.close()
            self.sockets = ()
            _live.discard(self)
            if self.lease is not None:
                self.lease.close()
                self.lease = None
        finally:
            _unlock()

    def _abandon(self, parent: int) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = ()
        self.gone_to = f"kept by pid {parent}, which this process was forked from"
        if self.lease is not None:
            self.lease.abandon()
            self.lease = None

    def open(self) -> None:
        """Let TCP servers in that set SO_REUSEADDR or SO_REUSEPORT; UDP stays exclusive.

        After the bind both options cost nothing and give nothing away: `bind(0)` and `connect()`
        never share a number that somebody bound. A second UDP socket, on the other hand, would
        take the datagrams, so UDP is opened only while a socket is handed over.
        """
        sock = self.sockets[0]
        if sock.type == SOCK_STREAM:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)

    @contextmanager
    def ajar(self, kind: int) -> Iterator[None]:
        """Let sockets with SO_REUSEADDR in while the block runs, if the hold is exclusive."""
        with lock:
            shut = [
                sock
                for sock in self.sockets
                if sock.type == kind and not sock.getsockopt(SOL_SOCKET, SO_REUSEADDR)
            ]
            for sock in shut:
                sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            try:
                yield
            finally:
                for sock in shut:
                    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)

    def move_to_shadow(self, addresses: dict[int, Endpoint]) -> None:
        """Keep the number from the given addresses (by socket kind) instead of the wildcard.

        At no moment is the number free: the shadow is bound beside the wildcard, then that goes.
        """
        with lock:
            moved: list[SocketType] = []
            try:
                for sock in self.sockets:
                    there = addresses.get(sock.type)
                    moved.append(_shadow(sock, there) if there is not None else sock)
            except BaseException:
                _close_all_but(self.sockets, moved)
                raise
            _close_all_but(moved, self.sockets)
            self.sockets = tuple(moved)

    def listener(self, endpoint: Endpoint, backlog: int | None) -> socket:
        """A TCP socket that listens on `endpoint`, under the hold. Raises OSError."""
        sock = socket(endpoint.family, SOCK_STREAM)
        try:
            with self.ajar(SOCK_STREAM):
                _bind_beside(sock, endpoint, self.port)
                # listen() looks for conflicts once more (inet_csk_listen_start).
                sock.listen() if backlog is None else sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def receiver(self, endpoint: Endpoint) -> socket:
        """A UDP socket bound to `endpoint`, under the hold. Raises OSError."""
        for held in self.sockets:
            if held.type == SOCK_DGRAM and held.family == endpoint.family and endpoint.is_wildcard:
                # On the very same address the kernel would choose between the two, so share one.
                sock = socket(fileno=os.dup(held.fileno()))
                sock.setsockopt(SOL_SOCKET, SO_RCVBUF, _default_receive_buffer() // 2)
                return sock
        sock = socket(endpoint.family, SOCK_DGRAM)
        try:
            with self.ajar(SOCK_DGRAM):
                _bind_beside(sock, endpoint, self.port)
                sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
        except BaseException:
            sock.close()
            raise
        return sock


def hold(port: int, protocol: str) -> Hold:
    """Hold `port` exclusively on every address; 0 lets the operating system choose.

    Raises OSError: EADDRINUSE when the number (or, for 0, every number) is taken.
    """
    try:
        _lock()
        sock = _exclusive(SOCK_DGRAM if protocol == "udp" else SOCK_STREAM, port)
        port = sock.getsockname()[1]
        if protocol != "both":
            return Hold(port, (sock,))
        try:
            return Hold(port, (sock, _exclusive(SOCK_DGRAM, port)))
        except BaseException:
            sock.close()
            raise
    finally:
        _unlock()


def hold_first(ports: Iterable[int], protocol: str) -> Hold | None:
    """Hold the first of `ports` that is free, exclusively; None when none of them is."""
    if protocol == "both":
        for port in ports:
            try:
                return hold(port, protocol)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
        return None
    kind = SOCK_DGRAM if protocol == "udp" else SOCK_STREAM
    with lock:
        # A socket whose bind was refused can be bound again: a try costs one system call.
        sock, address = _wildcard_socket(kind)
        try:
            for port in ports:
                try:
                    sock.bind((address, port))
                except OSError as error:
                    if error.errno not in TAKEN:
                        raise
                else:
                    _refuse_datagrams(sock)
                    return Hold(port, (sock,))
        except BaseException:
            sock.close()
            raise
        sock.close()
        return None


def hold_number(port: int, protocol: str) -> Hold:
    """Like `hold()`, for a number asked for by name: its own TIME_WAITs are not in the way.

    A number whose last server closed its connections stays in TIME_WAIT for 60 s (TCP_TIMEWAIT_LEN)
    and only a bind with SO_REUSEADDR set gets it meanwhile. Such a bind is not exclusive, so the
    number is first taken on an address of its own, where every other hold of it would conflict.
    """
    try:
        return hold(port, protocol)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or protocol == "udp":
            raise
        with lock:
            tcp = _past_time_wait(port, error)
            try:
                if protocol == "tcp":
                    return Hold(port, (tcp,))
                return Hold(port, (tcp, _exclusive(SOCK_DGRAM, port)))
            except BaseException:
                tcp.close()
                raise


def adopt_sockets(port: int, sockets: tuple[SocketType, ...]) -> Hold:
    """A hold made of sockets that another process bound."""
    with lock:
        return Hold(port, sockets)


def live_inodes() -> set[int]:
    """The inodes of the sockets of every live hold of this process."""
    with lock:
        return {os.fstat(sock.fileno()).st_ino for hold in _live for sock in hold.sockets}


def shadow_addresses(host: str, endpoint: Endpoint, protocol: str) -> dict[int, Endpoint]:
    """Where the shadow of a server on `host` goes, by socket kind. ValueError: nowhere."""
    return {kind: _shadow_address(host, endpoint, kind) for kind in KINDS[protocol]}


def _wildcard_socket(kind: int) -> tuple[SocketType, str]:
    """A socket of both families if there are two, and the address that covers all of them."""
    try:
        sock = _new_socket(AF_INET6, kind)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return _new_socket(AF_INET, kind), "0.0.0.0"
    try:
        sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
    except BaseException:
        sock.close()
        raise
    return sock, "::"


def _exclusive(kind: int, port: int) -> SocketType:
    # _wildcard_socket() written out: as a call it was a fiftieth of what a hold costs, and took
    # reserve() beyond 1.3 times the bare system calls.
    try:
        sock = _new_socket(AF_INET6, kind)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        sock = _new_socket(AF_INET, kind)
    try:
        if sock.family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            sock.bind(("::", port))
        else:
            sock.bind(("0.0.0.0", port))
        if kind == SOCK_DGRAM:
            _refuse_datagrams(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_datagrams(sock: SocketType) -> None:
    # A UDP hold wants none; the smallest buffer also tells it from a server (sock_diag).
    if sock.type == SOCK_DGRAM:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)


def _past_time_wait(port: int, taken: OSError) -> SocketType:
    with socket(AF_INET, SOCK_STREAM) as gate:
        # Any hold and any server on a wildcard conflicts with this bind, whatever it set.
        gate.bind((_GATE, port))
        gate.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock, address = _wildcard_socket(SOCK_STREAM)
        try:
            _bind_beside(sock, Endpoint(sock.family, address), port)
        except BaseException:
            sock.close()
            raise
    try:
        mine = os.fstat(sock.fileno()).st_ino
        # A server between its bind() and its listen() on one address passes the gate.
        others = read_sockets("tcp", {State.BOUND_INACTIVE, State.LISTEN}, port=port)
        if any(record.inode != mine for record in others):
            raise taken
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_beside(sock: SocketType, endpoint: Endpoint, port: int) -> None:
    if endpoint.family == AF_INET6:
        sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    sock.bind(endpoint.sockaddr(port))


def _shadow(sock: SocketType, endpoint: Endpoint) -> SocketType:
    shadow = _new_socket(endpoint.family, sock.type)
    try:
        if endpoint.family == AF_INET6:
            shadow.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        shadow.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        shadow.bind(endpoint.sockaddr(sock.getsockname()[1]))
        shadow.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
        _refuse_datagrams(shadow)
    except BaseException:
        shadow.close()
        raise
    return shadow


def _close_all_but(kept: Collection[SocketType], sockets: Iterable[SocketType]) -> None:
    for sock in sockets:
        if sock not in kept:
            sock.close()


def _shadow_address(host: str, endpoint: Endpoint, kind: int) -> Endpoint:
    v6_loopback = Endpoint(AF_INET6, "::1")
    v4_loopback = Endpoint(AF_INET, "127.0.0.2" if endpoint.address != "127.0.0.2" else "127.0.0.3")
    if endpoint.family == AF_INET6 and endpoint.is_wildcard:
        raise ValueError(
            f"no shadow can exist for a server on {host!r}: it conflicts with a hold on any "
            f"address. What is left: {_spelling.TAKEOVER}, which keeps the full hold and lets in "
            f"servers that set SO_REUSEADDR; {_spelling.ASSIST}, which sets it for them; or "
            f"{_spelling.FD}"
        )
    if endpoint.is_wildcard:
        if is_of_this_machine(v6_loopback):
            return v6_loopback
        raise ValueError(
            f"no shadow can exist for a server on {host!r} without IPv6: it conflicts with a hold "
            f"on any IPv4 address. What is left: {_spelling.HOST} 127.0.0.1, "
            f"{_spelling.TAKEOVER}, or {_spelling.FD}"
        )
    # A server on "localhost" may bind either family, or both: only another IPv4 address is free.
    v4_only = endpoint.family == AF_INET and host != "localhost"
    if kind == SOCK_STREAM and v4_only and is_of_this_machine(v6_loopback):
        return v6_loopback
    return v4_loopback


def _default_receive_buffer() -> int:
    with open("/proc/sys/net/core/rmem_default", encoding="ascii") as file:
        return int(file.read())


def _after_fork_in_child() -> None:
    parent = os.getppid()
    for held in _live:
        held._abandon(parent)
    _live.clear()
    lock.release()


os.register_at_fork(
    before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child
)

"""The sockets that keep a port: exclusive, open, shadow. The place for setsockopt().

A hold is bound and never listens. It starts exclusive: bound on the wildcard address of both
families with every option off. So the kernel gives its port to nobody else, with any option (man 7
socket, SO_REUSEADDR; net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict). Then the hold may be
opened, so that a server can take it over, or moved to an address that the server does not use.

Two things can happen to a hold at any moment, and it survives both:

- A signal handler raises (Ctrl-C, pytest-timeout). Only its reservation refers to a hold. So a hold
  that never became a reservation ends with the frame that had it. Nothing takes a lock in between.
- Other code of this process closes its descriptor (os.closerange(), a daemonizing library), and the
  number of the descriptor is used for another file. A hold recognizes its sockets by the identity
  that the kernel gave them, and touches nothing else.
"""

import errno
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
from time import monotonic, sleep
from typing import Protocol
from weakref import ref

from ephemport._holding.end import End, How
from ephemport._holding.host import Endpoint
from ephemport._holding.identity import (
    Identity,
    close_by_identity,
    close_unless_lost,
    cookie_of,
    identity_of,
    is_still,
)
from ephemport._holding.live import live
from ephemport._kernel.fork import forks, lock
from ephemport._kernel.protocols import NO_SUCH_FAMILY
from ephemport._kernel.sockets import State, read_sockets
from ephemport._looking.mark import mark_this_process

# EACCES: the range reaches below ip_unprivileged_port_start.
TAKEN = (errno.EADDRINUSE, errno.EACCES)

_forget = live.discard


def _mark_and_add(first: "ref[Hold]") -> None:
    """Mark the process at its first hold. From then on only add."""
    global _add_live
    _add_live = live.add
    mark_this_process()
    live.add(first)


_add_live: Callable[["ref[Hold]"], None] = _mark_and_add

# The one place that makes sockets for holds. It is the C type: a hold does not need what
# socket.socket adds in Python, and that would cost a tenth of a hold.
new_socket = SocketType

# Wildcard holds conflict with this address. Connections and servers practically never use it.
_GATE = "127.255.255.254"

# How long to wait for a child that was just forked to close its copies, in seconds.
_PATIENCE_WITH_CHILDREN = 1.0
_PAUSE = 0.0002

# A socket and its identity.
Part = tuple[SocketType, Identity]


class Lease(Protocol):
    """Something that a source keeps as long as a port is held, such as a lock file."""

    def close(self) -> None:
        """Give it back. It may be called often."""

    def abandon(self) -> None:
        """Drop the copy of a forked child. The parent still has it."""


class Hold:
    """One port and the sockets that keep it. `close()` ends it, and so does a fork in the child."""

    # Not set in every hold. left: the kinds of the sockets that a fork left to the parent. sealed:
    # handoff="fd", which lets in no server. for_tests: a test asked for the port.
    left: tuple[int, ...]
    sealed: bool
    for_tests: bool

    __slots__ = (
        "__weakref__", "_end", "for_tests", "forks", "lease", "left", "parts", "port", "sealed",
    )  # fmt: skip

    def __init__(self) -> None:
        # TCP before UDP; none after the port was let go.
        self.parts: tuple[Part, ...] = ()
        self.forks = forks[0]
        self._end: End | None = None
        self.port = 0
        self.lease: Lease | None = None
        _add_live(ref(self, _forget))

    @property
    def sockets(self) -> tuple[SocketType, ...]:
        """The sockets, TCP before UDP; none after the port was let go or lost."""
        return () if self.closed else tuple(sock for sock, _ in self.parts)

    @property
    def closed(self) -> bool:
        """Whether this process no longer holds the port. Asks the kernel."""
        if any(not is_still(sock, identity) for sock, identity in self.parts):
            self._end = End(How.CLOSED)
            self.close()
        return not self.parts

    @property
    def end(self) -> End | None:
        """How it ended. None as long as it holds the port."""
        return None if self.parts else self._end or End(How.RELEASED)

    def close(self) -> None:
        """Let the port go. It may be called often, and from any thread."""
        had = self.parts
        copies = self._inodes() if self.forks != forks[0] else None
        for sock, identity in self.parts:
            try:
                known = cookie_of(sock)
            except OSError:
                known = None
            # If a signal handler raises between the two, the next call goes on.
            if known == identity:
                sock.close()
            else:
                close_unless_lost(sock, identity)
        self.parts = ()
        if self.lease is not None:
            self.lease.close()
            self.lease = None
        self.__class__ = Hold
        if had and self.forks != forks[0] and self._end is None:
            self._wait_for_children(copies)

    def hand_on(self, pid: int) -> None:
        """Let the port go because process `pid` has the sockets now."""
        self._end = End(How.ADOPTED, pid)
        self.close()

    def _inodes(self) -> set[int]:
        own = [sock for sock, identity in self.parts if is_still(sock, identity)]
        return {os.fstat(sock.fileno()).st_ino for sock in own}

    def _wait_for_children(self, copies: set[int] | None) -> None:
        """Return when children that were just forked have closed their copies of the sockets.

        That is the first thing that a child does (`live`), but os.fork() may return
        here earlier. copies: their inodes; None for a fork in the very moment of the close, where
        whatever is bound to the port and quiet may be one. Only Linux 6.8 and newer show the copies
        (TCP). Elsewhere this does not wait.
        """
        deadline = monotonic() + _PATIENCE_WITH_CHILDREN
        while copies is None or copies:
            try:
                tcp = read_sockets("tcp", {State.BOUND_INACTIVE}, port=self.port)
                udp = read_sockets("udp", {State.CLOSE}, port=self.port)
            except OSError:
                return
            seen = {record.inode for record in (*tcp, *udp)}
            copies = seen if copies is None else copies & seen
            if monotonic() > deadline:
                return
            if copies:
                sleep(_PAUSE)

    def abandon(self, parent: int) -> None:
        """In a forked child: close the copies. The parent, whose pid is given, has the port."""
        if self.parts:
            self._end = End(How.FORKED, parent)
            self.left = tuple(sock.type for sock, _ in self.parts)
        for sock, identity in self.parts:
            if sock.fileno() != -1:
                close_unless_lost(sock, identity)
            else:
                close_by_identity(identity)
        self.parts = ()
        if self.lease is not None:
            self.lease.abandon()
            self.lease = None

    def add(self, family: int, kind: int) -> SocketType:
        """Add a socket to this hold, not bound. Raises OSError."""
        while True:
            before = forks[0]
            sock = new_socket(family, kind)
            try:
                self.parts = (*self.parts, (sock, identity_of(sock)))
                if forks[0] == before:
                    return sock
                # A forked child may have an unknown copy. This socket must not be bound.
                self.parts = self.parts[:-1]
                sock.close()
            except BaseException:
                sock.close()
                raise

    def bind(self, kind: int, port: int) -> None:
        """Hold `port` for sockets of `kind`, exclusively. 0: the operating system assigns one.

        Raises OSError: EADDRINUSE if the port (or, for 0, every port) is taken.
        """
        sock, address = self._add_wildcard(kind)
        sock.bind((address, port))
        _refuse_datagrams(sock)
        self.port = sock.getsockname()[1]

    def bind_first(self, kind: int, ports: Iterable[int]) -> bool:
        """As `bind()`, for the first of `ports` that is free. False: none is free."""
        # A socket can try to bind again after a refusal, so a try costs one system call.
        sock, address = self._add_wildcard(kind)
        for port in ports:
            try:
                sock.bind((address, port))
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
            else:
                _refuse_datagrams(sock)
                self.port = port
                return True
        return False

    def _add_wildcard(self, kind: int) -> tuple[SocketType, str]:
        """A socket of both families, or of IPv4 alone, and the address that covers all of them."""
        try:
            sock = self.add(AF_INET6, kind)
        except OSError as error:
            if error.errno not in NO_SUCH_FAMILY:
                raise
            return self.add(AF_INET, kind), "0.0.0.0"
        sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        return sock, "::"

    def bind_past_time_wait(self, port: int, taken: OSError) -> None:
        """Hold TCP `port`, although connections that its last server closed are in TIME_WAIT.

        For 60 s (TCP_TIMEWAIT_LEN) only a bind with SO_REUSEADDR gets such a port, and such a bind
        is not exclusive. So the port is first bound on an address of its own, where every other
        hold of the port would conflict. Raises `taken` if a socket is in the way.
        """
        gate = Hold()
        try:
            guard = gate.add(AF_INET, SOCK_STREAM)
            # Any hold and any server on a wildcard conflicts with this bind, with any option.
            try:
                guard.bind((_GATE, port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                # A machine without an IPv4 address. So the connections in TIME_WAIT have IPv6 ones.
                guard.bind(("0.0.0.0", port))
            guard.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock, address = self._add_wildcard(SOCK_STREAM)
            _bind_beside(sock, Endpoint(sock.family, address), port)
        finally:
            gate.close()
        mine = os.fstat(sock.fileno()).st_ino
        # The gate does not see a server on one address between its bind() and its listen().
        others = read_sockets("tcp", {State.BOUND_INACTIVE, State.LISTEN}, port=port)
        if any(record.inode != mine for record in others):
            raise taken
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
        self.port = port

    def open(self) -> None:
        """Let in TCP servers that set SO_REUSEADDR or SO_REUSEPORT. UDP stays exclusive.

        After the bind both options give the port to nobody: `bind(0)` and `connect()` never share a
        port that is bound. But a second UDP socket would take the datagrams, so UDP is opened only
        while a socket is handed over.
        """
        sock = self.parts[0][0]
        if sock.type == SOCK_STREAM:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)

    def _shut(self, kind: int) -> list[SocketType]:
        return [
            sock
            for sock in self.sockets
            if sock.type == kind and not sock.getsockopt(SOL_SOCKET, SO_REUSEADDR)
        ]

    @contextmanager
    def ajar(self, kind: int) -> Iterator[None]:
        """Let in sockets with SO_REUSEADDR while the block runs, if the hold is exclusive."""
        with lock:
            shut = self._shut(kind)
            try:
                for sock in shut:
                    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                yield
            finally:
                for sock in shut:
                    with suppress(OSError):  # closed by whoever interrupted the block
                        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)

    def move_to_shadow(self, addresses: dict[int, Endpoint]) -> None:
        """Hold the port on the given addresses (by socket kind) instead of the wildcard.

        The port is never free: the shadow is bound beside the wildcard, then the wildcard is
        closed. Raises OSError, and then the hold is unchanged.
        """
        before = self.parts
        try:
            for sock, _ in before:
                if sock.type in addresses:
                    self._shadow(sock, addresses[sock.type])
        except BaseException:
            for sock, _ in self.parts[len(before) :]:
                sock.close()
            self.parts = before
            raise
        shadows = self.parts[len(before) :]
        kept = [part for part in before if part[0].type not in addresses]
        # Closed while it still is a part: a child that is forked meanwhile knows its copy by that.
        for sock, _ in before:
            if sock.type in addresses:
                sock.close()
        self.parts = tuple(sorted([*shadows, *kept], key=lambda part: part[0].type))

    def _shadow(self, sock: SocketType, endpoint: Endpoint) -> None:
        shadow = self.add(endpoint.family, sock.type)
        if endpoint.family == AF_INET6:
            shadow.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        shadow.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        shadow.bind(endpoint.sockaddr(self.port))
        shadow.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
        _refuse_datagrams(shadow)

    def listener(self, endpoint: Endpoint, backlog: int | None) -> socket:
        """A TCP socket that listens on `endpoint`, under the hold. Raises OSError."""
        sock = socket(endpoint.family, SOCK_STREAM)
        try:
            with self.ajar(SOCK_STREAM):
                _bind_beside(sock, endpoint, self.port)
                # listen() checks for conflicts again (inet_csk_listen_start).
                sock.listen() if backlog is None else sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def receiver(self, endpoint: Endpoint) -> socket:
        """A UDP socket bound to `endpoint`, under the hold. Raises OSError."""
        for held in self.sockets:
            if held.type == SOCK_DGRAM and held.family == endpoint.family and endpoint.is_wildcard:
                # On the same address the kernel would choose between the two, so share one.
                sock = socket(held.family, held.type, held.proto, os.dup(held.fileno()))
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


class ReservedHold(Hold):
    """A hold that belongs to a reservation, until it is closed. Only this one may be forgotten.

    An exception of a signal handler is lost in a Python finalizer (it goes to sys.unraisablehook).
    So holds that were closed have no finalizer.
    """

    __slots__ = ()

    def __del__(self) -> None:
        try:
            if not self.closed:
                protocol = "both" if len(self.parts) > 1 else _protocol_of(self.parts[0][0])
                warnings.warn(
                    f"unreleased reservation of port {self.port} ({protocol})",
                    ResourceWarning,
                    stacklevel=1,
                    source=self,
                )
        finally:
            # Even without sockets: a signal handler may have raised before the lease was closed.
            self.close()


def live_inodes() -> set[int]:
    """The inodes of the sockets of every live hold of this process."""
    holds = filter(None, (reference() for reference in list(live)))
    return {os.fstat(sock.fileno()).st_ino for held in holds for sock in held.sockets}


def _protocol_of(sock: SocketType) -> str:
    return "udp" if sock.type == SOCK_DGRAM else "tcp"


def _refuse_datagrams(sock: SocketType) -> None:
    # A UDP hold needs no datagrams. Its small buffer also marks it as no server (sock_diag).
    if sock.type == SOCK_DGRAM:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)


def _bind_beside(sock: SocketType, endpoint: Endpoint, port: int) -> None:
    if endpoint.family == AF_INET6:
        sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    sock.bind(endpoint.sockaddr(port))


def _default_receive_buffer() -> int:
    # Not from /proc/sys, which is out of sight after chroot().
    with socket(AF_INET, SOCK_DGRAM) as fresh:
        return fresh.getsockopt(SOL_SOCKET, SO_RCVBUF)

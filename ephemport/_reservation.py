"""A reservation: a port and the hold that keeps it, from `reserve()` until `release()`."""

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Never, Self, SupportsIndex, overload

from ephemport._arguments import shown
from ephemport._errors import ReservationReleased
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.end import state_of, why_not_held
from ephemport._holding.group import hold_group, hold_one
from ephemport._holding.handoffs import HANDOFFS
from ephemport._holding.hold import Hold, ReservedHold
from ephemport._holding.host import make_url
from ephemport._holding.refusal import explained
from ephemport._holding.request import Request
from ephemport._holding.shape import Shape, shape_of
from ephemport._holding.sources import Source
from ephemport._holding.sources.ephemeral import EPHEMERAL
from ephemport._kernel.fork import lock
from ephemport._later import importing
from ephemport._serving.activation import Argument, Text
from ephemport._serving.start import (
    Handed,
    filled,
    listening_sockets,
    placeholders,
    start,
)
from ephemport._serving.waits import WaitsForServer, WaitsForServers

if TYPE_CHECKING:
    import subprocess

    from ephemport._serving.share import Offer


class Reservation(EndsWithBlock, WaitsForServer):
    """A port that nobody else can be given, until `release()` or the end of the process.

    Made by `reserve()`. A server takes the port over: it binds the port and listens on it. The
    hold stays under the server, so the server may crash and come back. In a child made by
    `os.fork()` the reservation is released: only the process that made it holds the port. A
    reservation cannot be copied or pickled: use `share()` to pass it to another process.

    Args:
        hold: The sockets that keep the port. `reserve()` makes them.
        host: The address that the server will bind, as a string.
        protocol: "tcp", "udp" or "both".
        handoff: "takeover", "shadow" or "fd".

    Raises:
        TypeError: `hold` is not a hold. Call `reserve()` instead of this class.
    """

    __slots__ = ("__weakref__", "_handoff", "_hold", "_host", "_offer", "_port", "_protocol")

    def __init__(self, hold: Hold, host: str, protocol: str, handoff: str) -> None:
        try:
            hold.__class__ = ReservedHold
        except TypeError:
            raise TypeError(
                f"a reservation is not made by hand, of {shown(hold)}: write reserve(), "
                "reserve(port=8080) or reserve_many(3)"
            ) from None
        self._hold = hold
        self._offer: Offer | None = None
        self._port = hold.port
        self._host = host
        self._protocol = protocol
        self._handoff = handoff

    @property
    def port(self) -> int:
        """The port: 1 to 65535."""
        return self._port

    @property
    def host(self) -> str:
        """The address that the server will bind, as it was given to `reserve()`."""
        return self._host

    @property
    def protocol(self) -> str:
        """The protocol of the port: "tcp", "udp" or "both"."""
        return self._protocol

    @property
    def handoff(self) -> str:
        """How the server gets the port: "takeover", "shadow" or "fd"."""
        return self._handoff

    @property
    def address(self) -> tuple[str, int]:
        """The pair `(host, port)`, as `socket.bind()` and most servers take it."""
        return (self._host, self._port)

    @property
    def released(self) -> bool:
        """Whether this process no longer holds the port.

        This asks the kernel. So it is also True after other code closed the descriptor of the
        hold, as os.closerange() and daemonizing libraries do.
        """
        return self._hold.closed

    def url(self, scheme: str = "http", path: str = "") -> str:
        """The URL of a server on this port.

        Args:
            scheme: The part before `://`, such as "http" or "ws".
            path: The part after the port. A slash is put before it where it begins with none of
                "/", "?" and "#".

        Returns:
            `scheme://host:port/path`, with an IPv6 host in brackets.

        Raises:
            TypeError: `scheme` or `path` is not a string.
        """
        return make_url(scheme, self.host, self.port, path)

    def release(self) -> None:
        """Let the port go. It may be called often, and from any thread.

        The port is free when it returns, even if children that os.fork() just made had a copy
        of the socket (TCP, Linux 6.8 and newer). If an exception of a signal handler interrupts
        it, call it again.
        """
        if self._offer is not None:
            self._offer.withdraw()
        self._hold.close()

    _end = release

    def __enter__(self) -> Self:
        if not self._hold.parts:
            self._require_held("enter a with block of")
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __copy__(self) -> Never:
        raise TypeError(f"{self!r} cannot be copied: it {_ONE_OF_A_KIND}")

    def __deepcopy__(self, memo: object) -> Never:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError(f"{self!r} cannot be pickled: it {_ONE_OF_A_KIND}")

    def listen(self, backlog: int | None = None) -> socket.socket:
        """Make a socket that listens on (host, port). The hold stays; the port is never free.

        Clients may connect at once: the kernel queues them.

        Args:
            backlog: How many connections the kernel queues, an int. None takes Python's default.
                The kernel allows at most net.core.somaxconn.

        Returns:
            A listening TCP socket; for "udp" a bound socket that receives; for "both" the TCP
            one. The socket is blocking, and the caller closes it. Other programs inherit it only
            after `set_inheritable(True)`.

        Raises:
            ReservationReleased: This process no longer holds the port.
            PortUnavailable: A server has taken the port over already, or no socket can be made.
            TypeError: `backlog` is not an int.
        """
        tcp_or_udp = "tcp" if self.protocol == "both" else self.protocol
        return listening_sockets(self._handed("listen on")._replace(protocol=tcp_or_udp), backlog)[
            0
        ]

    def popen(
        self,
        args: Text | Sequence[Argument],
        activate: bool = False,
        assist: bool = False,
        **kwargs: Any,
    ) -> "subprocess.Popen[Any]":
        """Start a server: `subprocess.Popen(args, **kwargs)`, with its port filled in.

        Args:
            args: The program and its arguments. Each is a string, bytes, a path, an int, or a
                reservation (its port). `{port}`, `{host}` and `{url}` in strings are replaced;
                `{{` and `}}` are literal braces.
            activate: Pass the listening sockets as descriptors 3, 4, ... with LISTEN_FDS,
                LISTEN_PID and LISTEN_FDNAMES (sd_listen_fds(3)). Clients may connect before the
                server runs, so `wait_listening()` has nothing to wait for.
            assist: Set SO_REUSEADDR for a server that sets neither it nor SO_REUSEPORT, whenever
                the server or a descendant binds the port. `ephemport._serving.assist` has the
                price.
            **kwargs: Passed to `subprocess.Popen`.

        Returns:
            The process. The caller ends it.

        Raises:
            ReservationReleased: This process no longer holds the port.
            PortUnavailable: With `activate`: a server has taken the port over already.
            EphemportError: This machine cannot assist.
            TypeError: `args` is not a command.
            ValueError: `args` is not a command, or no server can bind the port (`handoff="fd"`
                without `activate`).
            OSError: Raised by Popen, which may raise other errors as well.
        """
        return _popen([self], args, activate, assist, kwargs)

    def share(self) -> str:
        """Make a token with which another process of this user can `adopt()` the reservation.

        The token works once, on this machine, until the reservation is released. Then the
        adopter holds the port: the hold of this process ends when the adopter has the sockets.
        The port is free when the adopter releases it or ends.

        Returns:
            The token, a string for `adopt()`. Each call returns the same token, unless
            other code of this process closed its socket (os.closerange()): then a new one.

        Raises:
            ReservationReleased: This process no longer holds the port.
            EphemportError: This process cannot serve the token.
        """
        with importing("share a reservation"):
            from ephemport._serving.share import Offer

        self._require_held("share")
        with lock:
            offer = self._offer
            if offer is None or not offer.is_served:
                if offer is not None:
                    offer.withdraw()
                terms = {"host": self.host, "protocol": self.protocol, "handoff": self.handoff}
                # Known before it is served, so that release() ends it after any exception.
                self._offer = offer = Offer(self._hold, terms)
                offer.serve()
            return offer.token

    def _handed(self, verb: str) -> Handed:
        self._require_held(verb)
        return Handed(self._hold, self.host, self.protocol, f"{self.protocol}-{self.port}")

    def _require_held(self, verb: str) -> None:
        if self.released:
            raise ReservationReleased(
                f"cannot {verb} port {self._port}: {why_not_held(self._hold.end)}",
                port=self._port,
                protocol=self._protocol,
            )

    def __index__(self) -> int:
        return self.port

    def __repr__(self) -> str:
        if not hasattr(self, "_handoff"):
            return object.__repr__(self)  # interrupted while it was made
        state = state_of(self._hold.end) if self.released else "held"
        return (
            f"<Reservation {self._port} host={self._host!r} protocol={self._protocol!r} "
            f"handoff={self._handoff!r} {state}>"
        )


_ONE_OF_A_KIND = (
    "is held by this process. For another process there is share(), which gives a token that "
    "it can adopt()"
)


class ReservationGroup(EndsWithBlock, WaitsForServers, Sequence[Reservation]):
    """Several reservations that end together. Made by `reserve_many()`.

    Args:
        reservations: The reservations, in order.

    Raises:
        TypeError: `reservations` has something that is not a reservation.
    """

    __slots__ = ("__weakref__", "_reservations")

    def __init__(self, reservations: Iterable[Reservation]) -> None:
        self._reservations = tuple(_checked_reservations(reservations))

    @property
    def ports(self) -> list[int]:
        """The ports, in order."""
        return [reservation.port for reservation in self._reservations]

    @property
    def released(self) -> bool:
        """Whether this process no longer holds any of the ports."""
        return all(reservation.released for reservation in self._reservations)

    def release(self) -> None:
        """Let all ports go. It may be called often, and from any thread."""
        for reservation in self._reservations:
            reservation.release()

    _end = release

    def _waited_on(self) -> Sequence[Reservation]:
        return self._reservations

    def popen(
        self,
        args: Text | Sequence[Argument],
        activate: bool = False,
        assist: bool = False,
        **kwargs: Any,
    ) -> "subprocess.Popen[Any]":
        """Start one server with all ports, as `Reservation.popen()` does with one.

        Args:
            args: As for `Reservation.popen()`. `{port0}`, `{host0}`, `{url0}`, `{port1}`, ... in
                strings are replaced. `{port}`, `{host}` and `{url}` are those of the first.
            activate: As for `Reservation.popen()`, with a socket for each port.
            assist: As for `Reservation.popen()`, for each port.
            **kwargs: Passed to `subprocess.Popen`.

        Returns:
            The process. The caller ends it.

        Raises:
            ReservationReleased: This process no longer holds one of the ports.
            PortUnavailable: With `activate`: a server has taken a port over already.
            EphemportError: This machine cannot assist.
            TypeError: `args` is not a command.
            ValueError: `args` is not a command, or no server can bind a port (`handoff="fd"`
                without `activate`).
            OSError: Raised by Popen, which may raise other errors as well.
        """
        return _popen(self._reservations, args, activate, assist, kwargs)

    @overload
    def __getitem__(self, position: int) -> Reservation: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Reservation]: ...
    def __getitem__(self, position: int | slice) -> Reservation | Sequence[Reservation]:
        return self._reservations[position]

    def __len__(self) -> int:
        return len(self._reservations)

    def __enter__(self) -> Self:
        for reservation in self._reservations:
            reservation.__enter__()
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __copy__(self) -> Never:
        raise TypeError(f"{self!r} cannot be copied: each port {_ONE_OF_A_KIND}")

    def __repr__(self) -> str:
        return f"<ReservationGroup {list(self._reservations)!r}>"


def _checked_reservations(reservations: Iterable[Reservation]) -> Iterator[Reservation]:
    if not isinstance(reservations, Iterable):
        raise TypeError(f"a group is made of reservations, not of {shown(reservations)}")
    for one in reservations:
        if not isinstance(one, Reservation):
            raise TypeError(f"a group is made of reservations, not of {shown(one)}")
        yield one


def reserve(
    *,
    host: str = "127.0.0.1",
    protocol: str = "tcp",
    port: SupportsIndex | Iterable[SupportsIndex] | None = None,
    exclude: Iterable[SupportsIndex] = (),
    range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - the users' word, as in port=
    outside_ephemeral: bool = False,
    handoff: str = "takeover",
) -> Reservation:
    """Reserve a port. The operating system assigns it, and a socket holds it from now on.

    Args:
        host: The address that the server will bind, as a string, for URLs and `listen()`. The hold
            covers every address.
        protocol: "tcp", "udp", or "both" (the same port on both).
        port: A preferred port, 1 to 65535, or an iterable of ports to try in order. None: any.
            A single port that is taken is an error. Of several, the next one is tried. If all are
            taken, that is an error too, unless the last one is 0, which means any port.
        exclude: Ports that are never returned, an iterable of ints.
        range: The only ports that may be returned: an iterable of ints, such as `range(20000,
            20100)`. Any one of them is, not the first one. Preferred ports must be in it too, and
            the 0 after them means any port of the range. None: the operating system chooses.
        outside_ephemeral: Whether the port must lie outside of the ephemeral port range, so that
            the operating system never assigns it to anybody (net.ipv4.ip_local_port_range, ip(7)).
            With `range` it is a port of the range that does.
        handoff: How the server gets the port. "takeover" lets in TCP servers that set SO_REUSEADDR
            or SO_REUSEPORT, as nearly all do. "shadow" lets in servers that set neither, TCP or
            UDP. "fd" lets in no server: use `listen()`, `popen(activate=True)` or `share()`. A UDP
            port is exclusive except under "shadow".

    Returns:
        The reservation. It holds the port until `release()` or the end of the process.

    Raises:
        PortsExhausted: No port of those that may be returned, or no file descriptor, is left.
        PortUnavailable: The ports in `port` are taken, or are not those that may be returned.
        CallRefused: The system, or a sandbox, refuses a system call that a hold needs.
        TypeError: An argument is of the wrong type. Nothing was bound.
        ValueError: An argument makes no sense. Nothing was bound.
    """
    if (
        port is None
        and not exclude
        and range is None
        and not outside_ephemeral
        and host == "127.0.0.1"
        and protocol == "tcp"
        and handoff == "takeover"
    ):
        # The usual case. Checks that are not needed would cost a tenth of a hold.
        try:
            hold = EPHEMERAL.hold_usual()
        except OSError as error:
            raise explained(error, protocol) from error
        try:
            return Reservation(hold, host, protocol, handoff)
        except BaseException:
            hold.close()
            raise
    request = Request(host, protocol, port, exclude, handoff, range, outside_ephemeral)
    return reserve_from(EPHEMERAL, request)


def reserve_many(
    count: SupportsIndex | None = None,
    *,
    contiguous: bool = False,
    offsets: Iterable[SupportsIndex] | None = None,
    multiple_of: SupportsIndex = 1,
    host: str = "127.0.0.1",
    protocol: str = "tcp",
    port: SupportsIndex | Iterable[SupportsIndex] | None = None,
    exclude: Iterable[SupportsIndex] = (),
    range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - the users' word, as in port=
    outside_ephemeral: bool = False,
    handoff: str = "takeover",
) -> ReservationGroup:
    """Reserve several ports: all of them or, after an error, none.

    A Redis Cluster node listens on P and on P+10000, RTP on an even port and the next one:

        with reserve_many(offsets=[0, 10000]) as (client, bus):
            client.popen(["redis-server", "--cluster-enabled", "yes", "--port", "{port}"])

        with reserve_many(offsets=[0, 1], multiple_of=2, protocol="udp") as (rtp, rtcp):
            ...

    Args:
        count: How many ports, 0 to 65535. With `offsets` it can be left out.
        contiguous: Whether the ports are in a row: P, P+1, P+2, ...
        offsets: The distance of each port from the first one, an iterable of ints. One of them is
            0. The group has the order of the offsets. No port is below 1 or above 65535. None: the
            ports have no fixed distances.
        multiple_of: An int that the first port can be divided by, such as 2 for an even port. It
            needs `offsets` or `contiguous`.
        host: As for `reserve()`.
        protocol: As for `reserve()`.
        port: As for `reserve()`. Several preferred ports are used in order. With `contiguous` or
            `offsets`, a preferred port is the one at the distance 0.
        exclude: As for `reserve()`. It applies to every port of the group.
        range: As for `reserve()`. It applies to every port of the group.
        outside_ephemeral: As for `reserve()`. It applies to every port of the group.
        handoff: As for `reserve()`.

    Returns:
        The group of reservations, in order.

    Raises:
        PortsExhausted: Not enough ports, or file descriptors, are left.
        PortUnavailable: The ports in `port` are taken, or are not those that may be returned.
        CallRefused: The system, or a sandbox, refuses a system call that a hold needs.
        TypeError: An argument is of the wrong type. Nothing was bound.
        ValueError: An argument makes no sense. Nothing was bound.
    """
    request = Request(host, protocol, port, exclude, handoff, range, outside_ephemeral)
    shape = shape_of(count, contiguous, offsets, multiple_of)
    return reserve_group_from(EPHEMERAL, [request] * shape.length, shape)


def adopt(token: str) -> Reservation:
    """Take a shared reservation over from another process: this process holds the port now.

    Args:
        token: What `Reservation.share()` returned, a string. It works once, within one user and
            one network namespace.

    Returns:
        The reservation.

    Raises:
        EphemportError: Nobody serves the token. Or the process that gave it refuses (a wrong
            token, another user), ends the connection, or does not answer within 10 seconds (the
            cause is then a TimeoutError).
        TypeError: `token` is not a string. Nothing was opened.
        ValueError: `token` is not a token. Nothing was opened.
    """
    with importing("adopt a reservation"):
        from ephemport._serving import adopt as _adopt

    hold, terms = _adopt.adopt(token)
    return Reservation(hold, *terms)


def reserve_from(source: Source, request: Request) -> Reservation:
    """`reserve()`, with the ports of `source`."""
    return Reservation(hold_one(source, request), request.host, request.protocol, request.handoff)


def reserve_many_from(
    source: Source,
    request: Request,
    count: SupportsIndex | None = None,
    *,
    contiguous: bool = False,
    offsets: Iterable[SupportsIndex] | None = None,
    multiple_of: SupportsIndex = 1,
) -> ReservationGroup:
    """`reserve_many()`, with the ports of `source`."""
    shape = shape_of(count, contiguous, offsets, multiple_of)
    return reserve_group_from(source, [request] * shape.length, shape)


def reserve_group_from(
    source: Source, requests: Sequence[Request], shape: Shape
) -> ReservationGroup:
    """One reservation for each request, all or none. `hold_group()` says how they may differ."""
    holds = hold_group(source, requests, shape)
    return ReservationGroup(
        [
            Reservation(hold, request.host, request.protocol, request.handoff)
            for hold, request in zip(holds, requests, strict=True)
        ]
    )


def start_server(
    reservations: Sequence[Reservation],
    command: Text | Sequence[Text],
    *,
    names: Sequence[str] | None = None,
    activate: bool = False,
    assist: bool = False,
    **kwargs: Any,
) -> "subprocess.Popen[Any]":
    """`popen()` for a command that has its ports already; `names` are for LISTEN_FDNAMES."""
    for reservation in reservations:
        if not HANDOFFS[reservation.handoff].servers_bind and not activate:
            raise ValueError(
                f"port {reservation.port} is reserved with handoff={reservation.handoff!r}: no "
                "server can bind it, so start it with activate=True, or reserve with "
                "handoff='takeover'"
            )
    handed = [reservation._handed("start a server on") for reservation in reservations]
    if names is not None:
        handed = [one._replace(name=name) for one, name in zip(handed, names, strict=True)]
    return start(handed, command, activate=activate, assist=assist, **kwargs)


def _popen(
    reservations: Sequence[Reservation],
    args: Text | Sequence[Argument],
    activate: bool,
    assist: bool,
    kwargs: dict[str, Any],
) -> "subprocess.Popen[Any]":
    handed = [reservation._handed("start a server on") for reservation in reservations]
    command = filled(args, placeholders(handed))
    return start_server(reservations, command, activate=activate, assist=assist, **kwargs)

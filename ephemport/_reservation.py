"""A reservation: a number and the hold that keeps it, from `reserve()` until `release()`."""

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Never, Self, SupportsIndex, overload

from ephemport._arguments import checked_count, shown
from ephemport._errors import ReservationReleased
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.handoffs import HANDOFFS
from ephemport._holding.hold import Hold, How, ReservedHold
from ephemport._holding.host import make_url
from ephemport._holding.request import Request, exhausted
from ephemport._holding.sources import Source
from ephemport._holding.sources.ephemeral import EPHEMERAL
from ephemport._kernel.fork import lock
from ephemport._kernel.processes import is_running
from ephemport._later import importing
from ephemport._looking.listeners import Listener
from ephemport._serving.activation import Argument, Text
from ephemport._serving.start import (
    Handed,
    filled,
    listening_sockets,
    placeholders,
    start,
)
from ephemport._serving.wait import ProcessLike, wait_listening, wait_listening_async

if TYPE_CHECKING:
    import subprocess

    from ephemport._serving.share import Offer


class Reservation(EndsWithBlock):
    """A port that nobody else can be given, until `release()` or the end of the process.

    Made by `reserve()`. A server takes the port over by binding and listening on it; the hold
    stays beneath, so that it may crash and come back. In a child made by `os.fork()` the
    reservation is released: only the process that made it holds the port. It cannot be copied
    or pickled: `share()` is the way into another process.
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
        """Where the server will bind, as it was given to `reserve()`."""
        return self._host

    @property
    def protocol(self) -> str:
        """Of which protocol the port is: "tcp", "udp" or "both"."""
        return self._protocol

    @property
    def handoff(self) -> str:
        """How the server gets the port: "takeover", "shadow" or "fd"."""
        return self._handoff

    @property
    def address(self) -> tuple[str, int]:
        """`(host, port)`, as `socket.bind()` and most servers take it."""
        return (self._host, self._port)

    @property
    def released(self) -> bool:
        """Whether this process holds the port no longer.

        The kernel is asked: also after other code closed the descriptor of the hold, as
        os.closerange() and daemonizing libraries do.
        """
        return self._hold.closed

    def url(self, scheme: str = "http", path: str = "") -> str:
        """`scheme://host:port/path`; IPv6 hosts in brackets."""
        return make_url(scheme, self.host, self.port, path)

    def release(self) -> None:
        """Let the port go. May be called often, and from any thread.

        When it returns, the port is free at once, also for children that were just made by
        os.fork() and had a copy (Linux 6.8 and newer; TCP). Interrupted by a signal handler that
        raises, it can be called again.
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
        raise TypeError(f"{self!r} cannot be copied: {_ONE_OF_A_KIND}")

    def __deepcopy__(self, memo: object) -> Never:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError(f"{self!r} cannot be pickled: {_ONE_OF_A_KIND}")

    def listen(self, backlog: int | None = None) -> socket.socket:
        """A socket that already listens on (host, port), made without ever letting the number go.

        Clients may connect at once: the kernel queues up to `backlog` of them (default: Python's,
        at most net.core.somaxconn). For UDP a bound socket that receives; for "both" the TCP one.
        The socket is the caller's to close, blocking, and not inherited by other programs unless
        `set_inheritable(True)` says so; the hold stays.
        Raises ReservationReleased, or PortUnavailable when a server has taken over already.
        """
        tcp_or_udp = "tcp" if self.protocol == "both" else self.protocol
        return listening_sockets(self._handed("listen on")._replace(protocol=tcp_or_udp), backlog)[
            0
        ]

    def wait_listening(
        self, timeout: float = 10.0, process: ProcessLike | int | None = None
    ) -> Listener:
        """Return as soon as a server listens on the number; see `ephemport.wait_listening()`."""
        return wait_listening(self, timeout, process=process)

    async def wait_listening_async(
        self, timeout: float = 10.0, process: ProcessLike | int | None = None
    ) -> Listener:
        """`wait_listening()` without blocking the event loop, under asyncio and trio."""
        return await wait_listening_async(self, timeout, process=process)

    def popen(
        self,
        args: Text | Sequence[Argument],
        activate: bool = False,
        assist: bool = False,
        **kwargs: Any,
    ) -> "subprocess.Popen[Any]":
        """Start a server: `subprocess.Popen(args, **kwargs)`, with its number filled in.

        args: the program and its arguments: strings, bytes, paths, or ints and reservations, which
            stand for their port. `{port}`, `{host}` and `{url}` in strings are replaced (`{{` and
            `}}` are literal).
        activate: pass the listening sockets as descriptors 3, 4, ... with LISTEN_FDS, LISTEN_PID
            and LISTEN_FDNAMES (sd_listen_fds(3)); clients may connect before the server runs, and
            so `wait_listening()` has nothing to wait for.
        assist: set SO_REUSEADDR for a server that sets neither it nor SO_REUSEPORT, whenever it
            or a descendant binds the number (`ephemport._serving.assist` has the price).
        Raises what Popen raises, ReservationReleased, and EphemportError when `assist` cannot be
        had here.
        """
        return _popen([self], args, activate, assist, kwargs)

    def share(self) -> str:
        """A token with which another process of this user can `adopt()` the reservation.

        It works once, on this machine, and dies with the reservation. The adopter is the holder
        from then on: this process's hold ends when the adopter has the sockets, and the number is
        free when the adopter releases it or ends.
        """
        with importing("share a reservation"):
            from ephemport._serving.share import Offer

        self._require_held("share")
        with lock:
            if self._offer is None:
                terms = {"host": self.host, "protocol": self.protocol, "handoff": self.handoff}
                self._offer = Offer(self._hold, terms)
            return self._offer.token

    def _handed(self, verb: str) -> Handed:
        self._require_held(verb)
        return Handed(self._hold, self.host, self.protocol, f"{self.protocol}-{self.port}")

    def _require_held(self, verb: str) -> None:
        if self.released:
            raise ReservationReleased(
                f"cannot {verb} port {self._port}: {_why_not_held(self._hold)}",
                port=self._port,
                protocol=self._protocol,
            )

    def __index__(self) -> int:
        return self.port

    def __repr__(self) -> str:
        if not hasattr(self, "_handoff"):
            return object.__repr__(self)  # made no further than that: interrupted
        state = _state_of(self._hold) if self.released else "held"
        return (
            f"<Reservation {self._port} host={self._host!r} protocol={self._protocol!r} "
            f"handoff={self._handoff!r} {state}>"
        )


_ONE_OF_A_KIND = (
    "it is held by this process. For another process there is share(), which gives a token that "
    "it can adopt()"
)


def _state_of(hold: Hold) -> str:
    """How a hold ended, in a word or two."""
    end = hold.end
    if end is None or end.how is How.RELEASED:
        return "released"
    if end.how is How.CLOSED:
        return "lost: its descriptor was closed"
    if end.how is How.ADOPTED:
        return f"released here, adopted by pid {end.pid}"
    return f"released here, kept by pid {end.pid}{_has_ended(end.pid)}"


def _why_not_held(hold: Hold) -> str:
    """How a hold ended and what to do about it, as errors say it."""
    end = hold.end
    if end is None or end.how is How.RELEASED:
        return "its reservation was released; reserve() another"
    if end.how is How.CLOSED:
        return (
            "code of this process closed the descriptor that held it, as os.closerange() and "
            "daemonizing libraries do, and nothing holds it now; reserve() after that"
        )
    if end.how is How.ADOPTED:
        return (
            f"it was adopted by pid {end.pid}; reserve() here, or adopt() what that process shares"
        )
    if _has_ended(end.pid):
        return (
            f"it was kept by pid {end.pid}, which this process was forked from and which has "
            "ended, so that nothing holds it now; a daemon calls reserve() when it has become one"
        )
    return (
        f"it was kept by pid {end.pid}, which this process was forked from; reserve() here, or "
        "adopt() what that process shares"
    )


def _has_ended(pid: int | None) -> str:
    return "" if pid is not None and is_running(pid) else ", which has ended"


class ReservationGroup(EndsWithBlock, Sequence[Reservation]):
    """Several reservations that end together. Made by `reserve_many()`."""

    def __init__(self, reservations: Iterable[Reservation]) -> None:
        self._reservations = tuple(_checked_reservations(reservations))

    @property
    def ports(self) -> list[int]:
        """The numbers, in order."""
        return [reservation.port for reservation in self._reservations]

    @property
    def released(self) -> bool:
        """Whether none of the numbers is held any longer."""
        return all(reservation.released for reservation in self._reservations)

    def release(self) -> None:
        """Let all numbers go. May be called often, and from any thread."""
        for reservation in self._reservations:
            reservation.release()

    _end = release

    def popen(
        self,
        args: Text | Sequence[Argument],
        activate: bool = False,
        assist: bool = False,
        **kwargs: Any,
    ) -> "subprocess.Popen[Any]":
        """`Reservation.popen()` with all numbers.

        `{port0}`, `{host0}`, `{url0}`, `{port1}`, ... in the arguments are replaced, and `{port}`,
        `{host}`, `{url}` by the first.
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

    def __copy__(self) -> Never:
        raise TypeError(f"{self!r} cannot be copied: each {_ONE_OF_A_KIND}")

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
    handoff: str = "takeover",
) -> Reservation:
    """Reserve a number: assigned by the operating system and held from now on.

    host: where the server will bind, for URLs and `listen()`; the hold covers every address.
    protocol: "tcp", "udp", or "both" (the same number on both).
    port: a preferred number, or several to try in order. One number that is taken raises; of
        several the next is tried, and behind the last it raises too, unless that is 0: any.
    exclude: numbers never to return.
    handoff: "takeover" lets in TCP servers that set SO_REUSEADDR or SO_REUSEPORT, as nearly all
        do; "shadow" lets in servers that set neither, TCP or UDP; "fd" lets in nobody, and the
        number is used through `listen()`, `popen(activate=True)` or `share()`. UDP is exclusive
        except under "shadow".

    Raises PortsExhausted when no number (or no descriptor) is left, PortUnavailable when `port` is
    taken, TypeError and ValueError for arguments that make no sense, before anything is bound.
    """
    if (
        port is None
        and not exclude
        and host == "127.0.0.1"
        and protocol == "tcp"
        and handoff == "takeover"
    ):
        # The usual case: to check what need not be checked costs a tenth of a hold.
        try:
            hold = EPHEMERAL.hold_usual()
        except OSError as error:
            raise exhausted(error, protocol) from error
        try:
            return Reservation(hold, host, protocol, handoff)
        except BaseException:
            hold.close()
            raise
    return reserve_from(EPHEMERAL, Request(host, protocol, port, exclude, handoff))


def reserve_many(
    count: int,
    *,
    contiguous: bool = False,
    host: str = "127.0.0.1",
    protocol: str = "tcp",
    port: SupportsIndex | Iterable[SupportsIndex] | None = None,
    exclude: Iterable[SupportsIndex] = (),
    handoff: str = "takeover",
) -> ReservationGroup:
    """Reserve `count` numbers, all or nothing; in a row if `contiguous`.

    The other parameters are `reserve()`'s. Several preferred numbers in `port` are used up in
    order; with `contiguous` a preferred number is the first of the row. Raises what `reserve()`
    raises, and then holds nothing.
    """
    request = Request(host, protocol, port, exclude, handoff)
    return reserve_many_from(EPHEMERAL, request, count, contiguous=contiguous)


def adopt(token: str) -> Reservation:
    """The reservation behind a token of `Reservation.share()`, held by this process from now on.

    token: works once, within one user and one network namespace.
    Raises EphemportError when nobody serves the token, when its giver refuses (a wrong token,
    another user) or hangs up, and after 10 s when it does not answer (then from a TimeoutError);
    ValueError and TypeError for what is no token, before anything is opened.
    """
    with importing("adopt a reservation"):
        from ephemport._serving import adopt as _adopt

    hold, terms = _adopt.adopt(token)
    return Reservation(hold, *terms)


def reserve_from(source: Source, request: Request) -> Reservation:
    """`reserve()`, with the numbers of `source`."""
    return Reservation(request.hold_one(source), request.host, request.protocol, request.handoff)


def reserve_many_from(
    source: Source, request: Request, count: int, *, contiguous: bool = False
) -> ReservationGroup:
    """`reserve_many()`, with the numbers of `source`."""
    count = checked_count(count)
    in_a_row = contiguous and count > 1
    holds = request.hold_row(source, count) if in_a_row else request.hold_many(source, count)
    return ReservationGroup(
        [Reservation(hold, request.host, request.protocol, request.handoff) for hold in holds]
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
    """`popen()` for a command that has its numbers; `names` are those of LISTEN_FDNAMES."""
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

"""A reservation: a number and the hold that keeps it, from `reserve()` until `release()`."""

import os
import socket
import warnings
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import SupportsIndex, overload

from ephemport._errors import ReservationReleased
from ephemport._hold import Hold
from ephemport._host import endpoint, make_url
from ephemport._request import Request, checked_count, unavailable
from ephemport._sources import Source
from ephemport._sources.ephemeral import EPHEMERAL


class Reservation:
    """A number that nobody else can be given, until `release()` or the end of the process.

    Made by `reserve()`. A server takes the number over by binding and listening on it; the hold
    stays beneath, so that it may crash and come back. In a child made by `os.fork()` the
    reservation is released: only the process that made it holds the number.
    """

    __slots__ = ("__weakref__", "_hold", "handoff", "host", "port", "protocol")

    def __init__(self, hold: Hold, host: str, protocol: str, handoff: str) -> None:
        self._hold = hold
        self.port = hold.port
        self.host = host
        self.protocol = protocol
        self.handoff = handoff

    @property
    def address(self) -> tuple[str, int]:
        """`(host, port)`, as `socket.bind()` and most servers take it."""
        return (self.host, self.port)

    @property
    def released(self) -> bool:
        """Whether this process holds the number no longer."""
        return self._hold.closed

    def url(self, scheme: str = "http", path: str = "") -> str:
        """`scheme://host:port/path`; IPv6 hosts in brackets."""
        return make_url(scheme, self.host, self.port, path)

    def release(self) -> None:
        """Let the number go. May be called often, and from any thread."""
        self._hold.close()

    def listen(self, backlog: int | None = None) -> socket.socket:
        """A socket that already listens on (host, port), made without ever letting the number go.

        Clients may connect at once: the kernel queues up to `backlog` of them (default: Python's,
        at most net.core.somaxconn). For UDP a bound socket that receives; for "both" the TCP one.
        The socket is the caller's to close, and blocking; the hold stays.
        Raises ReservationReleased, or PortUnavailable when a server has taken over already.
        """
        self._require_held("listen on")
        where = endpoint(self.host)
        try:
            if self.protocol == "udp":
                return self._hold.receiver(where)
            return self._hold.listener(where, backlog)
        except OSError as error:
            raise unavailable(self.port, self.protocol, error, "listen on") from error

    def _require_held(self, verb: str) -> None:
        if self.released:
            parent = self._hold.lost_to_fork_of
            raise ReservationReleased(
                f"cannot {verb} port {self.port}: "
                + (
                    f"this process (pid {os.getpid()}) was forked from pid {parent}, which keeps "
                    "the number; reserve() here, or adopt() what the parent shares"
                    if parent is not None
                    else "its reservation was released; reserve() another"
                )
            )

    def __index__(self) -> int:
        return self.port

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hold.close()

    async def __aenter__(self) -> "Reservation":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hold.close()

    def __repr__(self) -> str:
        state = "held"
        if self._hold.lost_to_fork_of is not None:
            state = f"released here, held by pid {self._hold.lost_to_fork_of} before the fork"
        elif self.released:
            state = "released"
        return (
            f"<Reservation {self.port} host={self.host!r} protocol={self.protocol!r} "
            f"handoff={self.handoff!r} {state}>"
        )

    def __del__(self) -> None:
        if not self._hold.closed:
            warnings.warn(f"unreleased {self!r}", ResourceWarning, stacklevel=1, source=self)
            self._hold.close()


class ReservationGroup(Sequence[Reservation]):
    """Several reservations that end together. Made by `reserve_many()`."""

    def __init__(self, reservations: Iterable[Reservation]) -> None:
        self._reservations = tuple(reservations)

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

    @overload
    def __getitem__(self, position: int) -> Reservation: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Reservation]: ...
    def __getitem__(self, position: int | slice) -> Reservation | Sequence[Reservation]:
        return self._reservations[position]

    def __len__(self) -> int:
        return len(self._reservations)

    def __enter__(self) -> "ReservationGroup":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    async def __aenter__(self) -> "ReservationGroup":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<ReservationGroup {list(self._reservations)!r}>"


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
        Reservation(hold, request.host, request.protocol, request.handoff) for hold in holds
    )

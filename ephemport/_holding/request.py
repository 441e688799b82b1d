"""A request: the arguments of `reserve()`, checked."""

import errno
from collections.abc import Iterable, Iterator
from typing import SupportsIndex

from ephemport import _spelling
from ephemport._arguments import PORTS, at_most, port_or_any, shown
from ephemport._holding.acquire import opened
from ephemport._holding.handoffs import TAKEOVER, Handoff, handoff_named
from ephemport._holding.hold import TAKEN, Hold
from ephemport._holding.host import CERTAIN_HOSTS, endpoint
from ephemport._holding.refusal import explained, unavailable
from ephemport._holding.shadow import no_address
from ephemport._holding.sources import Source
from ephemport._holding.span import span_of
from ephemport._kernel.protocols import check_protocol

ANY = 0
_NOTHING: frozenset[int] = frozenset()


class Request:
    """The arguments of `reserve()`. Raises TypeError or ValueError if they make no sense.

    handoff: the name of a hand-off, or the hand-off itself.
    """

    __slots__ = (
        "_ready",
        "_shadows",
        "excluded",
        "handoff",
        "host",
        "lone",
        "protocol",
        "simple",
        "span",
        "wanted",
    )

    def __init__(
        self,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        port: SupportsIndex | Iterable[SupportsIndex] | None = None,
        exclude: Iterable[SupportsIndex] = (),
        handoff: str | Handoff = TAKEOVER,
        range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - as in reserve()
        outside_ephemeral: bool = False,
    ) -> None:
        if type(host) is not str or host not in CERTAIN_HOSTS:
            endpoint(host)
        check_protocol(protocol)
        way = handoff if isinstance(handoff, Handoff) else handoff_named(handoff)
        self.host = host
        self.protocol = protocol
        self.handoff = way.name
        self._ready = way.ready
        self.span = span_of(range, outside_ephemeral)
        self.excluded = _excluded(exclude) if exclude else _NOTHING
        self.lone = False
        self.wanted: tuple[int, ...] | None = None
        if port is not None:
            self._prefer(port)
        self._shadows = way.shadows(host, protocol)
        self.simple = port is None and way is TAKEOVER and self.span is None

    def _prefer(self, port: SupportsIndex | Iterable[SupportsIndex]) -> None:
        if isinstance(port, Iterable) and not isinstance(port, (str, bytes)):
            self.wanted = tuple(_ports(port, "port"))
            if ANY in self.wanted[:-1]:
                raise ValueError(
                    f"0 means any port, so it can only be the last of {_spelling.PORT}"
                )
            if not self.wanted:
                raise ValueError("port is empty: it names no port to reserve; 0 means any")
        else:
            one = port_or_any(port, "port")
            self.lone = one != ANY
            self.wanted = (one,)
        for one in self.wanted if self.lone else ():
            if one in self.excluded:
                raise ValueError(f"port {one} is requested and excluded at once")
            if self.span is not None and self.span.named and one not in self.span.named:
                raise ValueError(f"port {one} is requested, but {_spelling.RANGE} does not have it")

    def source(self, source: Source) -> Source:
        """Where the port comes from: `source`, or the part of it that this request allows."""
        return source if self.span is None else source.within(self.span)

    def hold_simple(self, source: Source) -> Hold:
        """Hold one port, ready for its server, where `simple` is true: it can be any port."""
        try:
            return opened(source.hold(self.protocol, self.excluded))
        except OSError as error:
            raise explained(error, self.protocol) from error

    def make_ready(self, hold: Hold) -> None:
        """Make a hold of this request ready for its server.

        Raises PortUnavailable, NoShadow or OSError.
        """
        try:
            self._ready(hold, self._shadows)
        except OSError as error:
            if error.errno in TAKEN:
                raise unavailable(hold.port, self.protocol, error, "hold") from error
            if error.errno == errno.EADDRNOTAVAIL and self._shadows:
                raise no_address(self.host, self._shadows, self.protocol) from error
            raise


def _excluded(exclude: Iterable[SupportsIndex]) -> frozenset[int]:
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be an iterable of ints, not {shown(exclude)}")
    return frozenset(_ports(exclude, "exclude"))


def _ports(values: Iterable[SupportsIndex], argument: str) -> Iterator[int]:
    return (port_or_any(one, argument) for one in at_most(values, PORTS, argument))

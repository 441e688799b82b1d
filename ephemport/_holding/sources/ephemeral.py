"""Ports that the operating system assigns: bind to port 0."""

import errno
from collections.abc import Collection, Sequence

from ephemport import _spelling
from ephemport._errors import PortsExhausted
from ephemport._holding.acquire import hold, hold_first, hold_port, hold_usual, opened
from ephemport._holding.hold import Hold
from ephemport._holding.lack import barred, not_enough, room, usage
from ephemport._holding.owners import listed
from ephemport._holding.picking import all_from_somewhere, random_some
from ephemport._holding.ranges import CATEGORIES
from ephemport._holding.shape import ONE, Shape
from ephemport._holding.sources import Source, Terms
from ephemport._holding.span import Span
from ephemport._kernel import port_range
from ephemport._spelling import preferring

# How many random picks to make before trying whether port 0 is quick again.
_CROWDED_PICKS = 1024
# The lower end in the advice to widen the range. Below are the ports of well-known servers.
_USUAL_LOW = 10240


class Ephemeral:
    """The operating system's choice, from its ephemeral port range.

    `bind(0)` searches the half of the range whose parity differs from the lower end's first
    (net/ipv4/inet_connection_sock.c, inet_csk_find_open_port). So a port of the other parity means
    that this half is full, and that each `bind(0)` now scans all of it: 5 ms in the default range.
    Random ports of the same range cost a hundredth of that.
    """

    def __init__(self) -> None:
        self._preferred_parity = 1
        self._crowded_picks = 0
        self._crowd: Sequence[int] = range(0)

    @property
    def ports(self) -> Sequence[int]:
        ports = port_range.ephemeral_range()
        reserved = port_range.reserved_ports()
        return [port for port in ports if port not in reserved] if reserved else ports

    @property
    def barred(self) -> Collection[int]:
        return port_range.reserved_ports()

    def within(self, span: Span) -> Source:
        return span

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        if self._crowded_picks:
            self._crowded_picks -= 1
            held = hold_first(random_some(self._crowd, exclude), protocol)
            if held is not None:
                return held
        try:
            held = hold(0, protocol)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if protocol != "both":
                raise self.exhausted(protocol, exclude) from None
            return self._search(protocol, exclude)
        try:
            if held.port & 1 != self._preferred_parity:
                self._look_at_range(held.port)
            if held.port not in exclude:
                return held
        except BaseException:
            held.close()
            raise
        held.close()
        return self._search(protocol, exclude)

    def hold_usual(self) -> Hold:
        """`hold("tcp", ())`, opened, in less time: for `reserve()` without arguments.

        Raises PortsExhausted, or OSError (EMFILE).
        """
        if self._crowded_picks:
            return opened(self.hold("tcp", ()))
        try:
            held = hold_usual()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise self.exhausted("tcp", ()) from None
        if held.port & 1 != self._preferred_parity:
            self._look_at_range(held.port)
        return held

    def hold_port(self, port: int, protocol: str) -> Hold:
        return hold_port(port, protocol)

    def exhausted(
        self, protocol: str, exclude: Collection[int], shape: Shape = ONE
    ) -> PortsExhausted:
        return PortsExhausted(_explain(protocol, exclude, shape), protocol=protocol)

    def _look_at_range(self, port: int) -> None:
        self._preferred_parity = (port_range.ephemeral_range().start & 1) ^ 1
        if port & 1 != self._preferred_parity:
            self._crowd = self.ports
            self._crowded_picks = _CROWDED_PICKS

    def _search(self, protocol: str, exclude: Collection[int]) -> Hold:
        """Hold any port, for the cases in which the kernel's own search does not help."""
        held = hold_first(all_from_somewhere(self.ports, exclude), protocol)
        if held is None:
            raise self.exhausted(protocol, exclude)
        return held


def _explain(protocol: str, exclude: Collection[int], shape: Shape) -> str:
    """The message for a lack of ports in the ephemeral port range."""
    ports = port_range.ephemeral_range()
    excluded, reserved = set(exclude), port_range.reserved_ports()
    facts, in_use = usage(ports, protocol)
    facts += barred(
        ports,
        (excluded, str(_spelling.EXCLUDE)),
        (reserved, "net.ipv4.ip_local_reserved_ports"),
    )
    facts += room(ports, in_use | excluded | reserved, shape, protocol)
    return (
        f"{not_enough(protocol, shape)} in the ephemeral port range {listed(ports)}; "
        f"{', '.join(facts)}. {_what_helps(in_use, excluded, shape)}"
    )


def _what_helps(in_use: set[int], excluded: set[int], shape: Shape) -> str:
    """What would make ports of this shape available."""
    widest = port_range.widest_range()
    span = f"{widest.start}-{widest.stop - 1}, the widest that net.ipv4.ip_local_port_range can be"
    if shape.length > len(widest):
        return f"No range has so many: {span}, has {len(widest):,} ports"
    ports = port_range.ephemeral_range()
    reserved = port_range.reserved_ports()
    anywhere = shape.offsets is None or shape.is_row

    def fits(ports: range, barred: set[int] | frozenset[int]) -> bool:
        return shape.room(ports, barred) >= shape.length

    ways = []
    if fits(ports, excluded | reserved):
        ways.append("release reservations, or end what has the ports ('ephemport ls --all')")
    if excluded and fits(ports, in_use | reserved):
        ways.append("exclude fewer ports")
    for low in (max(_USUAL_LOW, widest.start), widest.start):
        wider = range(low, widest.stop)
        if len(wider) > len(ports) and fits(wider, in_use | excluded | reserved):
            if not anywhere:
                first = next(shape.places(wider, in_use | excluded | reserved))
                ways.append(f"name a first port outside of the range ({preferring(first)})")
            ways.append(f'widen the range: sysctl -w net.ipv4.ip_local_port_range="{low} 65535"')
            break
    if ways:
        text = "; or ".join(ways)
        return text[0].upper() + text[1:]
    if not anywhere:
        return f"Widening it would not help: there is no place in {span}, either"
    left = f"{shape.room(widest, in_use | excluded | reserved):,}"
    row = " in a row" if shape.is_row else ""
    return f"Widening it would not help: in {span}, {left} ports are left{row}. Ask for fewer"


EPHEMERAL = Ephemeral()


def open_sources(terms: Terms) -> dict[str, Source]:
    """The range of the operating system, for every category."""
    return dict.fromkeys(CATEGORIES, EPHEMERAL)

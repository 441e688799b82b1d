"""A span: the ports that a caller allows, `range=` and `outside_ephemeral=`. It is a source, too.

The operating system assigns ports of the ephemeral port range only. So a port of a span is found by
trying: a bind costs a microsecond or two, and the search ends when every port was tried.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, SupportsIndex

from ephemport import _spelling
from ephemport._arguments import PORTS, at_most, shown, whole
from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._holding.acquire import hold_any, hold_first, hold_port
from ephemport._holding.lack import barred, not_enough, room, usage
from ephemport._holding.owners import Owners, listed
from ephemport._holding.picking import all_from_somewhere, random_some
from ephemport._holding.shape import ONE, Shape
from ephemport._kernel import port_range

if TYPE_CHECKING:
    from ephemport._holding.hold import Hold


class Span:
    """Any of the ports that a caller allows: the ranges of `parts`, the first part first.

    named: the ports of `range=`, in ascending order; None: it was not given. assigned: the
    ephemeral port range, if the ports lie outside of it; else None.
    """

    __slots__ = ("_assigned", "_parts", "_sets", "named")

    def __init__(
        self, named: Sequence[int] | None, assigned: range | None, parts: Iterable[Sequence[int]]
    ) -> None:
        self.named = named
        self._assigned = assigned
        self._parts = tuple(parts)
        self._sets = [part if isinstance(part, range) else {*part} for part in self._parts]

    def __contains__(self, port: object) -> bool:
        return any(port in one for one in self._sets)

    @property
    def ports(self) -> Sequence[int]:
        if len(self._parts) == 1:
            return self._parts[0]
        return sorted(port for part in self._parts for port in part)

    @property
    def barred(self) -> Collection[int]:
        return frozenset(range(PORTS)).difference(*self._parts)

    def within(self, span: "Span") -> "Span":
        return span

    def hold(self, protocol: str, exclude: Collection[int]) -> "Hold":
        for part in self._parts:
            held = hold_first(random_some(part, exclude), protocol)
            if held is None:
                held = hold_any(all_from_somewhere(part, exclude), protocol)
            if held is not None:
                return held
        raise self.exhausted(protocol, exclude)

    def hold_port(self, port: int, protocol: str) -> "Hold":
        if port not in self:
            raise self.refusal(port, protocol)
        return hold_port(port, protocol)

    def refusal(self, port: int, protocol: str) -> PortUnavailable:
        """The error for a preferred port that is not in this span."""
        return PortUnavailable(
            f"port {port} is not {self}, and no other port may be given; ask for one of these",
            port=port,
            protocol=protocol,
        )

    def exhausted(
        self, protocol: str, exclude: Collection[int], shape: Shape = ONE
    ) -> PortsExhausted:
        asked = f"{not_enough(protocol, shape)} {self}"
        ports = self.ports
        if not ports:
            return PortsExhausted(f"{asked}: there is none. {self._widened()}", protocol=protocol)
        if shape.length > len(ports):
            return PortsExhausted(
                f"{asked}, which has only {len(ports):,} "
                f"port{'s' * (len(ports) > 1)}. Ask for fewer, or {self._more()}",
                protocol=protocol,
            )
        facts, in_use = usage(ports, protocol)
        excluded, low = set(exclude), set(range(port_range.widest_range().start))
        facts += barred(
            ports,
            (excluded, str(_spelling.EXCLUDE)),
            (low.intersection(ports), "net.ipv4.ip_unprivileged_port_start: only root may bind"),
        )
        never = low.union(self.barred) if shape.offsets is not None else low
        facts += room(ports, in_use | excluded | never, shape, protocol, never)
        owners = Owners([port for port in ports if port in in_use - excluded], protocol)
        said = "; ".join([", ".join(facts), *owners.clauses()])
        ways: list[str] = []
        if shape.room(ports, excluded | never) >= shape.length:
            ways += list(owners.steps()) or ["ask again"]
        if excluded and shape.room(ports, in_use | never) >= shape.length:
            ways.append("exclude fewer ports")
        remedy = ", or ".join([*ways, self._more()])
        return PortsExhausted(
            f"{asked}; {said}. {remedy[:1].upper()}{remedy[1:]}", protocol=protocol
        )

    def _more(self) -> str:
        """How to allow more ports."""
        if self.named is not None:
            return f"allow more ports ({_spelling.RANGE})"
        return "narrow the ephemeral port range (net.ipv4.ip_local_port_range)"

    def _widened(self) -> str:
        """What to do about a span without any port."""
        narrow = (
            "Narrow the ephemeral port range (sysctl -w net.ipv4.ip_local_port_range="
            '"32768 60999" is the usual one)'
        )
        if self.named is None:
            return narrow
        return (
            f"Name other ports; or, to keep the kernel from assigning these, add them to "
            f"net.ipv4.ip_local_reserved_ports; or leave out {_spelling.OUTSIDE_EPHEMERAL}"
        )

    def __str__(self) -> str:
        places = []
        if self.named is not None:
            places.append(f"in {listed(self.named)} ({_spelling.RANGE})")
        if self._assigned is not None:
            ephemeral = listed(self._assigned)
            places.append(
                f"outside of the ephemeral port range {ephemeral} ({_spelling.OUTSIDE_EPHEMERAL})"
            )
        return " and ".join(places)


def span_of(ports: Iterable[SupportsIndex] | None, outside_ephemeral: bool) -> Span | None:
    """The span that `range=` and `outside_ephemeral=` describe, checked. None: neither is given.

    Raises TypeError or ValueError if they make no sense.
    """
    named = None if ports is None else _named(ports)
    if not outside_ephemeral:
        return None if named is None else Span(named, None, [named])
    assigned, reserved = port_range.ephemeral_range(), port_range.reserved_ports()
    if named is not None:
        # The kernel assigns no reserved port, either. Whoever names one may have it.
        outside = [port for port in named if port not in assigned or port in reserved]
        return Span(named, assigned, [outside] if outside else [])
    parts: Iterator[Sequence[int]] = iter(port_range.unassigned_ranges())
    if reserved:
        # They are set aside for a program of which we know nothing.
        left = ([port for port in part if port not in reserved] for part in parts)
        parts = (part for part in left if part)
    return Span(None, assigned, parts)


def _named(ports: Iterable[SupportsIndex]) -> Sequence[int]:
    """The ports of `range=`, each once, in ascending order."""
    name = str(_spelling.RANGE)
    if isinstance(ports, (str, bytes)) or not isinstance(ports, Iterable):
        raise TypeError(
            f"{name} takes an iterable of ints, such as range(20000, 20100), not {shown(ports)}"
        )
    if type(ports) is range and ports:
        in_order = ports if ports.step > 0 else ports[::-1]
        _checked(in_order[0]), _checked(in_order[-1])
        return in_order
    found = sorted({_checked(one) for one in at_most(ports, PORTS, name)})
    if not found:
        raise ValueError(f"{name} is empty: it names no port that may be given")
    return found


def _checked(port: SupportsIndex) -> int:
    name = str(_spelling.RANGE)
    number = whole(port, f"{name} takes an iterable of ints")
    if not 0 < number < PORTS:
        raise ValueError(
            f"{name} has {shown(number)}, which is no port: ports are 1 to {PORTS - 1}"
        )
    return number

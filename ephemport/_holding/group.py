"""How to hold several ports: all of them or none, anywhere or in a shape."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ephemport import _spelling
from ephemport._arguments import PORTS
from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._holding.hold import TAKEN, Hold
from ephemport._holding.preference import EXCLUDED, Refusals
from ephemport._holding.refusal import explained
from ephemport._holding.request import ANY, Request
from ephemport._holding.shape import Shape
from ephemport._holding.sources import Source
from ephemport._kernel.protocols import KINDS

# For more ports than this, the source is first asked how many it has. That costs as much as a few
# ports.
_MANY = 100


def hold_one(source: Source, request: Request) -> Hold:
    """Hold one port, ready for its server."""
    source = request.source(source)
    if request.simple:
        return request.hold_simple(source)
    return _hold_anywhere(source, [request])[0]


def hold_group(source: Source, requests: Sequence[Request], shape: Shape) -> list[Hold]:
    """Hold one port for each request, or none.

    The first request says which ports are preferred, allowed and excluded. The others differ from
    it in their protocol and hand-off at most.
    """
    check_group(requests, shape)
    if not requests:
        return []
    source = requests[0].source(source)
    if shape.offsets is not None:
        with _all_or_nothing(_protocol_of(requests)):
            return _InShape(source, requests, shape).hold()
    return _hold_anywhere(source, requests)


def check_group(requests: Sequence[Request], shape: Shape) -> None:
    """Raise ValueError if the one port that the requests name cannot be what they ask for."""
    first = requests[0] if requests else None
    if first is None or not first.lone or not first.wanted:
        return
    (port,) = first.wanted
    if shape.offsets is None and len(requests) > 1 and _overlap(requests):
        few = min(len(requests), 3)
        begin = min(port, PORTS - few)
        some = range(begin, begin + few)
        raise ValueError(
            f"one port cannot serve {len(requests)} reservations: name several "
            f"({_spelling.preferring(*some)}), or pass {_spelling.CONTIGUOUS} for a row that "
            "begins with it"
        )
    if port % shape.multiple_of:
        raise ValueError(
            f"port {port} is requested, but is no multiple of {shape.multiple_of} "
            f"({_spelling.MULTIPLE_OF})"
        )


def _hold_anywhere(source: Source, requests: Sequence[Request]) -> list[Hold]:
    first, count = requests[0], len(requests)
    if count > _MANY and first.wanted is None and count > len(source.ports):
        # Raised before the descriptors run out: more descriptors would not help.
        raise source.exhausted(first.protocol, first.excluded, Shape(count))
    if all(request.simple for request in requests):
        return _hold_simple(source, requests)
    left = list(first.wanted) if first.wanted is not None else None
    refusals = Refusals()
    with _all_or_nothing(_protocol_of(requests)) as holds:
        for request in requests:
            if left is None:
                hold = _hold_any(source, requests, holds)
            else:
                found = _hold_first(source, request, left, refusals)
                if found is None:
                    raise refusals.error(requests, Shape(count), held=len(holds))
                hold = found
                if hold.port in left and not first.lone:
                    del left[: left.index(hold.port) + 1]
            holds.append(hold)
            request.make_ready(hold)
        return holds


def _hold_any(source: Source, requests: Sequence[Request], holds: list[Hold]) -> Hold:
    """Hold a port for the next of the requests."""
    request = requests[len(holds)]
    try:
        return source.hold(request.protocol, request.excluded)
    except PortsExhausted:
        if len(requests) == 1:
            raise
        # The error must not count what this very group has had so far as taken.
        _close_all(holds)
        shape = Shape(len(requests))
        raise source.exhausted(_protocol_of(requests), request.excluded, shape) from None


def _overlap(requests: Sequence[Request]) -> bool:
    """Whether two of them want a port for the same protocol."""
    kinds = [kind for request in requests for kind in KINDS[request.protocol]]
    return len(set(kinds)) < len(kinds)


def _hold_simple(source: Source, requests: Sequence[Request]) -> list[Hold]:
    holds: list[Hold] = []
    try:
        for request in requests:
            holds.append(request.hold_simple(source))
    except BaseException:
        _close_all(holds)
        raise
    return holds


def _hold_first(
    source: Source, request: Request, wanted: Sequence[int], refusals: Refusals
) -> Hold | None:
    """Hold the first of `wanted` that can be had. None: there is none."""
    for port in wanted:
        if port == ANY:
            return source.hold(request.protocol, request.excluded)
        if port in request.excluded:
            refusals.add(port, EXCLUDED)
            continue
        hold = _try(source, port, request.protocol, refusals)
        if hold is not None:
            return hold
    return None


def _try(source: Source, port: int, protocol: str, refusals: Refusals | None) -> Hold | None:
    # Only an error needs to know who has a port: the look costs a millisecond.
    # Without tracebacks, which would refer to this frame, and it to them.
    try:
        return source.hold_port(port, protocol)
    except PortUnavailable as error:
        reason: PortUnavailable | OSError = error.with_traceback(None)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        reason = error.with_traceback(None)
    if refusals is not None:
        refusals.add(port, reason)
    return None


class _InShape:
    """The search for a place where all ports of a shape can be had."""

    def __init__(self, source: Source, requests: Sequence[Request], shape: Shape) -> None:
        self._source = source
        self._requests = requests
        self._shape = shape
        self._first = requests[0]
        self._refusals = Refusals()

    def hold(self) -> list[Hold]:
        holds = self._hold_first_place()
        if holds is None:
            raise self._refusals.error(self._requests, self._shape)
        with _all_or_nothing(self._first.protocol, holds):
            for request, hold in zip(self._requests, holds, strict=True):
                request.make_ready(hold)
        return holds

    def _hold_first_place(self) -> list[Hold] | None:
        first = self._first
        for start in first.wanted if first.wanted is not None else (ANY,):
            if start != ANY:
                holds = self._at(start, self._refusals)
            else:
                holds = self._row() if self._is_plain_row() else self._anywhere()
                if holds is None:
                    protocol = _protocol_of(self._requests)
                    raise self._source.exhausted(protocol, first.excluded, self._shape)
            if holds is not None:
                return holds
        return None

    def _at(self, start: int, refusals: Refusals | None) -> list[Hold] | None:
        """Hold all ports of the group that begins with `start`, or none."""
        if start not in self._shape.firsts:
            if refusals is not None:
                refusals.add_first(start, self._shape)
            return None
        # What stands in the way of a lone request is named completely.
        to_the_end = self._first.lone
        refused = False
        with _all_or_nothing(self._first.protocol) as holds:
            for port, request in zip(self._shape.ports(start), self._requests, strict=True):
                hold = None
                if port not in self._first.excluded:
                    hold = _try(self._source, port, request.protocol, refusals)
                elif refusals is not None:
                    refusals.add(port, EXCLUDED)
                if hold is None:
                    refused = True
                    _close_all(holds)
                    if not to_the_end:
                        return None
                elif refused:
                    hold.close()
                else:
                    holds.append(hold)
            return None if refused else holds

    def _anywhere(self) -> list[Hold] | None:
        """Search the source's ports for a first one, beginning where the source itself would."""
        barred = self._first.excluded.union(self._source.barred)
        firsts = list(self._shape.places(self._source.ports, barred))
        begin = self._beginning(firsts)
        if begin is None:
            return None
        for start in (*firsts[begin:], *firsts[:begin]):
            holds = self._at(start, None)
            if holds is not None:
                return holds
        return None

    def _beginning(self, ports: Sequence[int]) -> int | None:
        """Where in `ports` a search begins: the source picks the place. None: it has no port."""
        try:
            picked = self._source.hold(self._first.protocol, self._first.excluded)
        except PortsExhausted:
            return None
        picked.close()
        begin = bisect_left(ports, picked.port)
        # Behind the last one that can be the first: not always the same place, for all processes.
        return begin if begin < len(ports) else picked.port % max(len(ports), 1)

    def _is_plain_row(self) -> bool:
        protocols = {request.protocol for request in self._requests}
        return self._shape.is_row and len(protocols) == 1

    def _row(self) -> list[Hold] | None:
        """Search the source's ports for a row. A row of many needs not begin anew at each port."""
        ports, count = self._source.ports, self._shape.length
        if count > len(ports):
            return None
        begin = self._beginning(ports)
        if begin is None:
            return None
        around = (*ports[begin:], *ports[:begin])
        # A row may span the place where the search began, so the search goes on past that place.
        return self._first_row((*around, *around[: count - 1]))

    def _first_row(self, ports: Iterable[int]) -> list[Hold] | None:
        protocol, excluded = self._first.protocol, self._first.excluded
        with _all_or_nothing(protocol) as row:
            for port in ports:
                if row and port != row[-1].port + 1:
                    _close_all(row)
                hold = None if port in excluded else _try(self._source, port, protocol, None)
                if hold is None:
                    continue
                row.append(hold)
                if len(row) == self._shape.length:
                    return row
            _close_all(row)
            return None


def _protocol_of(requests: Sequence[Request]) -> str:
    protocols = {request.protocol for request in requests}
    return protocols.pop() if len(protocols) == 1 else "both"


@contextmanager
def _all_or_nothing(protocol: str, holds: list[Hold] | None = None) -> Iterator[list[Hold]]:
    """Close what was collected if the block fails, and explain a lack of descriptors."""
    collected = [] if holds is None else holds
    try:
        yield collected
    except BaseException as error:
        _close_all(collected)
        if isinstance(error, OSError):
            raise explained(error, protocol) from error
        raise


def _close_all(holds: list[Hold]) -> None:
    for hold in holds:
        hold.close()
    holds.clear()

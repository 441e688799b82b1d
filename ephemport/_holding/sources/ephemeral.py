"""Numbers that the operating system assigns: bind to port 0."""

import errno
import os
from collections.abc import Collection, Iterator, Sequence

from ephemport._errors import PortsExhausted
from ephemport._holding.hold import Hold, hold, hold_first, hold_number
from ephemport._holding.ranges import CATEGORIES
from ephemport._holding.sources import Source, Terms
from ephemport._kernel import port_range
from ephemport._kernel.protocols import PARTS

# How many random numbers to try before the kernel's own search, which finds the last free one.
_TRIES = 64
# How many picks to make by random number before asking whether port 0 is quick again.
_CROWDED_PICKS = 1024


class Ephemeral:
    """The operating system's choice, from its ephemeral port range.

    `bind(0)` searches the half of the range whose parity differs from the lower end's first
    (net/ipv4/inet_connection_sock.c, inet_csk_find_open_port). A number of the other parity
    therefore says that this half is full, and that from now on each `bind(0)` will scan all of it:
    5 ms in the default range. Then random numbers of the same range cost a hundredth of that.
    """

    def __init__(self) -> None:
        self._preferred_parity = 1
        self._crowded_picks = 0
        self._crowd: Sequence[int] = range(0)

    @property
    def numbers(self) -> Sequence[int]:
        numbers = port_range.ephemeral_range()
        reserved = port_range.reserved_ports()
        return [n for n in numbers if n not in reserved] if reserved else numbers

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        if self._crowded_picks:
            self._crowded_picks -= 1
            held = hold_first(_some(self._crowd, exclude), protocol)
            if held is not None:
                return held
        try:
            held = hold(0, protocol)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if protocol != "both":
                raise PortsExhausted(explain_exhausted(protocol)) from None
            return self._search(protocol, exclude)
        if held.port & 1 != self._preferred_parity:
            self._look_at_range(held.port)
        if held.port in exclude:
            held.close()
            return self._search(protocol, exclude)
        return held

    def hold_number(self, port: int, protocol: str) -> Hold:
        return hold_number(port, protocol)

    def _look_at_range(self, port: int) -> None:
        numbers = port_range.ephemeral_range()
        self._preferred_parity = (numbers.start & 1) ^ 1
        if port & 1 != self._preferred_parity:
            self._crowd = self.numbers
            self._crowded_picks = _CROWDED_PICKS

    def _search(self, protocol: str, exclude: Collection[int]) -> Hold:
        """Hold any number that the kernel's own search cannot choose for us."""
        candidates = [n for n in self.numbers if n not in exclude]
        start = _random_below(len(candidates))
        held = hold_first(candidates[start:] + candidates[:start], protocol)
        if held is None:
            raise PortsExhausted(explain_exhausted(protocol, excluded=len(exclude)))
        return held


def explain_exhausted(protocol: str, *, excluded: int = 0, run_of: int = 0) -> str:
    """What to say when no number of the ephemeral port range can be had."""
    numbers = port_range.ephemeral_range()
    sought = f"{run_of} {protocol} numbers in a row" if run_of else f"a {protocol} number"
    apart = f" outside the {excluded} excluded ones" if excluded else ""
    try:
        used = " and ".join(
            f"{len(port_range.numbers_in_use(kind) & set(numbers)):,} of its {len(numbers):,} "
            f"numbers are in use ({kind})"
            for kind in PARTS[protocol]
        )
    except OSError as error:
        used = f"how many of its {len(numbers):,} numbers are in use cannot be told ({error})"
    return (
        f"no port left: looked for {sought}{apart} in the ephemeral port range "
        f"{numbers.start}-{numbers.stop - 1}; {used}. Release reservations, or widen the range: "
        'sysctl -w net.ipv4.ip_local_port_range="10240 65535"'
    )


def _some(numbers: Sequence[int], exclude: Collection[int]) -> Iterator[int]:
    for _ in range(_TRIES):
        port = numbers[_random_below(len(numbers))]
        if port not in exclude:
            yield port


def _random_below(limit: int) -> int:
    # Not the random module: tests seed it, and then all workers would try the same numbers.
    return int.from_bytes(os.urandom(4), "little") % max(limit, 1)


EPHEMERAL = Ephemeral()


def open_sources(terms: Terms) -> dict[str, Source]:
    """The one range of the operating system's, for every category."""
    return dict.fromkeys(CATEGORIES, EPHEMERAL)

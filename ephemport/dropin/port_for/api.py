"""port-for's functions for choosing a port, held until the process ends."""

import random
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_STREAM
from typing import Any

from ephemport._arguments import PORTS, at_most
from ephemport._errors import EphemportError
from ephemport._kernel.port_range import ephemeral_range
from ephemport.dropin import _kept
from ephemport.dropin.port_for.exceptions import PortForException
from ephemport.dropin.port_for.utils import ranges_to_set, to_ranges

SYSTEM_PORT_RANGE = (0, 1024)
_TRIES = 100


PortType = (
    str
    | int
    | tuple[int, int]
    | set[int]
    | list[str]
    | list[int]
    | list[tuple[int, int]]
    | list[set[int]]
    | list[set[int] | tuple[int, int]]
    | list[str | int | tuple[int, int] | set[int]]
)


def get_port(ports: Any = None, exclude_ports: Iterable[int] | None = None) -> int | None:
    """Reserve a port out of `ports`, held until the process ends.

    Args:
        ports: The ports to choose from. None: any. (2000, 3000): a range with both ends.
            {4002, 4003}: one of a set. A list: a mix of those and of ints. A single port, "8000"
            or 8000, is returned as it is: it is neither checked nor held. -1: no port.
        exclude_ports: Ports that are never returned, an iterable of ints.

    Returns:
        The port, or None if `ports` is -1.

    Raises:
        PortForException: No port can be selected, or `ports` has an unknown format.
        ValueError: `ports` is a string that is not a number.
    """
    if ports == -1:
        return None
    if not ports:
        return select_random(None, exclude_ports)
    if isinstance(ports, (str, int)):
        return int(ports)
    parts = ports if isinstance(ports, list) else [ports]
    try:
        chosen = set(chain.from_iterable(_ports(part) for part in parts))
    except (TypeError, ValueError):
        raise PortForException(
            f"unknown format of ports: {ports!r}; write a port, a range (4000, 5000), a set "
            "{4000, 5000}, or a list of those"
        ) from None
    return select_random(chosen, exclude_ports)


def select_random(ports: set[int] | None = None, exclude_ports: Iterable[int] | None = None) -> int:
    """Reserve a random port that nobody uses, held until the process ends.

    Args:
        ports: The ports to choose from. None takes `available_good_ports()`.
        exclude_ports: Ports that are never returned, an iterable of ints.

    Returns:
        The port.

    Raises:
        PortForException: There is no port to choose from, or 100 random ones are all taken.
        ValueError: `ports` or `exclude_ports` has more than 65,536 items.
    """
    wanted = available_good_ports() if ports is None else set(at_most(ports, PORTS, "ports"))
    candidates = wanted - set(at_most(exclude_ports or (), PORTS, "exclude_ports"))
    tries = random.sample(sorted(candidates), min(len(candidates), _TRIES))
    if not tries:
        raise PortForException("cannot select a port: there is none to choose from")
    try:
        return _kept.new_port("tcp", port=tries)
    except (EphemportError, ValueError) as error:
        raise PortForException(f"cannot select a port: {error}") from error


def is_available(port: int) -> bool:
    """Whether the port is in `available_ports()` and nobody uses it.

    Args:
        port: The port, an int.

    Returns:
        Whether it is available. A port that only this process holds counts as available.
    """
    return port in available_ports() and _kept.is_free(port, SOCK_STREAM)


def available_ports(
    low: int = 1024, high: int = 65535, exclude_ranges: list[tuple[int, int]] | None = None
) -> set[int]:
    """The ports that are not system ports, not in the ephemeral port range and not well known.

    Args:
        low: The ports begin above this one, an int.
        high: The ports end below this one, an int.
        exclude_ranges: Ranges of ports to leave out, each a pair of its first and its last port.

    Returns:
        The ports.

    Raises:
        ValueError: `exclude_ranges` has more than 65,536 items.
    """
    assigned = ephemeral_range()
    beyond = range(max(low, SYSTEM_PORT_RANGE[1]) + 1, min(high, 65536))
    ranges = at_most(exclude_ranges or (), PORTS, "exclude_ranges")
    excluded = chain.from_iterable(map(_ports, ranges))
    return set(beyond).difference(assigned, _well_known(), excluded)


def good_port_ranges(
    ports: set[int] | None = None, min_range_len: int = 20, border: int = 3
) -> list[tuple[int, int]]:
    """The long ranges of ports, without their borders; the longest comes first.

    Args:
        ports: The ports to choose from. None takes `available_ports()`.
        min_range_len: How many ports a range has at least, without its borders, an int.
        border: How many ports are left out at each end of a range, an int.

    Returns:
        Pairs of the first and the last port of a range.

    Raises:
        ValueError: `ports` has more than 65,536 items.
    """
    wanted = available_ports() if ports is None else set(at_most(ports, PORTS, "ports"))
    ranges = [
        (last - first, first, last)
        for first, last in to_ranges(sorted(wanted))
        if last - first >= min_range_len + 2 * border
    ]
    return [(first + border, last - border) for _, first, last in sorted(ranges, reverse=True)]


def available_good_ports(min_range_len: int = 20, border: int = 3) -> set[int]:
    """The ports of `good_port_ranges()`.

    Args:
        min_range_len: As for `good_port_ranges()`.
        border: As for `good_port_ranges()`.

    Returns:
        The ports.
    """
    return ranges_to_set(good_port_ranges(min_range_len=min_range_len, border=border))


def port_is_used(port: int, host: str = "127.0.0.1") -> bool:
    """Whether another program uses the port.

    Args:
        port: The port, an int.
        host: An address, a string. Every address of its family is tried.

    Returns:
        Whether it is used. A port that only this process holds counts as unused.

    Raises:
        TypeError: `port` is not an int.
        ValueError: `port` is no port.
    """
    return not _kept.is_free(port, SOCK_STREAM, (AF_INET6 if ":" in host else AF_INET,))


def filter_by_type(lst: Iterable[Any], type_of: type | tuple[type, ...]) -> list[Any]:
    """The items of a type.

    Args:
        lst: An iterable.
        type_of: A type, or a tuple of types.

    Returns:
        The items of `lst` that are of the type.

    Raises:
        ValueError: `lst` has more than 65,536 items.
    """
    return [one for one in at_most(lst, PORTS, "lst") if isinstance(one, type_of)]


def unassigned_ranges() -> list[tuple[int, int]]:
    """The ranges without a well-known port.

    Returns:
        Pairs of the first and the last port of a range.
    """
    return list(to_ranges(sorted(set(range(1, PORTS)) - _well_known())))


@cache
def _well_known() -> frozenset[int]:
    try:
        text = Path("/etc/services").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    words = [line.partition("#")[0].split() for line in text.splitlines()]
    ports = (word[1].partition("/")[0] for word in words if len(word) > 1)
    return frozenset(int(port) for port in ports if port.isdecimal())


def _ports(part: Any) -> Iterable[int]:
    if isinstance(part, tuple):
        first, last = part
        return range(max(first, 0), min(last + 1, PORTS))
    if isinstance(part, (set, frozenset)):
        return part
    return [int(part)]

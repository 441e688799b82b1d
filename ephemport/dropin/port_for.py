"""`import ephemport.dropin.port_for as port_for`: its functions for choosing a port, held.

Its ports are chosen as port-for chooses them: at random, outside the ephemeral port range. Then
they are held until the process ends. The well-known ports are read from this machine's
/etc/services; port-for has a copy of IANA's list.
"""

import random
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from socket import SOCK_STREAM
from typing import Any

from ephemport._arguments import PORTS, at_most
from ephemport._errors import EphemportError
from ephemport._kernel.port_range import ephemeral_range
from ephemport.dropin import _kept

SYSTEM_PORT_RANGE = (0, 1024)
_TRIES = 100


class PortForException(Exception):
    """No port can be selected, or `ports` has an unknown format."""


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
        ports: The ports to choose from. None takes `available_ports()`.
        exclude_ports: Ports that are never returned, an iterable of ints.

    Returns:
        The port.

    Raises:
        PortForException: There is no port to choose from, or 100 random ones are all taken.
        ValueError: `ports` or `exclude_ports` has more than 65,536 items.
    """
    wanted = available_ports() if ports is None else set(at_most(ports, PORTS, "ports"))
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

"""The options that say which ports: shared by the commands that reserve some."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ephemport._allocator import PortAllocator
from ephemport._holding.group import check_group
from ephemport._holding.handoffs import Handoff
from ephemport._holding.mode import mode_named
from ephemport._holding.request import Request
from ephemport._holding.shape import Shape, shape_of
from ephemport._holding.sources import modes
from ephemport._nodes.node import NodeReservation
from ephemport._reservation import Reservation, reserve_group_from
from ephemport.cli import there
from ephemport.cli.specs import Ports, ports, wanted_ports, whole_numbers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the ports that a command reserves."""
    parser.add_argument(
        "--port",
        dest="wanted",
        action="append",
        type=wanted_ports,
        metavar="PORTS",
        help="preferred ports: 8080, or 8080,8090, or 8000-8010, or several times. One port that "
        "is taken is an error; of several the next one is tried; 0 at the end means any port",
    )
    parser.add_argument(
        "--exclude",
        dest="excluded",
        action="append",
        type=ports,
        metavar="PORTS",
        help="ports that are never reserved, written as for --port",
    )
    parser.add_argument(
        "--range",
        dest="allowed",
        action="append",
        type=ports,
        metavar="PORTS",
        help="the only ports that may be reserved, written as for --port: any of them, not the "
        "first one; --port names preferred ones of them",
    )
    parser.add_argument(
        "--outside-ephemeral",
        action="store_true",
        help="only ports that the operating system assigns to nobody: outside of "
        "net.ipv4.ip_local_port_range",
    )
    parser.add_argument(
        "--contiguous",
        action="store_true",
        help="reserve the ports in a row: P, P+1, P+2, ...; --port names P",
    )
    parser.add_argument(
        "--offsets",
        type=whole_numbers("distance, such as 10000"),
        metavar="OFFSETS",
        help="reserve the ports at these distances from one of them: 0,10000 for P and P+10000; "
        "--port names P",
    )
    parser.add_argument(
        "--multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="with --contiguous or --offsets: P can be divided by N, so 2 makes it even",
    )
    parser.add_argument(
        "--host",
        help="where the servers bind (default: 127.0.0.1); the hold covers every address",
    )
    parser.add_argument(
        "--mode",
        help=f"where the ports come from: {', '.join(modes())} or portserver:ADDRESS "
        "(default: the environment's EPHEMPORT_MODE, else ephemeral)",
    )
    there.add_options(parser)


def asked(
    options: argparse.Namespace, ways: Sequence[tuple[str, str | Handoff]], count: int | None
) -> "Asking":
    """The ports that the options ask for, checked. Nothing is bound yet.

    ways: the protocol and the hand-off of each port. count: None: as many ports as --offsets names,
    or one; the one way is for each of them.
    """
    there.check(options)
    shape = shape_of(count, options.contiguous, options.offsets, options.multiple_of)
    every = ways if len(ways) > 1 else [*ways] * shape.length
    wanted = _wanted(options.wanted)
    excluded = _all(options.excluded or ())
    allowed = None if options.allowed is None else _all(options.allowed)
    outside = options.outside_ephemeral
    if options.on is not None:
        return there.AskedThere(options, every, shape, wanted, excluded, allowed)
    host = options.host or "127.0.0.1"
    requests = [
        Request(host, protocol, wanted, excluded, handoff, allowed, outside)
        for protocol, handoff in every
    ]
    return Asked(options.mode, requests, shape)


class Asked:
    """The ports that the options ask for, on this host."""

    def __init__(self, mode: str | None, requests: Sequence[Request], shape: Shape) -> None:
        mode_named(mode)
        check_group(requests, shape)
        self._mode = mode
        self._requests = requests
        self._shape = shape

    @contextmanager
    def held(self) -> Iterator[list[Reservation]]:
        """Reserve them, all or none, and hold them in the block."""
        source = PortAllocator(self._mode).source("testing")
        with reserve_group_from(source, self._requests, self._shape) as group:
            yield list(group)


Asking = Asked | there.AskedThere
Held = Sequence[Reservation] | Sequence[NodeReservation]


def _wanted(given: list[Ports] | None) -> int | list[int] | None:
    if given is None:
        return None
    if len(given) == 1 and given[0].lone:
        return given[0][0]
    return _all(given)


def _all(given: Iterable[Ports]) -> list[int]:
    return [port for some in given for port in some]

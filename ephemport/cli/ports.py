"""The options that say which ports: shared by the commands that reserve some."""

import argparse

from ephemport._allocator import PortAllocator
from ephemport._holding.request import Request
from ephemport._holding.sources import modes
from ephemport._reservation import Reservation


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --host and --mode."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where the servers bind (default: 127.0.0.1); the hold covers every address",
    )
    parser.add_argument(
        "--mode",
        help=f"where the ports come from: {', '.join(modes())} or portserver:ADDRESS "
        "(default: the environment's EPHEMPORT_MODE, else ephemeral)",
    )


def reserve_all(mode: str | None, requests: list[Request]) -> list[Reservation]:
    """One reservation for each request, all or none."""
    allocator = PortAllocator(mode)
    try:
        return [allocator.allocate("testing", request) for request in requests]
    except BaseException:
        allocator.release_all()
        raise

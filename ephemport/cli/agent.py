"""`ephemport agent`: hold ports for another host, which asks over standard input and output."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "agent",
        help="hold ports here for a program elsewhere",
        description="Hold ports for a program on another host, until standard input ends. "
        "ephemport.on() and the option --on start this by themselves; people need it only to see "
        "whether a host can be reached.",
        epilog="example: ssh n7 python3 -m ephemport agent </dev/null    prints one line, a "
        "greeting",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--lease",
        type=_lease,
        metavar="SECONDS",
        help="also end when nothing was heard for so long (default: wait for the end of input)",
    )
    parser.set_defaults(action=_agent)


def _lease(text: str) -> float:
    lease = float(text)
    if not 0 < lease < float("inf"):
        raise argparse.ArgumentTypeError(f"a lease is more than 0 seconds, not {text}")
    return lease


def _agent(options: argparse.Namespace) -> int:
    from ephemport._nodes.agent import serve

    return serve(options.lease)

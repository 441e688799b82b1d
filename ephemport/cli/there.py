"""`--on COMMAND`: the ports of a command are held on another host."""

import argparse
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ephemport._holding.handoffs import Handoff
from ephemport._holding.shape import Shape
from ephemport._nodes.node import Node, NodeReservation
from ephemport._nodes.opening import on
from ephemport._nodes.terms import terms_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a node."""
    parser.add_argument(
        "--on",
        metavar="COMMAND",
        help="hold the ports on another host, which COMMAND reaches: --on 'ssh n7', or 'srun -N1 "
        "-w n7 --overlap', or 'ip netns exec h2'. --host must name its address",
    )
    parser.add_argument(
        "--python",
        metavar="PROGRAM",
        help="with --on: the interpreter there that has ephemport (default: python3)",
    )
    parser.add_argument(
        "--ship",
        action="store_true",
        help="with --on: send ephemport along, so that only Python need be installed there",
    )
    parser.add_argument(
        "--lease",
        type=float,
        metavar="SECONDS",
        help="with --on: how long the hosts may not hear each other before the ports are let go "
        "there (default: 30)",
    )


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    if options.on is None:
        for name in ("python", "ship", "lease"):
            if getattr(options, name):
                raise ValueError(f"--{name} is about another host: name it with --on COMMAND")
    elif options.host is None:
        raise ValueError(
            "--on needs --host ADDRESS, the address of that host which the servers bind and their "
            "clients reach; 127.0.0.1 over there is of no use here"
        )
    elif options.mode is not None:
        raise ValueError("--mode is where ports of this host come from; with --on leave it out")


class AskedThere:
    """The ports that the options ask for, on a node. Nothing is started yet."""

    def __init__(
        self,
        options: argparse.Namespace,
        ways: Sequence[tuple[str, str | Handoff]],
        shape: Shape,
        wanted: int | list[int] | None,
        excluded: list[int],
        allowed: list[int] | None,
    ) -> None:
        self._options = options
        self._shape = shape
        self._terms = [
            terms_of(
                options.host,
                protocol,
                wanted,
                excluded,
                handoff.name if isinstance(handoff, Handoff) else handoff,
                allowed,
                options.outside_ephemeral,
            )
            for protocol, handoff in ways
        ]

    @contextmanager
    def held(self) -> Iterator[list[NodeReservation]]:
        """Reserve them, all or none, and hold them in the block."""
        with self._open() as node:
            yield node._reserve(self._terms, self._shape)

    def _open(self) -> Node:
        options = self._options
        lease = {} if options.lease is None else {"lease": options.lease}
        return on(options.on, python=options.python or "python3", ship=options.ship, **lease)


def node_of(reservations: Sequence[object]) -> Node | None:
    """The node that holds these; None where they are held on this host."""
    first = reservations[0] if reservations else None
    return first.node if isinstance(first, NodeReservation) else None


def when_lost(node: Node, call: Callable[[], object]) -> None:
    """Call it once, from a thread, when the node is lost."""

    def wait() -> None:
        node._channel.ended.wait()
        if node.lost:
            call()

    threading.Thread(target=wait, daemon=True).start()


def require_held(node: Node) -> None:
    """Raise NodeLost if the node is lost."""
    node._channel.require("hold ports")

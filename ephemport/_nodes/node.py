"""A node, which is another host where an agent holds ports, and its reservations."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Never, Self, SupportsIndex, overload

from ephemport import _spelling
from ephemport._errors import ReservationReleased
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.host import make_url
from ephemport._holding.shape import ONE, Shape, shape_of
from ephemport._nodes.channel import Channel
from ephemport._nodes.terms import Ports, Terms, terms_of


class Node(EndsWithBlock):
    """Another host (or another place on this one) where an agent holds ports. Made by `on()`.

    The ports are held until `release()`, `close()`, the end of this process, or the end of the
    channel. With a lease they are also let go when the two ends cannot hear each other for that
    long. In a child made by `os.fork()` the node cannot be used.

    Args:
        channel: The channel to the agent.
    """

    # What it makes; set below, where that is defined.
    _kind: "type[NodeReservation]"

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._closed = False

    @property
    def name(self) -> str:
        """The command that reaches the node, as messages show it."""
        return self._channel.name

    @property
    def hostname(self) -> str:
        """What the node calls itself (gethostname(2))."""
        return str(self._channel.greeting["host"])

    @property
    def pid(self) -> int:
        """The id of the agent's process, on the node."""
        return int(self._channel.greeting["pid"])

    @property
    def lost(self) -> bool:
        """Whether the node cannot be reached any more. What it holds is then unknown.

        It asks nobody. It is True as soon as the channel has ended, or at the end of the lease. It
        stays True: a node that is lost does not come back. False after `close()`.
        """
        return self._channel.lost

    def reserve(
        self,
        *,
        host: str,
        protocol: str = "tcp",
        port: Ports = None,
        exclude: Iterable[SupportsIndex] = (),
        range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - as in reserve()
        outside_ephemeral: bool = False,
        handoff: str = "takeover",
    ) -> "NodeReservation":
        """Reserve a port on the node.

        Args:
            host: The address that the server will bind, as a string: one of the node's own, which
                its clients reach. It has no default, because 127.0.0.1 of another host is of no
                use here.
            protocol: As for `reserve()`.
            port: As for `reserve()`.
            exclude: As for `reserve()`.
            range: As for `reserve()`.
            outside_ephemeral: As for `reserve()`, by the settings of the node.
            handoff: As for `reserve()`.

        Returns:
            The reservation.

        Raises:
            PortsExhausted: As `reserve()`, there.
            PortUnavailable: As `reserve()`, there; with who has the port there.
            NodeLost: The node cannot be reached any more.
            TypeError: An argument is of the wrong type. Nothing was bound.
            ValueError: An argument makes no sense, or `host` is no address of the node. Nothing
                was bound.
        """
        terms = terms_of(host, protocol, port, exclude, handoff, range, outside_ephemeral)
        return self._reserve([terms])[0]

    def reserve_many(
        self,
        count: SupportsIndex | None = None,
        *,
        contiguous: bool = False,
        offsets: Iterable[SupportsIndex] | None = None,
        multiple_of: SupportsIndex = 1,
        host: str,
        protocol: str = "tcp",
        port: Ports = None,
        exclude: Iterable[SupportsIndex] = (),
        range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - as in reserve()
        outside_ephemeral: bool = False,
        handoff: str = "takeover",
    ) -> "NodeReservationGroup":
        """Reserve several ports on the node: all of them or, after an error, none.

        Args:
            count: As for `ephemport.reserve_many()`.
            contiguous: As for `ephemport.reserve_many()`.
            offsets: As for `ephemport.reserve_many()`.
            multiple_of: As for `ephemport.reserve_many()`.
            host: As for `reserve()`.
            protocol: As for `reserve()`.
            port: As for `ephemport.reserve_many()`.
            exclude: As for `reserve()`.
            range: As for `reserve()`.
            outside_ephemeral: As for `reserve()`, by the settings of the node.
            handoff: As for `reserve()`.

        Returns:
            The group of reservations, in order.

        Raises:
            PortsExhausted: As for `reserve()`.
            PortUnavailable: As for `reserve()`.
            NodeLost: As for `reserve()`.
            TypeError: As for `reserve()`.
            ValueError: As for `reserve()`.
        """
        shape = shape_of(count, contiguous, offsets, multiple_of)
        terms = terms_of(host, protocol, port, exclude, handoff, range, outside_ephemeral)
        return NodeReservationGroup(self._reserve([terms], shape))

    def close(self) -> None:
        """End the channel. The agent frees all its ports. It may be called often."""
        self._closed = True
        self._channel.close()

    _end = close

    def _reserve(self, terms: list[Terms], shape: Shape = ONE) -> "list[NodeReservation]":
        """Reserve there. terms: one set for all ports, or one for each."""
        row = isinstance(shape.offsets, range)
        answer = self._channel.ask(
            "reserve",
            count=shape.length,
            contiguous=row,
            offsets=None if row or shape.offsets is None else list(shape.offsets),
            multiple_of=shape.multiple_of,
            terms=terms,
            for_the_command=_spelling.is_for_the_command(),
        )
        each = terms if len(terms) > 1 else terms * shape.length
        return [
            self._kind(self, hold, port, one["host"], one["protocol"], one["handoff"])
            for hold, port, one in zip(answer["holds"], answer["ports"], each, strict=True)
        ]

    def __copy__(self) -> Never:
        raise TypeError(f"{self!r} cannot be copied: it has one channel")

    def __deepcopy__(self, memo: object) -> Never:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError(f"{self!r} cannot be pickled: its channel belongs to this process")

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._channel.pid != os.getpid():
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
        self._channel.abandon()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "lost" if self.lost else "open"
        return f"<Node {self.name} {state}>"


class NodeReservation(EndsWithBlock):
    """A port that is held on a node, until `release()` or the end of the node.

    Made by `Node.reserve()`. It is a fact about another host: to start a server there is the
    caller's part. A process there adopts it with the token of `share()`, or its server takes the
    port over.

    Args:
        node: The node that holds it.
        hold: The agent's number for it, an int.
        port: The port, 1 to 65535.
        host: The address that the server will bind, a string.
        protocol: "tcp", "udp" or "both".
        handoff: "takeover", "shadow" or "fd".
    """

    __slots__ = ("_handoff", "_hold", "_host", "_node", "_port", "_protocol", "_released")

    def __init__(
        self, node: Node, hold: int, port: int, host: str, protocol: str, handoff: str
    ) -> None:
        self._node = node
        self._hold = hold
        self._port = port
        self._host = host
        self._protocol = protocol
        self._handoff = handoff
        self._released = False

    @property
    def node(self) -> Node:
        """The node that holds the port."""
        return self._node

    @property
    def port(self) -> int:
        """The port: 1 to 65535."""
        return self._port

    @property
    def host(self) -> str:
        """The address that the server will bind, as it was given."""
        return self._host

    @property
    def protocol(self) -> str:
        """The protocol of the port: "tcp", "udp" or "both"."""
        return self._protocol

    @property
    def handoff(self) -> str:
        """How the server gets the port: "takeover", "shadow" or "fd"."""
        return self._handoff

    @property
    def address(self) -> tuple[str, int]:
        """The pair `(host, port)`."""
        return (self._host, self._port)

    @property
    def released(self) -> bool:
        """Whether it was released here, or its node was closed."""
        return self._released or self._node._closed

    @property
    def lost(self) -> bool:
        """Whether its node is lost, so that it is unknown whether the port is still held."""
        return not self._released and self._node.lost

    def url(self, scheme: str = "http", path: str = "") -> str:
        """The URL of a server on this port.

        Args:
            scheme: As for `Reservation.url()`.
            path: As for `Reservation.url()`.

        Returns:
            `scheme://host:port/path`, with an IPv6 host in brackets.

        Raises:
            TypeError: `scheme` or `path` is not a string.
        """
        return make_url(scheme, self._host, self._port, path)

    def release(self) -> None:
        """Let the port go. It is free there when this returns. It may be called often.

        Raises:
            NodeLost: The node cannot be reached any more, so the port may still be held there.
        """
        if not self.released:
            self._node._channel.ask("release", holds=[self._hold])
            self._released = True

    def share(self) -> str:
        """Make a token with which a process on the node can `adopt()` the reservation.

        Returns:
            The token, a string. It works once, on the node, for a process of the agent's user.
            When a process has adopted the port there, that process holds it, and no lease ends it.

        Raises:
            ReservationReleased: It was released.
            NodeLost: The node cannot be reached any more.
            EphemportError: The agent cannot serve the token.
        """
        self._require_held("share")
        token: str = self._node._channel.ask("share", hold=self._hold)["token"]
        return token

    def _end(self) -> None:
        # At the end of a block a lost node is no news: an error of the block is what matters.
        if not self.lost:
            self.release()

    def _require_held(self, verb: str) -> None:
        if self.released:
            raise ReservationReleased(
                f"cannot {verb} port {self._port} of node {self._node.name}: it was released",
                port=self._port,
                protocol=self._protocol,
            )
        self._node._channel.require(verb)

    def __enter__(self) -> Self:
        self._require_held("enter a with block of")
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __index__(self) -> int:
        return self._port

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError(f"{self!r} cannot be copied or pickled: it belongs to this process")

    def __repr__(self) -> str:
        state = "released" if self.released else "lost" if self.lost else "held"
        return (
            f"<{type(self).__name__} {self._port} host={self._host!r} protocol={self._protocol!r} "
            f"handoff={self._handoff!r} on {self._node.name}, {state}>"
        )


Node._kind = NodeReservation


class NodeReservationGroup(EndsWithBlock, Sequence[NodeReservation]):
    """Several reservations on one node or on several ones, which end together.

    Args:
        reservations: The reservations, in order.
    """

    __slots__ = ("_reservations",)

    def __init__(self, reservations: Iterable[NodeReservation]) -> None:
        self._reservations = tuple(reservations)

    @property
    def ports(self) -> list[int]:
        """The ports, in order."""
        return [one.port for one in self._reservations]

    @property
    def lost(self) -> bool:
        """Whether one of the reservations is lost."""
        return any(one.lost for one in self._reservations)

    @property
    def released(self) -> bool:
        """Whether all of them were released."""
        return all(one.released for one in self._reservations)

    def release(self) -> None:
        """Let all ports go. It may be called often.

        Raises:
            NodeLost: A node cannot be reached any more. The ports of the others are free.
        """
        failed: NodeReservation | None = None
        for node, some in _by_node(self._reservations):
            if node.lost:
                failed = failed or some[0]
                continue
            node._channel.ask("release", holds=[one._hold for one in some])
            for one in some:
                one._released = True
        if failed is not None:
            failed.release()

    def _end(self) -> None:
        for _, some in _by_node(self._reservations):
            NodeReservationGroup([one for one in some if not one.lost]).release()

    @overload
    def __getitem__(self, position: int) -> NodeReservation: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[NodeReservation]: ...
    def __getitem__(self, position: int | slice) -> NodeReservation | Sequence[NodeReservation]:
        return self._reservations[position]

    def __len__(self) -> int:
        return len(self._reservations)

    def __enter__(self) -> Self:
        for one in self._reservations:
            one.__enter__()
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __repr__(self) -> str:
        return f"<NodeReservationGroup {list(self._reservations)!r}>"


def _by_node(
    reservations: Sequence[NodeReservation],
) -> Iterator[tuple[Node, list[NodeReservation]]]:
    """The reservations that are not released, node by node."""
    for node in dict.fromkeys(one.node for one in reservations):
        some = [one for one in reservations if one.node is node and not one.released]
        if some:
            yield node, some

"""Ports that are held on a node of a Ray cluster, by an actor there.

    import ray, ephemport.ray

    ray.init()
    r = ephemport.ray.reserve_on_node(node_id)
    trainer = Trainer.options(...).remote(r)      # on that node: self.port = r.adopt()

All ports of one driver on one node are held by one actor. It has no CPUs and is not restarted: a
restarted one would have other ports. The ports are free when they are released, when nothing
refers to the reservations any more, or when the driver ends. The raylet of a node that is cut off
keeps its actors alive, so there is a lease as well. This module needs Ray; nothing else of
ephemport does.
"""

import importlib
import threading
import time
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from ephemport._arguments import seconds, shown
from ephemport._errors import EphemportError, NodeUnreachable
from ephemport._nodes.channel import Channel
from ephemport._nodes.holder import Holder
from ephemport._nodes.node import Node, NodeReservation
from ephemport._nodes.wire import Message
from ephemport._reservation import Reservation, adopt

try:
    _ray: Any = importlib.import_module("ray")
    _exceptions: Any = importlib.import_module("ray.exceptions")
    _strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "ray":
        raise
    raise EphemportError(
        f"ephemport.ray needs Ray ({error}): pip install 'ephemport[ray]'"
    ) from error

# How long, in seconds, driver and actor may not hear each other.
LEASE = 30.0
_SIGNS_IN_A_LEASE = 3
# A message names so many nodes.
_NAMED = 8


class RayReservation(NodeReservation):
    """A port that is held on a node of a Ray cluster. Made by `reserve_on_node()`.

    It can be passed to tasks and actors. An actor on its node adopts it.
    """

    __slots__ = ()

    @property
    def node_id(self) -> str:
        """The id of the Ray node that holds the port."""
        channel = self._node._channel
        assert isinstance(channel, RayChannel)
        return channel.node_id

    def adopt(self) -> Reservation:
        """Take the port over into this process: an actor, or a driver, on the same node.

        Returns:
            The reservation, which this process holds from now on, whatever becomes of the driver.

        Raises:
            EphemportError: This process is on another node. Or it runs a task: its reservation
                would end with the task.
            ReservationReleased: It was released.
            NodeLost: The actor that holds the port cannot be reached.
        """
        context = _ray.get_runtime_context()
        here = context.get_node_id()
        if here != self.node_id:
            raise EphemportError(
                f"cannot adopt port {self.port}: it is held on Ray node {self.node_id} "
                f"({self.host}), and this process is on Ray node {here}; start the actor there "
                "(NodeAffinitySchedulingStrategy(node_id=..., soft=False))",
                port=self.port,
                protocol=self.protocol,
            )
        if context.worker.mode == _ray.WORKER_MODE and context.get_actor_id() is None:
            raise EphemportError(
                f"cannot adopt port {self.port} in a task: it would be free as soon as the task "
                "returns; adopt it in an actor",
                port=self.port,
                protocol=self.protocol,
            )
        return adopt(self.share())

    def __reduce_ex__(self, protocol: object) -> Any:
        self._require_held("pass on")
        channel = self._node._channel
        assert isinstance(channel, RayChannel)
        terms = (self._hold, self.port, self.host, self.protocol, self.handoff)
        return _received, (channel.actor, channel.node_id, channel.timeout, terms)


class RayNode(Node):
    """A node of a Ray cluster."""

    _kind = RayReservation

    def __del__(self) -> None:
        # Nobody opened it by name, so nobody forgot to close it: it ends with its reservations.
        self._channel.abandon()


class RayChannel(Channel):
    """Calls of an actor.

    actor: the handle. node_id: where it runs. lease: None where somebody else gives signs of life.
    """

    def __init__(self, actor: Any, node_id: str, lease: float | None, timeout: float) -> None:
        super().__init__(f"{node_id} of Ray", lease, timeout)
        self.actor = actor
        self.node_id = node_id
        self.timeout = timeout
        self._left = threading.Event()
        self._gives_signs = lease is not None
        if lease is not None:
            self._alive_until = time.monotonic() + lease
            threading.Thread(
                target=self._give_signs, args=(lease,), name="ephemport-ray", daemon=True
            ).start()

    def close(self) -> None:
        if not self._closed and self._why is None:
            self._closed = True
            _ray.kill(self.actor)
        self._end()

    def abandon(self) -> None:
        self._end()

    def _end(self) -> None:
        self._left.set()
        actor, self.actor = self.actor, None
        if actor is not None and self._gives_signs:
            with suppress(Exception):  # Ray itself may have ended
                actor.let_go.remote()
        # The last handle to an actor ends it.
        del actor
        self.ended.set()

    def _exchange(self, do: str, terms: Message) -> Message:
        actor, sent = self.actor, time.monotonic()
        coming = actor.ask.remote({"id": 0, "do": do, **terms})
        try:
            answer: Message = _ray.get(coming, timeout=self.timeout)
        except _exceptions.GetTimeoutError:
            self._lose(f"it did not answer within {self.timeout:g} s")
        except _exceptions.RayError as error:
            self._lose(_first_line(error))
        except BaseException:
            # Nobody takes the answer when it comes.
            actor.forget.remote(coming)
            raise
        else:
            self._answered(sent)
            return answer
        self.require(do)
        raise AssertionError("a lost node raises")

    def _give_signs(self, lease: float) -> None:
        ended = self.actor.last.remote()
        while not self._left.is_set():
            actor, sent = self.actor, time.monotonic()
            if actor is None:
                return
            try:
                _ray.get(actor.ask.remote({"id": 0, "do": "alive"}), timeout=lease)
                self._answered(sent)
                # A thread that waits must not be what keeps the actor.
                del actor
                if _ray.wait([ended], timeout=lease / _SIGNS_IN_A_LEASE)[0]:
                    _ray.get(ended)
            except _exceptions.GetTimeoutError:
                continue  # the lease decides
            except _exceptions.RayError as error:
                self._lose(_first_line(error))
                return


_nodes: "WeakValueDictionary[str, RayNode]" = WeakValueDictionary()
_opening = threading.Lock()


def reserve_on_node(
    where: Any, *, timeout: float = 30.0, host: str | None = None, **terms: Any
) -> RayReservation:
    """Reserve a port on a node of the Ray cluster that this driver is connected to.

    Args:
        where: The id of a node, a string as in `ray.nodes()`, or a pair of a placement group and
            the index of one of its bundles.
        timeout: How long to wait for the actor, and for each answer, in seconds.
        host: The address that the server will bind, a string. None: the node's own, as Ray has it.
        **terms: The other arguments of `reserve()`.

    Returns:
        The reservation. It holds the port until `release()`, until nothing refers to it, or until
        the driver ends.

    Raises:
        NodeUnreachable: There is no such node, or no actor could be started there.
        NodeLost: The actor cannot be reached any more.
        PortsExhausted: As `reserve()`, there.
        PortUnavailable: As `reserve()`, there.
        EphemportError: Ray is not initialized.
        TypeError: An argument is of the wrong type. Nothing was bound.
        ValueError: An argument makes no sense. Nothing was bound.
    """
    if not seconds(timeout, "timeout") > 0:
        raise ValueError(f"timeout must be more than 0 seconds, but is {shown(timeout)}")
    if not _ray.is_initialized():
        raise EphemportError("Ray is not initialized: call ray.init() first")
    node_id = _node_id(where, timeout)
    address = _alive_nodes().get(node_id)
    if address is None:
        raise _no_such_node(node_id)
    with _opening:
        node = _nodes.get(node_id)
        if node is None or node.lost:
            node = _nodes[node_id] = _open(node_id, timeout)
    reservation = node.reserve(host=address if host is None else host, **terms)
    assert isinstance(reservation, RayReservation)
    return reservation


def _node_id(where: Any, timeout: float) -> str:
    if isinstance(where, str):
        return where
    try:
        group, bundle = where
        ready = group.ready()
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            "where must be the id of a node, or a pair (placement group, index of a bundle), "
            f"not {shown(where)}"
        ) from None
    try:
        _ray.get(ready, timeout=timeout)
    except _exceptions.GetTimeoutError:
        raise NodeUnreachable(f"the placement group is not ready after {timeout:g} s") from None
    bundles = _ray.util.placement_group_table(group)["bundles_to_node_id"]
    if bundle not in bundles:
        raise ValueError(f"the placement group has the bundles {sorted(bundles)}, not {bundle!r}")
    return str(bundles[bundle])


def _alive_nodes() -> dict[str, str]:
    """The addresses of the nodes that are alive, by id."""
    return {one["NodeID"]: one["NodeManagerAddress"] for one in _ray.nodes() if one["Alive"]}


def _no_such_node(node_id: str) -> NodeUnreachable:
    alive = list(_alive_nodes())
    more = f" and {len(alive) - _NAMED} others" if len(alive) > _NAMED else ""
    return NodeUnreachable(
        f"cannot use Ray node {shown(node_id)}: no node with this id is alive; alive are "
        f"{', '.join(alive[:_NAMED])}{more}"
    )


def _open(node_id: str, timeout: float) -> RayNode:
    strategy = _strategies.NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    # Two calls at a time: one of them is last().
    terms = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": 2}
    maker: Any = _ray.remote(**terms, scheduling_strategy=strategy)(Holder)
    actor = maker.remote(LEASE)
    try:
        greeting = _ray.get(actor.hello.remote(), timeout=timeout)
    except _exceptions.GetTimeoutError:
        raise NodeUnreachable(
            f"cannot use Ray node {node_id}: no actor started there within {timeout:g} s"
        ) from None
    except _exceptions.RayError as error:
        raise NodeUnreachable(f"cannot use Ray node {node_id}: {_first_line(error)}") from error
    channel = RayChannel(actor, node_id, LEASE, timeout)
    channel.greeting = greeting
    return RayNode(channel)


def _received(
    actor: Any, node_id: str, timeout: float, terms: tuple[int, int, str, str, str]
) -> RayReservation:
    """A reservation that was passed to another process. The driver gives the signs of life."""
    return RayReservation(RayNode(RayChannel(actor, node_id, None, timeout)), *terms)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


__all__ = ["RayReservation", "reserve_on_node"]

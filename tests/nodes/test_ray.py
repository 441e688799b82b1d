"""Ports on the nodes of a Ray cluster: two raylets on this machine. `pytest -m ray` runs it."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ephemport import EphemportError, NodeLost, NodeUnreachable, PortUnavailable
from tests.conftest import ROOT
from tests.core.helpers import eventually

pytestmark = [
    pytest.mark.ray,
    # Of Ray's own code.
    pytest.mark.filterwarnings("ignore"),
]
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray: Any = pytest.importorskip("ray")
    os.environ["PYTHONPATH"] = str(ROOT)
    utils: Any = importlib.import_module("ray.cluster_utils")
    made = utils.Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
    made.add_node(**SMALL)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def ray(cluster: Any) -> Any:
    return importlib.import_module("ray")


@pytest.fixture
def ids(ray: Any) -> list[str]:
    return [str(one["NodeID"]) for one in ray.nodes() if one["Alive"]]


@pytest.fixture
def ours(cluster: Any) -> Any:
    return importlib.import_module("ephemport.ray")


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def on_node(ray: Any, node_id: str) -> dict[str, Any]:
    strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
    chosen = strategies.NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return {"scheduling_strategy": chosen, "num_cpus": 0}


class Adopter:
    """An actor that adopts what it is given."""

    def adopt(self, reservation: Any) -> int:
        self.kept = reservation.adopt()
        return int(self.kept.port)


def adopt(reservation: Any) -> int:
    return int(reservation.adopt().port)


def test_a_port_is_held_until_the_last_reference_is_gone(ours: Any, ids: list[str]) -> None:
    first, second = (ours.reserve_on_node(ids[0]) for _ in range(2))
    port = first.port
    assert first.node is second.node
    assert first.node_id == ids[0]
    assert not is_free(port)
    del first
    # One actor holds all ports of this node, as long as one of them is known.
    assert not is_free(port)
    del second
    eventually(lambda: is_free(port))


def test_the_host_is_the_nodes_own(ours: Any, ray: Any, ids: list[str]) -> None:
    addresses = {one["NodeID"]: one["NodeManagerAddress"] for one in ray.nodes()}
    r = ours.reserve_on_node(ids[1])
    assert r.host == addresses[ids[1]]
    assert ours.reserve_on_node(ids[1], host="0.0.0.0", protocol="udp").protocol == "udp"
    r.release()
    assert is_free(r.port)


def test_an_actor_on_its_node_adopts_it(ours: Any, ray: Any, ids: list[str]) -> None:
    r = ours.reserve_on_node(ids[0])
    port = r.port
    actor = ray.remote(Adopter).options(**on_node(ray, ids[0])).remote()
    assert ray.get(actor.adopt.remote(r)) == port
    r.node.close()
    assert not is_free(port)
    ray.kill(actor)
    eventually(lambda: is_free(port))


def test_an_actor_elsewhere_is_told_both_nodes(ours: Any, ray: Any, ids: list[str]) -> None:
    r = ours.reserve_on_node(ids[0])
    actor = ray.remote(Adopter).options(**on_node(ray, ids[1])).remote()
    with pytest.raises(EphemportError) as caught:
        ray.get(actor.adopt.remote(r))
    assert f"held on Ray node {ids[0]}" in str(caught.value)
    assert f"this process is on Ray node {ids[1]}" in str(caught.value)
    assert not is_free(r.port)
    ray.kill(actor)


def test_a_task_cannot_adopt(ours: Any, ray: Any, ids: list[str]) -> None:
    r = ours.reserve_on_node(ids[0])
    with pytest.raises(EphemportError, match="as soon as the task returns; adopt it in an actor"):
        ray.get(ray.remote(adopt).options(**on_node(ray, ids[0])).remote(r))
    assert not is_free(r.port)


def test_a_bundle_of_a_placement_group(ours: Any, ray: Any, ids: list[str]) -> None:
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    try:
        found = {ours.reserve_on_node((group, bundle)).node_id for bundle in (0, 1)}
        assert found == set(ids)
        with pytest.raises(ValueError, match=r"has the bundles \[0, 1\], not 2"):
            ours.reserve_on_node((group, 2))
    finally:
        ray.util.remove_placement_group(group)


def test_errors_are_named(ours: Any, ids: list[str]) -> None:
    with pytest.raises(NodeUnreachable, match=r"no node with this id is alive; alive are"):
        ours.reserve_on_node("no such node")
    with pytest.raises(TypeError, match="where must be the id of a node, or a pair"):
        ours.reserve_on_node(7)
    r = ours.reserve_on_node(ids[0])
    with pytest.raises(PortUnavailable, match=f"port {r.port}") as caught:
        ours.reserve_on_node(ids[0], port=r.port)
    assert caught.value.port == r.port
    with pytest.raises(ValueError, match="no address of this machine"):
        ours.reserve_on_node(ids[0], host="192.0.2.77")


def test_a_killed_actor_is_lost_and_not_replaced(ours: Any, ray: Any, ids: list[str]) -> None:
    r = ours.reserve_on_node(ids[0])
    ray.kill(r.node._channel.actor)
    eventually(lambda: is_free(r.port))
    eventually(lambda: r.lost)
    with pytest.raises(NodeLost, match="unknown there, possibly still held"):
        r.share()
    assert ours.reserve_on_node(ids[0]).node is not r.node


_DRIVER = """
import sys, ray, ephemport.ray
ephemport.ray.LEASE = float(sys.argv[2])
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
r = ephemport.ray.reserve_on_node(ray.nodes()[0]["NodeID"])
print(f"\\nport {r.port}", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("lease", "number"), [(300, signal.SIGKILL), (3, signal.SIGSTOP)], ids=["killed", "cut off"]
)
def test_a_driver_that_ends_or_is_cut_off(cluster: Any, lease: int, number: int) -> None:
    """A driver that stands still is seen from the node as one that is cut off."""
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVER, cluster.address, str(lease)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        try:
            assert driver.stdout is not None
            (port,) = (int(one.split()[1]) for one in _until_port(driver.stdout))
            assert not is_free(port)
            driver.send_signal(number)
            eventually(lambda: is_free(port))
        finally:
            driver.kill()


def _until_port(lines: Any) -> Iterator[str]:
    for line in lines:
        if line.startswith("port "):
            yield line
            return

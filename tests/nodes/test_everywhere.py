"""One port on several hosts, or none."""

import sys
from collections.abc import Iterator

import pytest

from ephemport import Node, PortsExhausted, PortUnavailable, on, reserve_everywhere
from tests.nodes.conftest import Host, node_on

Nodes = tuple[Node, Node]


@pytest.fixture
def nodes(hosts: tuple[Host, Host]) -> Iterator[Nodes]:
    with node_on(hosts[0]) as first, node_on(hosts[1]) as second:
        yield first, second


def addresses(hosts: tuple[Host, Host]) -> list[str]:
    return [host.address for host in hosts]


def test_the_same_port_on_both(hosts: tuple[Host, Host], nodes: Nodes) -> None:
    with reserve_everywhere(nodes, host=addresses(hosts)) as group:
        assert len(set(group.ports)) == 1
        assert [one.node for one in group] == list(nodes)
        assert [one.host for one in group] == addresses(hosts)
        assert [host.is_free(group.ports[0]) for host in hosts] == [False, False]
    assert [host.is_free(group.ports[0]) for host in hosts] == [True, True]


def test_any_port_on_each(nodes: Nodes) -> None:
    with reserve_everywhere(nodes, host="0.0.0.0", same=False) as group:
        assert len(group) == 2


def test_a_squatter_moves_all_of_them(hosts: tuple[Host, Host], nodes: Nodes) -> None:
    first, second = nodes
    hosts[0].run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40007")
    hosts[1].run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40007")
    with (
        first.reserve_many(4, host="0.0.0.0", port=[40000, 40001, 40002, 40003]),
        second.reserve_many(3, host="0.0.0.0", port=[40004, 40005, 40006]),
    ):
        with reserve_everywhere(nodes, host="0.0.0.0") as group:
            assert group.ports == [40007, 40007]
            with pytest.raises(PortsExhausted) as caught:
                reserve_everywhere(nodes, host="0.0.0.0")
        assert caught.value.port is None
    # What was tried is free again.
    for node in nodes:
        node.reserve_many(8, host="0.0.0.0").release()


def test_a_preferred_port_is_free_on_all_or_refused(hosts: tuple[Host, Host], nodes: Nodes) -> None:
    first, second = nodes
    with second.reserve(host="0.0.0.0", port=7001):
        with pytest.raises(PortUnavailable, match=r"on node nsenter .* port 7001"):
            reserve_everywhere(nodes, host="0.0.0.0", port=7001)
        assert hosts[0].is_free(7001)
        with reserve_everywhere(nodes, host="0.0.0.0", port=[7001, 7002]) as group:
            assert group.ports == [7002, 7002]
            with pytest.raises(PortUnavailable, match="none of 2 ports is free on all of 2 nodes"):
                reserve_everywhere(nodes, host="0.0.0.0", port=range(7001, 7003))
            with reserve_everywhere(nodes, host="0.0.0.0", port=[7001, 7002, 0]) as any_port:
                assert any_port.ports[0] not in (7001, 7002)
    first.reserve(host="0.0.0.0", port=7001)


def test_a_lost_node_leaves_nothing_on_the_others(hosts: tuple[Host, Host], nodes: Nodes) -> None:
    import os
    import signal

    from ephemport import NodeLost
    from tests.core.helpers import eventually

    os.kill(nodes[1].pid, signal.SIGKILL)
    eventually(lambda: nodes[1].lost)
    with pytest.raises(NodeLost):
        reserve_everywhere(nodes, host="0.0.0.0", port=7003)
    assert hosts[0].is_free(7003)


@pytest.mark.parametrize(
    ("nodes", "host", "words"),
    [
        ("n7", "::", "what is no node"),
        (7, "::", "nodes must be several nodes"),
        ([], ["::", "::"], "more than 0 items"),
    ],
)
def test_bad_input(nodes: object, host: str, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        reserve_everywhere(nodes, host=host)  # type: ignore[arg-type]


def test_a_node_twice() -> None:
    with on([], python=sys.executable) as node:
        with pytest.raises(ValueError, match="twice"):
            reserve_everywhere([node, node], host="::")
        with reserve_everywhere([node], host="127.0.0.1") as group:
            assert len(group) == 1


def test_any_of_a_range_on_both(nodes: Nodes) -> None:
    first, second = nodes
    span = range(20000, 20008)
    with (
        first.reserve_many(4, host="0.0.0.0", port=span[:4]),
        second.reserve_many(3, host="0.0.0.0", port=span[4:7]),
        reserve_everywhere(
            nodes, host="0.0.0.0", range=iter(span), outside_ephemeral=True
        ) as group,
    ):
        assert group.ports == [20007, 20007]
        with pytest.raises(PortsExhausted, match=r"20000-20007 \(range=\)"):
            reserve_everywhere(nodes, host="0.0.0.0", range=span)

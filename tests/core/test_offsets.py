"""reserve_many(offsets=..., multiple_of=...): ports at fixed distances from the first one."""

from typing import Any

import pytest

from ephemport import PortsExhausted, PortUnavailable, reserve, reserve_many
from ephemport._holding.request import Request
from ephemport._holding.sources.portserver import Portserver
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._reservation import reserve_many_from
from tests.conftest import InNamespace
from tests.core.helpers import (
    ADDRESSES,
    TCP,
    UDP,
    bound,
    bound_ports,
    given_to_strangers,
    may_bind,
    open_descriptors,
)

LOW, HIGH = 40000, 40063
KINDS = {"tcp": [TCP], "udp": [UDP], "both": [TCP, UDP]}


def test_the_bus_of_a_redis_cluster() -> None:
    with reserve_many(offsets=[0, 10000]) as group:
        client, bus = group.ports
        assert bus == client + 10000
        assert not any(may_bind(port) for port in group.ports)


@pytest.mark.parametrize("offsets", [[10000, 0], [0, -1], [5, 0, 3], (0,), range(0, 9, 4)])
def test_the_group_has_the_order_of_the_offsets(offsets: Any) -> None:
    with reserve_many(offsets=offsets) as group:
        first = group.ports[list(offsets).index(0)]
        assert group.ports == [first + offset for offset in offsets]
    with reserve_many(len(offsets), offsets=iter(offsets)) as group:
        assert len(group) == len(offsets)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_every_port_is_held_as_it_was_asked_for(protocol: str, handoff: str) -> None:
    asked: dict[str, Any] = {"protocol": protocol, "handoff": handoff}
    with reserve_many(offsets=[0, 1], multiple_of=2, **asked) as group:
        even, odd = group.ports
        assert even % 2 == 0
        assert odd == even + 1
        for r in group:
            assert (r.protocol, r.handoff) == (protocol, handoff)
            for kind in KINDS[protocol]:
                assert may_bind(r.port, "127.0.0.1", kind=kind) is (handoff == "shadow")
                assert not may_bind(r.port, "::", kind=kind)


@pytest.mark.parametrize("step", [2, 4, 10, 1000])
def test_a_first_port_that_is_a_multiple(step: int) -> None:
    for group in (
        reserve_many(3, contiguous=True, multiple_of=step),
        reserve_many(offsets=[0, 1, 2], multiple_of=step),
    ):
        with group:
            assert group.ports[0] % step == 0
            assert group.ports == list(range(group.ports[0], group.ports[0] + 3))


def test_no_port_is_above_65535() -> None:
    with reserve_many(offsets=[0, 30000]) as group:
        assert group.ports[1] <= 65535
    before = open_descriptors()
    with pytest.raises(PortUnavailable) as caught:
        reserve_many(offsets=[0, 10000], port=60000)
    assert "cannot reserve the 2 ports 60000, 70000 (tcp): 60000 is not possible" in str(
        caught.value
    )
    assert "ports end at 65535, and 70000 is none" in str(caught.value)
    with pytest.raises(PortUnavailable, match="0 is none"):
        reserve_many(offsets=[0, -40000], port=40000)
    with reserve_many(offsets=[0, 10000], port=[60000, 55536, 40000, 0]) as group:
        assert group.ports == [40000, 50000]
    with reserve_many(offsets=[0, 10000], port=55535) as group:
        assert group.ports == [55535, 65535]
    with reserve_many(offsets=[0, 10000], port=range(60000, 50000, -1)) as group:
        assert group.ports[0] <= 55535
    assert open_descriptors() == before


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_the_last_place_of_a_range_is_found(in_namespace: InNamespace, protocol: str) -> None:
    in_namespace(_last_place, protocol)


def _last_place(protocol: str) -> None:
    # The ports at a distance lie outside the range: everything is free there but what is named.
    for place in (LOW, LOW + 1, LOW + 31, HIGH):
        others = [port + 10000 for port in range(LOW, HIGH + 1) if port != place]
        with reserve_many(63, port=others, protocol="both"):
            for _ in range(3):
                with reserve_many(offsets=[0, 10000], protocol=protocol) as group:
                    assert group.ports == [place, place + 10000]
                    before = open_descriptors()
                    with pytest.raises(PortsExhausted) as caught:
                        reserve_many(offsets=[0, 10000], protocol=protocol)
                    assert open_descriptors() == before
                    text = str(caught.value)
                    assert "looked for 2 ports at the offsets 0, 10000 for" in text
                    # A kernel that shows no bound TCP sockets shows the 63 of UDP.
                    unseen = protocol == "tcp" and not can_see_bound_inactive()
                    left = {"tcp": "at most 64", "both": "at most 0"}.get(protocol, "0")
                    if can_see_bound_inactive():
                        left = "0"
                    assert unseen or f"can be the first port, and {left} of them with" in text
                    assert "elease reservations, or end what has the ports" in text


def test_places_are_used_up_to_the_last(in_namespace: InNamespace) -> None:
    in_namespace(_used_up)


def _used_up() -> None:
    before = open_descriptors()
    groups = [reserve_many(offsets=[0, 1], multiple_of=2) for _ in range(32)]
    assert sorted(port for group in groups for port in group.ports) == list(range(LOW, HIGH + 1))
    assert given_to_strangers(TCP, ADDRESSES) == []
    with pytest.raises(PortsExhausted, match="whose first is a multiple of 2 for TCP"):
        reserve_many(offsets=[0, 1], multiple_of=2)
    for group in groups:
        group.release()
    assert open_descriptors() == before
    assert bound_ports() == set()


def test_what_the_first_port_of_nothing_can_be(in_namespace: InNamespace) -> None:
    in_namespace(_no_first)


def _no_first() -> None:
    # In the range 40000-40063 no port can be the first: the other one would lie behind 65535.
    with pytest.raises(PortsExhausted) as caught:
        reserve_many(offsets=[0, 30000])
    text = str(caught.value)
    assert "0 can be the first port" in text
    advised = int(text.partition("(port=")[2].partition(")")[0])
    with reserve_many(offsets=[0, 30000], port=advised) as group:
        assert group.ports == [advised, advised + 30000]


def test_the_places_are_spread(in_namespace: InNamespace) -> None:
    in_namespace(_spread, ports=(32768, 60999))


def _spread() -> None:
    # Most ports of the range cannot be the first: what the system picks says little.
    firsts = []
    for _ in range(40):
        with reserve_many(offsets=[0, 30000]) as group:
            firsts.append(group.ports[0])
    assert len(set(firsts)) > 10
    assert max(firsts) <= 35535


def test_exclusions_are_about_every_port(in_namespace: InNamespace) -> None:
    in_namespace(_exclusions)


def _exclusions() -> None:
    outside = [port + 10000 for port in range(LOW, HIGH + 1) if port != 40009]
    with reserve_many(offsets=[0, 10000], exclude=outside) as group:
        assert group.ports == [40009, 50009]
    with pytest.raises(PortsExhausted, match="Exclude fewer ports"):
        reserve_many(offsets=[0, 10000], exclude=[*outside, 40009])
    with pytest.raises(PortUnavailable, match="50009 is excluded"):
        reserve_many(offsets=[0, 10000], port=40009, exclude=[50009])


def test_the_owner_s_reserved_ports_are_never_returned(in_namespace: InNamespace) -> None:
    reserved = {"ipv4/ip_local_reserved_ports": "50000-50062"}
    in_namespace(_reserved, settings=reserved)


def _reserved() -> None:
    with reserve_many(offsets=[0, 10000]) as group:
        assert group.ports == [40063, 50063]
        with pytest.raises(PortsExhausted):
            reserve_many(offsets=[0, 10000])
    with reserve_many(offsets=[0, 10000], port=40000) as group:
        assert group.ports == [40000, 50000]


def test_preferred_first_ports(in_namespace: InNamespace) -> None:
    in_namespace(_preferred)


def _preferred() -> None:
    with bound(50010), bound(40021):
        with reserve_many(offsets=[0, 10000], port=[40010, 40021, 40022]) as group:
            assert group.ports == [40022, 50022]
        with reserve_many(offsets=[0, 1], port=range(40020, 40030, 2)) as group:
            assert group.ports == [40022, 40023]
        with reserve_many(2, contiguous=True, multiple_of=8, port=range(40009, 40030)) as group:
            assert group.ports == [40016, 40017]
        with reserve_many(offsets=[10000, 0], port=40022) as group:
            assert group.ports == [50022, 40022]
        with reserve_many(offsets=[0, 10000], port=[40010, 0]) as group:
            assert group.ports[0] != 40010


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({}, TypeError, "count must be an int, not None, unless offsets= is given"),
        ({"offsets": [1, 2]}, ValueError, "offsets= must contain 0"),
        ({"offsets": []}, ValueError, "offsets= must contain 0"),
        ({"offsets": [0, 5, 5]}, ValueError, "offsets= has 5 twice"),
        ({"offsets": [0, 65536]}, ValueError, "offsets= takes distances below 65536"),
        ({"offsets": [0, 65535]}, ValueError, "there are no 2 ports at the offsets 0, 65535"),
        ({"offsets": [-40000, 0, 40000]}, ValueError, "there are no 3 ports"),
        ({"offsets": [0, 1.5]}, TypeError, "offsets= takes ints, not 1.5"),
        ({"offsets": [0, True]}, TypeError, "offsets= takes ints, not True"),
        ({"offsets": "01"}, TypeError, "offsets= takes an iterable of ints"),
        ({"offsets": 10000}, TypeError, "offsets= takes an iterable of ints"),
        ({"count": 3, "offsets": [0, 1]}, ValueError, "has 2 ports, but 3 are asked for"),
        ({"count": 2, "offsets": [0, 1], "contiguous": True}, ValueError, "pass one of them"),
        ({"count": 2, "multiple_of": 2}, ValueError, "is about the first port of a group"),
        ({"offsets": [0], "multiple_of": 0}, ValueError, "multiple_of= takes an int from 1"),
        ({"offsets": [0], "multiple_of": "2"}, TypeError, "multiple_of= takes an int"),
        ({"offsets": [0, 65000], "multiple_of": 1000}, ValueError, "there are no 2 ports"),
        (
            {"offsets": [0, 1], "multiple_of": 2, "port": 40001},
            ValueError,
            "port 40001 is requested, but is no multiple of 2",
        ),
    ],
)
def test_what_makes_no_sense(asked: Any, error: type[Exception], words: str) -> None:
    before = open_descriptors()
    with pytest.raises(error) as caught:
        reserve_many(**asked)
    assert words in str(caught.value)
    assert open_descriptors() == before


def test_a_portserver_s_port_may_be_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserve() as free:
        port = free.port
    monkeypatch.setattr("portpicker.get_port_from_port_server", lambda address: port)
    with reserve_many_from(Portserver("@any"), Request(), offsets=[0, 1]) as group:
        assert group.ports[1] == group.ports[0] + 1


def test_one_that_is_in_the_way_is_named() -> None:
    with reserve_many(offsets=[0, 1]) as group:
        port = group.ports[0]
        with pytest.raises(PortUnavailable) as caught:
            reserve_many(offsets=[0, 1], port=port)
    text = str(caught.value)
    assert text.startswith(f"cannot reserve the 2 ports {port}, {port + 1} (tcp): {port} is taken")
    by = "this process" if can_see_bound_inactive() else "the kernel does not show by whom"
    assert by in text
    assert f"(likewise {port + 1})" in text
    assert (caught.value.port, caught.value.protocol) == (port, "tcp")
    assert caught.value.diagnosis is not None
    if can_see_bound_inactive():
        assert caught.value.diagnosis.found[0].ephemport

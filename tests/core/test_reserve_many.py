"""reserve_many(): all or nothing, and in a row."""

import asyncio
from typing import Any

import pytest

from ephemport import PortsExhausted, PortUnavailable, reserve, reserve_many
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import OPTIONS, bound, bound_ports, may_bind, open_descriptors


def test_a_group_is_a_sequence() -> None:
    with reserve_many(5) as group:
        assert len(group) == len(set(group.ports)) == 5
        assert [int(r) for r in group] == group.ports
        assert group[0].port == group.ports[0]
        assert [r.port for r in group[1:3]] == group.ports[1:3]
        assert group[-1] in group
        assert not group.released
        assert str(group[0].port) in repr(group)
        group[0].release()
        assert not group.released
    assert group.released
    assert all(r.released for r in group)
    group.release()


def test_a_group_ends_with_async_with() -> None:
    async def main() -> None:
        async with reserve_many(2) as group:
            assert not group.released
        assert group.released

    asyncio.run(main())


def test_the_parameters_are_those_of_reserve() -> None:
    with reserve_many(2, host="::1", protocol="both", handoff="fd") as group:
        for r in group:
            assert (r.host, r.protocol, r.handoff) == ("::1", "both", "fd")
            assert not may_bind(r.port, "127.0.0.1", *OPTIONS[3])


@pytest.mark.parametrize("contiguous", [False, True])
def test_none_and_one(contiguous: bool) -> None:
    with reserve_many(0, contiguous=contiguous) as group:
        assert group.ports == []
    with reserve_many(1, contiguous=contiguous) as group:
        assert len(group) == 1


@pytest.mark.parametrize("count", [-1, 1.5, "2", None, True])
@pytest.mark.parametrize("contiguous", [False, True])
def test_what_is_no_count(count: Any, contiguous: bool) -> None:
    before = open_descriptors()
    with pytest.raises((TypeError, ValueError), match="count"):
        reserve_many(count, contiguous=contiguous)
    assert open_descriptors() == before


def test_one_port_cannot_be_two() -> None:
    with pytest.raises(ValueError, match="one port cannot serve 2"):
        reserve_many(2, port=40000)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_all_or_nothing(in_namespace: InNamespace, protocol: str) -> None:
    in_namespace(_all_or_nothing, protocol)


def _all_or_nothing(protocol: str) -> None:
    before = open_descriptors()
    for contiguous in (False, True):
        with pytest.raises(PortsExhausted):
            reserve_many(65, protocol=protocol, contiguous=contiguous)
        assert open_descriptors() == before
    with reserve_many(64, protocol=protocol) as group:
        assert sorted(group.ports) == list(range(40000, 40064))
    assert open_descriptors() == before
    with reserve_many(64, protocol=protocol, contiguous=True) as group:
        assert group.ports == list(range(40000, 40064))
    assert open_descriptors() == before


def test_preferred_ports_are_used_up_in_order(in_namespace: InNamespace) -> None:
    in_namespace(_preferred)


def _preferred() -> None:
    with bound(40011):
        with reserve_many(3, port=[40010, 40011, 40012, 40013]) as group:
            assert group.ports == [40010, 40012, 40013]
        with reserve_many(3, port=[40010, 40011, 40013, 0]) as group:
            assert group.ports[:2] == [40010, 40013]
        before = open_descriptors()
        with pytest.raises(PortUnavailable):
            reserve_many(3, port=[40010, 40011, 40012])
        assert open_descriptors() == before


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_a_row_in_a_nearly_full_range(in_namespace: InNamespace, protocol: str) -> None:
    in_namespace(_only_row, protocol)


def _only_row(protocol: str) -> None:
    # One row of four is left, wherever it lies; every other gap is smaller.
    for start in (40000, 40030, 40060):
        row = list(range(start, start + 4))
        gaps = {port for port in range(40002, 40062, 4) if abs(port - start) > 6}
        others = [n for n in range(40000, 40064) if n not in row and n not in gaps]
        with reserve_many(len(others), port=others, protocol="both"):
            for _ in range(3):
                with reserve_many(4, contiguous=True, protocol=protocol) as group:
                    assert group.ports == row
                    before = open_descriptors()
                    with pytest.raises(PortsExhausted, match="2 ports in a row for"):
                        reserve_many(2, contiguous=True, protocol=protocol)
                    assert open_descriptors() == before
            with pytest.raises(PortsExhausted, match="40000-40063"):
                reserve_many(5, contiguous=True, protocol=protocol)
            with pytest.raises(PortsExhausted, match="in a row"):
                reserve_many(4, contiguous=True, protocol=protocol, exclude=[start + 1])


def test_rows_begin_where_it_is_wanted(in_namespace: InNamespace) -> None:
    in_namespace(_wanted_rows)


def _wanted_rows() -> None:
    with reserve_many(3, contiguous=True, port=40010) as group:
        assert group.ports == [40010, 40011, 40012]
        by = "this process" if can_see_bound_inactive() else "the kernel shows nobody; TCP sockets"
        with pytest.raises(PortUnavailable, match=by) as caught:
            reserve_many(3, contiguous=True, port=40008)
        assert "40008-40010" in str(caught.value)
        with reserve_many(3, contiguous=True, port=[40008, 40020]) as other:
            assert other.ports == [40020, 40021, 40022]
        with pytest.raises(PortUnavailable, match="End port= in 0"):
            reserve_many(3, contiguous=True, port=[40008, 40012])
        with reserve_many(3, contiguous=True, port=[40008, 0]) as other:
            start = other.ports[0]
            assert other.ports == [start, start + 1, start + 2]
        with pytest.raises(PortUnavailable, match="40021 is excluded"):
            reserve_many(3, contiguous=True, port=40020, exclude=[40021])
    with pytest.raises(PortUnavailable, match="65535"):
        reserve_many(3, contiguous=True, port=65534)
    with reserve_many(3, contiguous=True, port=65533) as group:
        assert group.ports == [65533, 65534, 65535]
    assert bound_ports() == set()


def test_a_row_never_wraps_around(in_namespace: InNamespace) -> None:
    in_namespace(_ends_only)


def _ends_only() -> None:
    with reserve_many(60, port=range(40002, 40062)):
        with pytest.raises(PortsExhausted):
            reserve_many(3, contiguous=True)
        with reserve() as one, reserve() as two:
            assert {one.port, two.port} <= {40000, 40001, 40062, 40063}

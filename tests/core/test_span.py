"""range= and outside_ephemeral=: any port of those that are allowed, and no other."""

import json
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from ephemport import NoShadow, PortsExhausted, PortUnavailable, reserve, reserve_many
from ephemport._allocator import PortAllocator
from ephemport._holding.request import Request
from ephemport._holding.span import span_of
from ephemport._kernel.port_range import unassigned_ranges
from ephemport._reservation import reserve_from, reserve_many_from
from tests.conftest import InNamespace
from tests.core.helpers import (
    OPTIONS,
    become_nobody,
    bound,
    can_be_two_users,
    child,
    finish,
    given_to_connect,
    given_to_strangers,
    in_child,
    leave_time_wait,
    may_bind,
    open_descriptors,
    peer,
)

SPAN = range(20000, 20064)
EPHEMERAL = range(40000, 40064)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_each_port_is_given_once_and_then_the_error_counts(
    in_namespace: InNamespace, protocol: str, handoff: str
) -> None:
    ports, text = in_namespace(_all_of_it, protocol, handoff)
    assert sorted(ports) == [*SPAN]
    assert ports != [*SPAN], "they are given in order"
    kinds = ("tcp", "udp") if protocol == "both" else (protocol,)
    for kind in kinds:
        assert f"64 of its 64 ports are in use ({kind})" in text
    assert "in 20000-20063 (range=)" in text
    assert "20000 is taken: this process (pid " in text
    assert "Close or release it in this process, or allow more ports (range=)" in text


def _all_of_it(protocol: str, handoff: str) -> tuple[list[int], str]:
    terms: dict[str, Any] = {"range": SPAN, "protocol": protocol, "handoff": handoff}
    with ExitStack() as stack:
        ports = [stack.enter_context(reserve(**terms)).port for _ in SPAN]
        with pytest.raises(PortsExhausted) as caught:
            reserve(**terms)
    assert (caught.value.port, caught.value.protocol) == (None, protocol)
    return ports, str(caught.value)


def test_a_port_that_is_let_go_can_be_had_at_once(in_namespace: InNamespace) -> None:
    in_namespace(_again_and_again)


def _again_and_again() -> None:
    for _ in range(200):
        reserve(range=[20000]).release()


def test_the_search_begins_anywhere(in_namespace: InNamespace) -> None:
    """Workers that begin at once do not all try the first port."""
    assert len(set(in_namespace(_firsts))) > 1


def _firsts() -> list[int]:
    found = []
    for _ in range(20):
        with reserve(range=SPAN) as r:
            found.append(r.port)
    return found


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_the_last_free_one_is_found(in_namespace: InNamespace, protocol: str) -> None:
    for free in (SPAN[0], 20031, SPAN[-1]):
        assert in_namespace(_beside_squatters, protocol, free) == free


def _beside_squatters(protocol: str, free: int) -> int:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    places = ["127.0.0.1", "0.0.0.0", "::1", "::", "127.0.0.7"]
    with ExitStack() as stack:
        for port in SPAN:
            if port != free:
                options = OPTIONS[port % 4]
                squatter = bound(port, places[port % 5], options, kind, v6only=port % 2 == 0)
                stack.enter_context(squatter)
                if kind == socket.SOCK_STREAM and port % 3:
                    squatter.listen()
        with reserve(range=SPAN, protocol=protocol) as r:
            with pytest.raises(PortsExhausted, match=f"pid {os.getpid()}"):
                reserve(range=SPAN, protocol=protocol)
            return r.port


def test_connections_in_time_wait_are_not_in_the_way(in_namespace: InNamespace) -> None:
    in_namespace(_after_servers)


def _after_servers() -> None:
    for port in range(20000, 20004):
        leave_time_wait(port)
    with reserve_many(4, range=range(20000, 20004)) as group:
        assert sorted(group.ports) == [20000, 20001, 20002, 20003]
        for r in group:
            assert not may_bind(r.port)


@pytest.mark.parametrize("terms", [{}, {"protocol": "both"}, {"handoff": "shadow"}], ids=str)
def test_processes_that_race_for_a_small_range(
    in_namespace: InNamespace, terms: dict[str, str]
) -> None:
    had = in_namespace(_race, terms)
    assert sorted(port for ports in had for port in ports) == [*SPAN]


def _race(terms: dict[str, str]) -> list[list[int]]:
    """Four processes take what they can get, and keep it until all of them have found no more."""
    start, begin = os.pipe()
    stop, end = os.pipe()
    readers: list[int] = []

    def worker(answer: int) -> Callable[[], None]:
        def work() -> None:
            os.close(begin)
            os.close(end)
            os.read(start, 1)
            with ExitStack() as stack:
                ports = []
                try:
                    while True:
                        held = stack.enter_context(reserve(range=SPAN, **terms))  # type: ignore[arg-type]
                        ports.append(held.port)
                except PortsExhausted:
                    os.write(answer, json.dumps(ports).encode())
                os.read(stop, 1)

        return work

    with ExitStack() as stack:
        workers = []
        for _ in range(4):
            reader, writer = os.pipe()
            readers.append(reader)
            workers.append(stack.enter_context(child(worker(writer))))
            os.close(writer)
        os.close(begin)
        had = [json.loads(os.read(reader, 65536)) for reader in readers]
        os.close(end)
        for pid in workers:
            finish(pid)
    return had


def test_what_strangers_take_while_we_search(in_namespace: InNamespace) -> None:
    in_namespace(_beside_a_restless_squatter)


def _beside_a_restless_squatter() -> None:
    few = range(20000, 20008)

    def squat() -> None:
        while True:
            for port in few[:-1]:
                try:
                    bound(port, "127.0.0.1", OPTIONS[port % 4]).close()
                except OSError:
                    continue

    with child(squat), child(squat):
        for _ in range(300):
            with reserve(range=few) as r:
                assert r.port in few
                assert not may_bind(r.port)


def test_nobody_is_given_a_port_outside_of_the_ephemeral_range(in_namespace: InNamespace) -> None:
    in_namespace(_outside_of_a_drained_range)


def _outside_of_a_drained_range() -> None:
    """A shadow is a weak hold. Outside of the range nothing comes to its port."""
    with (
        peer() as somewhere,
        reserve_many(50, outside_ephemeral=True, handoff="shadow") as group,
        ExitStack() as stack,
    ):
        assert not set(group.ports) & set(EPHEMERAL)
        assert all(port >= 49152 for port in group.ports)  # for private use: RFC 6335
        for _ in range(20):
            assert not set(given_to_strangers()) & set(group.ports)
            assert not set(given_to_connect(somewhere)) & set(group.ports)
        given = 0
        while True:  # also while nothing is left in the range
            try:
                sock = stack.enter_context(bound(0, "127.0.0.1"))
            except OSError:
                break
            assert sock.getsockname()[1] in EPHEMERAL
            given += 1
        assert given == len(EPHEMERAL)
        assert not given_to_connect(somewhere)
        assert not set(given_to_strangers()) & set(group.ports)
        with pytest.raises(PortsExhausted):
            reserve()
        reserve(outside_ephemeral=True).release()


def test_the_ranges_around(in_namespace: InNamespace) -> None:
    for low, high, expected in (
        (32768, 60999, [[61000, 65535], [20000, 32767], [1024, 19999]]),
        (55000, 65535, [[49152, 54999], [20000, 49151], [1024, 19999]]),
        (55000, 55001, [[55002, 65535], [49152, 54999], [20000, 49151], [1024, 19999]]),
        (15000, 49200, [[49201, 65535], [1024, 14999]]),
        (1024, 65535, []),
    ):
        assert in_namespace(_around, ports=(low, high)) == expected


def _around() -> list[list[int]]:
    return [[ports[0], ports[-1]] for ports in unassigned_ranges()]


def test_parts_are_used_up_in_order(in_namespace: InNamespace) -> None:
    in_namespace(_beyond_the_first_part, ports=(40000, 65531))


def _beyond_the_first_part() -> None:
    with reserve_many(6, outside_ephemeral=True) as group:
        assert sorted(group.ports)[-4:] == [65532, 65533, 65534, 65535]
        assert all(20000 <= port < 40000 for port in sorted(group.ports)[:2])


def test_no_port_is_outside(in_namespace: InNamespace) -> None:
    text = in_namespace(_no_port_is_outside, ports=(1024, 65535))
    assert (
        "outside of the ephemeral port range 1024-65535 (outside_ephemeral=True): there is" in text
    )
    assert "Narrow the ephemeral port range (sysctl -w net.ipv4.ip_local_port_range=" in text


def _no_port_is_outside() -> str:
    before = open_descriptors()
    for ask in (reserve, lambda **terms: reserve_many(3, contiguous=True, **terms)):
        with pytest.raises(PortsExhausted) as caught:
            ask(outside_ephemeral=True)
    assert open_descriptors() == before
    return str(caught.value)


def test_reserved_ports(in_namespace: InNamespace) -> None:
    settings = {"ipv4/ip_local_reserved_ports": "40010-40019,61000-65000"}
    in_namespace(_reserved_ports, settings=settings)


def _reserved_ports() -> None:
    """They are set aside for a program: whoever names them may have them, and nobody else."""
    with reserve_many(200, outside_ephemeral=True) as group:
        assert not {*group.ports} & {*range(61000, 65001), *EPHEMERAL}
    with reserve_many(10, range=EPHEMERAL, outside_ephemeral=True) as group:
        assert sorted(group.ports) == [*range(40010, 40020)]
    with reserve_many(offsets=[0, 1], multiple_of=2, range=range(40010, 40012)) as group:
        assert group.ports == [40010, 40011]
    with reserve(range=[62000]) as r:
        assert r.port == 62000
    with pytest.raises(PortsExhausted) as caught:
        reserve(range=range(40000, 40010), outside_ephemeral=True)
    assert "add them to net.ipv4.ip_local_reserved_ports" in str(caught.value)


def test_preferred_ports_of_a_range(in_namespace: InNamespace) -> None:
    in_namespace(_preferred)


def _preferred() -> None:
    with reserve(range=SPAN, port=20005) as r:
        assert r.port == 20005
        with reserve(range=SPAN, port=[20005, 20007]) as other:
            assert other.port == 20007
        with reserve(range=SPAN, port=[20005, 30000, 0]) as other:
            assert other.port in SPAN
        with pytest.raises(PortUnavailable, match=r"20005 .*: Address already in use"):
            reserve(range=SPAN, port=20005)
        with pytest.raises(PortUnavailable, match=r"port 30000 is not in 20000-20063 \(range=\)"):
            reserve(range=SPAN, port=[20005, 30000])
    before = open_descriptors()
    with pytest.raises(ValueError, match="port 30000 is requested, but range= does not have it"):
        reserve(range=SPAN, port=30000)
    with pytest.raises(PortUnavailable, match="port 40000 is not outside of the ephemeral port"):
        reserve(outside_ephemeral=True, port=40000)
    assert open_descriptors() == before
    reserve(outside_ephemeral=True, port=[40000, 0]).release()


def test_excluded_ports_of_a_range(in_namespace: InNamespace) -> None:
    text = in_namespace(_excluded)
    assert "63 of its 64 ports are in use (tcp), 1 is excluded (exclude=)" in text
    assert "exclude fewer ports" in text


def _excluded() -> str:
    with reserve_many(63, range=SPAN, exclude=[20003]) as group:
        assert 20003 not in group.ports
        with pytest.raises(PortsExhausted) as caught:
            reserve(range=SPAN, exclude=[20003])
    return str(caught.value)


def test_groups_of_a_range(in_namespace: InNamespace) -> None:
    in_namespace(_groups)


def _groups() -> None:
    """All ports of a group are in the range, not only the first."""
    for _ in range(50):
        with reserve_many(3, contiguous=True, range=SPAN) as group:
            first = group.ports[0]
            assert group.ports == [first, first + 1, first + 2]
            assert {*group.ports} <= {*SPAN}
        with reserve_many(offsets=[0, 1], multiple_of=2, range=range(20001, 20005)) as group:
            assert group.ports == [20002, 20003]
        with reserve_many(offsets=[0, 10000], range=[*range(20000, 20004), 30003]) as group:
            assert group.ports == [20003, 30003]
        with reserve_many(2, contiguous=True, range=[20000, 20002, 20003, 20005]) as group:
            assert group.ports == [20002, 20003]
        with reserve_many(3, contiguous=True, outside_ephemeral=True) as group:
            assert not {*group.ports} & {*EPHEMERAL}
        with reserve_many(offsets=[0, 1], range=range(39998, 40064), outside_ephemeral=True) as two:
            assert two.ports == [39998, 39999]
    with reserve_many(64, range=SPAN) as group:
        assert sorted(group.ports) == [*SPAN]
    for terms, text in (
        (
            {"count": 3, "contiguous": True, "range": range(20000, 20064, 2)},
            "longest row left has 1",
        ),
        ({"count": 65, "range": SPAN}, "which has only 64 ports. Ask for fewer"),
        ({"offsets": [0, 100], "range": SPAN}, "0 can be the first port, and 0 of them with all"),
    ):
        with pytest.raises(PortsExhausted) as caught:
            reserve_many(**terms)
        assert text in str(caught.value)
    with pytest.raises(PortUnavailable, match=r"port 20064 is not in 20000-20063 \(range=\)"):
        reserve_many(3, contiguous=True, range=SPAN, port=20062)


def test_a_group_that_does_not_fit_is_not_counted_as_taken(in_namespace: InNamespace) -> None:
    text = in_namespace(_too_many)
    assert "looked for 8 ports" in text
    assert "3 of its 10 ports are in use (tcp), 7 are left" in text


def _too_many() -> str:
    before = open_descriptors()
    with reserve_many(3, range=range(20000, 20010)):
        held = open_descriptors()
        with pytest.raises(PortsExhausted) as caught:
            reserve_many(8, range=range(20000, 20010))
        assert open_descriptors() == held
    assert open_descriptors() == before
    return str(caught.value)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("20000-20099", TypeError, "iterable of ints, such as range"),
    "one port": (20000, TypeError, "iterable of ints, such as range"),
    "no port": ([], ValueError, "empty"),
    "backwards": (range(20099, 20000), ValueError, "empty"),
    "0": (range(10), ValueError, "has 0"),
    "65536": (range(65530, 65537), ValueError, "has 65536"),
    "a huge range": (range(1, 10**18), ValueError, "is no port"),
    "a negative step": (range(20, -1, -1), ValueError, "has 0"),
    "without end": (iter(lambda: 20000, None), ValueError, "more than 65,536 items"),
    "texts": (["20000"], TypeError, "iterable of ints"),
    "a float": ([20000.0], TypeError, "iterable of ints"),
    "a bool": ([True], TypeError, "iterable of ints"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_range(name: str) -> None:
    ports, error, text = BAD[name]
    before = open_descriptors()
    with pytest.raises(error, match=f"range= .*{text}"):
        reserve(range=ports)
    with pytest.raises((TypeError, ValueError)):
        reserve_many(2, range=ports)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "ports",
    [
        range(20000, 20064, 2),
        range(20062, 19999, -2),
        {20000, 20010},
        [20010, 20000, 20010],
    ],
    ids=str,
)
def test_what_else_is_a_range(in_namespace: InNamespace, ports: Any) -> None:
    some = [*ports]
    assert in_namespace(_all_of, some) == sorted({*some})
    for given in (ports, iter(some)):
        span = span_of(given, outside_ephemeral=False)
        assert span is not None
        assert list(span.ports) == sorted({*some})


def _all_of(some: list[int]) -> list[int]:
    with reserve_many(len({*some}), range=some) as group:
        return sorted(group.ports)


def test_ports_of_root(in_namespace: InNamespace) -> None:
    if not can_be_two_users():
        pytest.skip("only root can become another user")
    text = in_namespace(_as_nobody)
    assert "are excluded (net.ipv4.ip_unprivileged_port_start: only root may bind)" in text


def _as_nobody() -> str:
    read, write = os.pipe()

    def work() -> None:
        become_nobody()
        with reserve(range=range(1000, 1025)) as r:
            assert r.port == 1024
            with pytest.raises(PortsExhausted) as caught:
                reserve(range=range(1000, 1025))
        with reserve(outside_ephemeral=True) as r:
            assert r.port >= 1024
        os.write(write, str(caught.value).encode())

    in_child(work)
    return os.read(read, 65536).decode()


def test_a_shadow_that_cannot_be_leaves_nothing(in_namespace: InNamespace) -> None:
    in_namespace(_no_shadow)


def _no_shadow() -> None:
    before = open_descriptors()
    with pytest.raises(NoShadow):
        reserve(range=SPAN, host="::", handoff="shadow")
    assert open_descriptors() == before


def test_mode_fixed_gives_those_of_its_ports_that_are_in_the_range(tmp_path: Any) -> None:
    with PortAllocator("fixed", "gw3", tmp_path) as allocator:
        source = allocator.source("testing")

        def asked(ports: Any, **more: Any) -> Request:
            return Request(range=ports, **more)

        with reserve_many_from(source, asked(range(13390, 20000)), 10) as group:
            assert group.ports == [*range(13390, 13400)]
            assert {one.name for one in tmp_path.iterdir()} >= {"13390.lock", "13399.lock"}
            with pytest.raises(PortsExhausted) as caught:
                reserve_from(source, asked(range(13390, 20000)))
            assert "13300-13399 of worker 'gw3' and in 13390-19999 (range=)" in str(caught.value)
            assert "of its 10 ports 10 are locked by ephemport" in str(caught.value)
        with pytest.raises(PortsExhausted, match=r"no port is in both\. Use mode 'ephemeral'"):
            reserve_from(source, asked(SPAN))
        with pytest.raises(PortUnavailable, match=r"port 13300 is not in 13390-19999 \(range=\)"):
            reserve_from(source, asked(range(13390, 20000), port=[13300]))
        with reserve_many_from(source, asked(range(13397, 20000)), 3, contiguous=True) as group:
            assert group.ports == [13397, 13398, 13399]
        with pytest.raises(PortsExhausted, match="has only 3 ports"):
            reserve_many_from(source, asked(range(13397, 20000)), 4, contiguous=True)
        with pytest.raises(PortsExhausted, match="not enough ports"):
            reserve_many_from(source, asked([13310, 13312, 13350]), 2, contiguous=True)
        outside = Request(outside_ephemeral=True)
        with reserve_from(source, outside) as r:
            assert 13300 <= r.port < 13400


def test_mode_portserver_is_not_asked() -> None:
    with PortAllocator("portserver:@nobody-serves-this") as allocator:
        held = allocator.allocate("testing", Request(range=SPAN))
        assert held.port in SPAN

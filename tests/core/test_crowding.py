"""A range that is nearly full, and ports that its owner has reserved."""

import pytest

from ephemport import PortsExhausted, reserve, reserve_many
from tests.conftest import InNamespace

RANGE = set(range(40000, 40064))
RESERVED = {40003, 40004, 40010, *range(40030, 40040)}
SYSCTL = {"ipv4/ip_local_reserved_ports": "40003-40004,40010,40030-40039"}


def _to_the_last(protocol: str, preferred: list[int]) -> None:
    with reserve_many(len(preferred), port=preferred, protocol="both"):
        for _ in range(2):
            held = [reserve(protocol=protocol) for _ in range(64 - len(preferred))]
            assert {r.port for r in held} == RANGE - set(preferred)
            with pytest.raises(PortsExhausted):
                reserve(protocol=protocol)
            last = held.pop()
            last.release()
            with reserve(protocol=protocol) as r:
                assert r.port == last.port
            for r in held:
                r.release()


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
@pytest.mark.parametrize("half", [0, 1])
def test_picks_work_to_the_very_last_port(
    in_namespace: InNamespace, protocol: str, half: int
) -> None:
    in_namespace(_to_the_last, protocol, list(range(40000 + half, 40064, 2)))


def test_an_odd_beginning(in_namespace: InNamespace) -> None:
    def given(ports: tuple[int, int]) -> list[int]:
        said: str = in_namespace(
            "from ephemport import reserve\n"
            "held = [reserve() for _ in range(9)]\n"
            "print(*sorted(r.port for r in held))\n"
            "for r in held: r.release()\n",
            ports=ports,
        )
        return [int(one) for one in said.split()]

    assert given((40001, 40009)) == list(range(40001, 40010))
    assert given((40002, 40010)) == list(range(40002, 40011))


def _two_full_halves_apart() -> None:
    # For "both" the kernel's own search only looks at TCP; UDP here has other ports free.
    odd = list(range(40001, 40064, 2))
    with reserve_many(32, port=odd, protocol="udp"), reserve_many(32, protocol="both") as group:
        assert set(group.ports) == RANGE - set(odd)
        with pytest.raises(PortsExhausted):
            reserve(protocol="both")
        with reserve() as r:
            assert r.port in odd


def test_both_finds_ports_that_are_free_on_both(in_namespace: InNamespace) -> None:
    in_namespace(_two_full_halves_apart)


def _never_reserved(protocol: str) -> None:
    free = RANGE - RESERVED
    # The kernel's own choice, a choice past exclusions, and one in a crowd.
    with reserve_many(len(free), protocol=protocol) as group:
        assert set(group.ports) == free
        with pytest.raises(PortsExhausted):
            reserve(protocol=protocol)
    few = {40000, 40011, 40041}
    with reserve_many(3, protocol=protocol, exclude=free - few) as group:
        assert set(group.ports) == few
        with pytest.raises(PortsExhausted):
            reserve(protocol=protocol, exclude=free - few)
    with reserve_many(24, protocol=protocol, contiguous=True) as group:
        assert group.ports == list(range(40040, 40064))
        with pytest.raises(PortsExhausted):
            reserve_many(20, protocol=protocol, contiguous=True)
    # A request for this port succeeds: its owner reserved it for that.
    with reserve(port=40003, protocol=protocol) as r:
        assert r.port == 40003


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_reserved_ports_are_never_returned(in_namespace: InNamespace, protocol: str) -> None:
    in_namespace(_never_reserved, protocol, settings=SYSCTL)

"""IPv6 switched off, or not there at all: everything works on one family."""

import errno
import socket
from typing import Any

import pytest

import ephemport._holding.acquire
import ephemport._holding.hold
from ephemport import holders, reserve, reserve_many
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import (
    OPTIONS,
    TCP,
    UDP,
    V4_ADDRESSES,
    bound,
    given_to_connect,
    given_to_strangers,
    leave_time_wait,
    may_bind,
    peer,
)


def no_ipv6(family: int, kind: int) -> socket.SocketType:
    if family == socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
    return socket.SocketType(family, kind)


WAYS = ["switched off", "not in the kernel"]
OFF = {"ipv6/conf/all/disable_ipv6": "1"}


def prepare(way: str) -> None:
    if way == "not in the kernel":
        for module in (ephemport._holding.hold, ephemport._holding.acquire):
            setattr(module, "new_socket", no_ipv6)  # noqa: B010


def _nobody(way: str, protocol: str, handoff: str) -> list[int]:
    prepare(way)
    kinds = {"tcp": [TCP], "udp": [UDP], "both": [TCP, UDP]}[protocol]
    with reserve_many(64, protocol=protocol, handoff=handoff) as group, peer() as somewhere:
        assert sorted(group.ports) == list(range(40000, 40064))
        given: list[int] = []
        for kind in kinds:
            given += given_to_strangers(kind, V4_ADDRESSES)
            given += given_to_connect(somewhere, kind)
        return given


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("handoff", ["takeover", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_nobody_is_given_a_held_port(
    in_namespace: InNamespace, way: str, handoff: str, protocol: str
) -> None:
    assert in_namespace(_nobody, way, protocol, handoff, settings=OFF) == []


def _everything_works(way: str) -> None:
    prepare(way)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.0.0.9"):
        with reserve(host=host) as r:
            with r.listen() as server:
                socket.create_connection(server.getsockname()).close()
            with bound(r.port, "127.0.0.1", (socket.SO_REUSEADDR,)) as taken_over:
                taken_over.listen()
            assert len(holders(r)) == can_see_bound_inactive()
        with reserve(host=host, handoff="fd") as r:
            for options in OPTIONS:
                assert not may_bind(r.port, "127.0.0.1", *options)
    for protocol in ("tcp", "udp", "both"):
        with reserve(handoff="shadow", protocol=protocol) as r:
            for kind in {"tcp": [TCP], "udp": [UDP], "both": [TCP, UDP]}[protocol]:
                assert may_bind(r.port, "127.0.0.1", kind=kind)
                assert not may_bind(r.port, "0.0.0.0", kind=kind)
    with reserve(protocol="udp") as r, r.listen() as receiver:
        receiver.settimeout(10)
        with socket.socket(socket.AF_INET, UDP) as client:
            client.sendto(b"x", r.address)
        assert receiver.recv(1) == b"x"
    with reserve_many(5, contiguous=True, exclude=[40003], protocol="both") as group:
        assert group.ports == list(range(group.ports[0], group.ports[0] + 5))
    leave_time_wait(40007)
    with reserve(port=40007) as r:
        assert not may_bind(40007)
    with pytest.raises(ValueError, match="without IPv6"):
        reserve(host="0.0.0.0", handoff="shadow")
    with pytest.raises(ValueError, match="IPv6 is switched off here"):
        reserve(host="::1")


@pytest.mark.parametrize("way", WAYS)
def test_everything_else_works(in_namespace: InNamespace, way: str) -> None:
    in_namespace(_everything_works, way, settings=OFF)


def _bindv6only() -> Any:
    with reserve() as r:
        return [may_bind(r.port, address) for address in ("127.0.0.1", "0.0.0.0", "::1", "::")]


def test_bindv6only_changes_nothing(in_namespace: InNamespace) -> None:
    assert in_namespace(_bindv6only, settings={"ipv6/bindv6only": "1"}) == [False] * 4

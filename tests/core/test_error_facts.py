"""The attributes of errors, and that the text about a lack of ports is true."""

import copy
import pickle
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import ephemport
from ephemport import (
    EphemportError,
    PortsExhausted,
    PortUnavailable,
    ReservationReleased,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
    diagnose,
    reserve,
    reserve_many,
)
from ephemport._allocator import PortAllocator
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._holding.request import Request
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import bound

ERRORS = [
    EphemportError,
    PortsExhausted,
    PortUnavailable,
    ReservationReleased,
    TakeoverTimeout,
    WrongListener,
    ServerExited,
]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "through",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_the_facts_stay_with_a_copy(
    error: type[EphemportError], through: Callable[[Any], Any], taken: int
) -> None:
    known = {"returncode": -9, "output": "bye"} if error is ServerExited else {}
    one = error("what it says", port=taken, protocol="tcp", diagnosis=diagnose(taken), **known)
    two: EphemportError = through(one)
    assert type(two) is error
    assert str(two) == "what it says"
    assert vars(two) == vars(one)
    assert two.diagnosis is not None
    assert two.diagnosis.found[0].port == taken


@pytest.mark.parametrize("error", ERRORS)
def test_without_facts_they_are_none(error: type[EphemportError]) -> None:
    one = error("what it says")
    assert (one.port, one.protocol, one.diagnosis) == (None, None, None)
    assert (error.port, error.protocol, error.diagnosis) == (None, None, None)


def _reserve_taken(port: int) -> None:
    reserve(port=port)


def test_the_facts_come_back_from_a_worker_process(taken: int) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_reserve_taken, taken).exception()
    assert isinstance(error, PortUnavailable)
    assert (error.port, error.protocol) == (taken, "tcp")
    assert error.diagnosis is not None
    assert f"listens on 127.0.0.1:{taken}" in str(error.diagnosis)


@pytest.mark.parametrize(
    "ask",
    [
        lambda taken: reserve(port=taken),
        lambda taken: reserve(port=taken, protocol="both"),
        lambda taken: reserve(port=[taken, taken]),
        lambda taken: reserve_many(2, port=[taken, taken]),
        lambda taken: reserve_many(2, port=taken, contiguous=True),
    ],
    ids=["one", "both", "list", "many", "row"],
)
def test_a_port_that_is_taken(ask: Callable[[int], object], taken: int) -> None:
    with pytest.raises(PortUnavailable) as caught:
        ask(taken)
    error = caught.value
    assert error.port == taken
    assert error.protocol in ("tcp", "both")
    assert error.diagnosis is not None
    assert [one.state for one in error.diagnosis.found] == ["listens"]
    assert str(error.diagnosis) in str(error)


def test_what_is_in_the_way_of_this_process_s_own_is_not_another_process(taken: int) -> None:
    with pytest.raises(PortUnavailable) as caught:
        reserve(port=taken)
    assert "End that process" not in str(caught.value)
    assert "in this process" in str(caught.value)


def test_listening_where_a_server_has_taken_over() -> None:
    with reserve() as r, r.listen(), pytest.raises(PortUnavailable) as caught:
        r.listen()
    assert (caught.value.port, caught.value.protocol) == (r.port, "tcp")
    assert caught.value.diagnosis is not None
    assert "listens" in [one.state for one in caught.value.diagnosis.found]
    # The port is reserved already, so a request for it does not help.
    assert "port=[" not in str(caught.value)


def test_a_released_reservation() -> None:
    r = reserve(protocol="udp")
    r.release()
    with pytest.raises(ReservationReleased) as caught:
        r.listen()
    assert (caught.value.port, caught.value.protocol) == (r.port, "udp")


def test_the_fixed_source(tmp_path: Any) -> None:
    with (
        PortAllocator(mode="fixed", worker_id="gw3", lock_dir=tmp_path) as one,
        PortAllocator(mode="fixed", worker_id="gw3", lock_dir=tmp_path) as other,
    ):
        port = one.allocate_port("servers")
        with pytest.raises(PortUnavailable) as caught:
            other.allocate("servers", Request(port=port))
        assert (caught.value.port, caught.value.protocol) == (port, "tcp")
        assert caught.value.diagnosis is not None
        if can_see_bound_inactive():
            assert caught.value.diagnosis.found[0].ephemport is True
        else:
            assert HOLDERS_UNSEEN in caught.value.diagnosis.unseen[0]
        with pytest.raises(PortUnavailable, match="outside the range") as caught:
            other.allocate("servers", Request(port=9001))
        assert (caught.value.port, caught.value.protocol) == (9001, "tcp")
        with pytest.raises(PortsExhausted, match=r"looked for 101 ports.*100 ports") as none:
            one.allocate_port_range(101, "servers")
        assert (none.value.port, none.value.protocol) == (None, "tcp")
        assert "ephemeral port range" not in str(none.value)


def test_more_ports_than_any_range_holds(in_namespace: InNamespace) -> None:
    for contiguous in (False, True):
        text = in_namespace(_exhausted, {"count": 65000, "contiguous": contiguous})
        assert "1024-65535" in text
        assert "64,512 ports" in text
        assert "sysctl" not in text
        assert "ulimit" not in text


def test_a_row_that_no_range_holds_now(in_namespace: InNamespace) -> None:
    text = in_namespace(_exhausted, {"count": 60000, "contiguous": True}, 30000)
    if can_see_bound_inactive():
        assert "35,535 ports are left in a row" in text
        assert "sysctl" not in text
    else:
        assert "the longest row left has at most 64, " + HOLDERS_UNSEEN in text
    text = in_namespace(_exhausted, {"count": 60000, "contiguous": True})
    assert 'net.ipv4.ip_local_port_range="1024 65535"' in text
    text = in_namespace(_exhausted, {"count": 70, "contiguous": True})
    assert 'net.ipv4.ip_local_port_range="10240 65535"' in text


def test_every_port_excluded(in_namespace: InNamespace) -> None:
    text = in_namespace(_exhausted, {"count": 1}, None, True)
    assert "64 are excluded (exclude=)" in text
    assert "Exclude fewer ports" in text
    assert "sysctl" not in text
    assert "elease" not in text


def _exhausted(
    terms: dict[str, Any], stranger: int | None = None, exclude_all: bool = False
) -> str:
    from contextlib import ExitStack

    if exclude_all:
        terms["exclude"] = range(1, 65536)
    with ExitStack() as stack:
        if stranger is not None:
            stack.enter_context(bound(stranger))
        caught = stack.enter_context(pytest.raises(ephemport.PortsExhausted))
        reserve_many(**terms)
    assert (caught.value.port, caught.value.protocol) == (None, "tcp")
    return str(caught.value)


def test_a_port_of_this_process_is_not_ended_by_ending_it() -> None:
    with reserve() as r:
        seen = can_see_bound_inactive()
        ways = "Close or release it in this process, or" if seen else "Release it, or end the"
        with pytest.raises(PortUnavailable, match=ways) as one:
            reserve_many(2, contiguous=True, port=r.port)
        assert "End that process" not in str(one.value)
        with r.listen(), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:
            with pytest.raises(WrongListener, match="Close it in this process, or reserve"):
                r.wait_listening(10, cat)
            cat.communicate()


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("tcp", "a port for TCP in"),
        ("udp", "a port for UDP in"),
        ("both", "a port for TCP and UDP"),
    ],
)
def test_a_lack_of_ports_names_the_protocols(protocol: str, words: str) -> None:
    with pytest.raises(PortsExhausted, match=f"looked for {words}"):
        reserve(protocol=protocol, exclude=range(65536))

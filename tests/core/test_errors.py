"""The errors for a lack of ports, and that nothing is left open after any failure."""

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import ephemport
from ephemport import PortsExhausted, PortUnavailable, reserve, reserve_many
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import bound, bound_ports, open_descriptors


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_a_range_that_is_all_held(in_namespace: InNamespace, protocol: str) -> None:
    text = in_namespace(_all_held, protocol)
    assert "40000-40063" in text
    if protocol != "udp" and not can_see_bound_inactive():
        assert "at least 0 of its 64 ports are in use (tcp)" in text
        assert HOLDERS_UNSEEN in text
    else:
        assert "64 of its 64 ports are in use" in text
    assert "net.ipv4.ip_local_port_range" in text
    assert "Release reservations" in text
    for one in ("tcp", "udp"):
        assert (f"({one})" in text) is (protocol in (one, "both"))


def _all_held(protocol: str) -> str:
    with reserve_many(64, protocol=protocol), pytest.raises(PortsExhausted) as caught:
        reserve(protocol=protocol)
    return str(caught.value)


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(one.split()[0]) for one in open_descriptors()) + 1 + left
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


FEW: list[Callable[[], Any]] = [
    lambda: reserve_many(20),
    lambda: reserve_many(20, protocol="both"),
    lambda: reserve_many(20, protocol="udp"),
    lambda: reserve_many(20, contiguous=True),
    lambda: reserve_many(20, contiguous=True, protocol="both"),
    lambda: reserve_many(20, handoff="shadow"),
    lambda: reserve_many(20, exclude=range(40000, 40010)),
    lambda: reserve_many(20, port=range(40000, 40020)),
    lambda: [reserve() for _ in range(20)],
    lambda: [reserve(protocol="both") for _ in range(20)],
    lambda: [reserve(port=port) for port in range(40000, 40020)],
    lambda: [reserve(handoff="shadow") for _ in range(20)],
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("number", range(len(FEW)))
@pytest.mark.parametrize("left", [0, 1, 6, 7])
def test_no_descriptor_left(in_namespace: InNamespace, number: int, left: int) -> None:
    if number >= 4 and left not in (0, 7):
        return
    text = in_namespace(_no_descriptor_left, number, left)
    assert "RLIMIT_NOFILE" in text
    assert "no file descriptor left" in text
    assert "ulimit -n" in text


def _no_descriptor_left(number: int, left: int) -> str:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    before = open_descriptors()
    with few_descriptors(left), pytest.raises(PortsExhausted) as caught:
        FEW[number]()
    text = str(caught.value)
    assert f"may have {max(int(one.split()[0]) for one in before) + 1 + left:,} open" in text
    caught.value.__traceback__ = None
    del caught
    import gc

    gc.collect()
    assert open_descriptors() == before
    return text


FAILING: list[tuple[type[Exception], Callable[[int], Any]]] = [
    (PortUnavailable, lambda taken: reserve(port=taken)),
    (PortUnavailable, lambda taken: reserve(port=taken, protocol="both")),
    (PortUnavailable, lambda taken: reserve(port=taken, handoff="fd")),
    (PortUnavailable, lambda taken: reserve(port=taken, handoff="shadow")),
    (PortUnavailable, lambda taken: reserve(port=[taken, taken])),
    (PortUnavailable, lambda taken: reserve_many(2, port=[taken - 1, taken])),
    (PortUnavailable, lambda taken: reserve_many(2, port=[taken - 1, taken], protocol="both")),
    (PortUnavailable, lambda taken: reserve_many(2, port=taken - 1, contiguous=True)),
    (PortUnavailable, lambda taken: reserve_many(2, port=[taken - 1, taken], contiguous=True)),
    (PortsExhausted, lambda taken: reserve_many(64)),
    (PortsExhausted, lambda taken: reserve_many(64, protocol="both")),
    (PortsExhausted, lambda taken: reserve_many(64, handoff="shadow")),
    (PortsExhausted, lambda taken: reserve_many(64, contiguous=True)),
    (PortsExhausted, lambda taken: reserve_many(33, contiguous=True)),
    (PortsExhausted, lambda taken: reserve_many(64, port=range(40000, 40064), exclude=[0])),
    (PortsExhausted, lambda taken: reserve(exclude=range(1, 65536))),
    (ValueError, lambda taken: reserve_many(2, host="192.0.2.1")),
    (ValueError, lambda taken: reserve_many(2, host="::", handoff="shadow")),
    (TypeError, lambda taken: reserve_many("2")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(FAILING)))
def test_a_failure_leaves_nothing_open(in_namespace: InNamespace, number: int) -> None:
    in_namespace(_fail, number)


def _fail(number: int) -> None:
    error, fails = FAILING[number]
    with bound(40032) as stranger:
        before = open_descriptors()
        for _ in range(3):
            with pytest.raises((error, PortUnavailable)):
                fails(40032)
            assert open_descriptors() == before
            assert bound_ports() == {stranger.getsockname()[1]}


@pytest.mark.parametrize("failing", ["bind", "setsockopt"])
@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_whatever_system_call_fails_nothing_is_left_open(
    monkeypatch: pytest.MonkeyPatch, failing: str, handoff: str, protocol: str
) -> None:
    import socket

    calls: list[str] = []

    class Broken(socket.SocketType):
        """The real socket type, whose n-th call fails."""

        fail_at = -1

        def bind(self, address: Any) -> None:
            self._maybe_fail("bind")
            super().bind(address)

        def setsockopt(self, *arguments: Any) -> None:
            self._maybe_fail("setsockopt")
            super().setsockopt(*arguments)

        def _maybe_fail(self, name: str) -> None:
            if name == failing:
                calls.append(name)
                if len(calls) == Broken.fail_at:
                    raise OSError(errno.ENOBUFS, "No buffer space available")

    for home in ("hold", "acquire"):
        monkeypatch.setattr(f"ephemport._holding.{home}.new_socket", Broken)
    before = open_descriptors()
    reserve(handoff=handoff, protocol=protocol).release()
    succeeding = len(calls)
    assert succeeding or failing == "setsockopt"
    for Broken.fail_at in range(1, succeeding + 1):
        calls.clear()
        for many in (reserve, lambda **given: reserve_many(1, contiguous=False, **given)):
            calls.clear()
            with ExitStack() as stack:
                stack.enter_context(pytest.raises(OSError))
                many(handoff=handoff, protocol=protocol)
            assert open_descriptors() == before, f"call {Broken.fail_at} of {failing}()"


def test_every_error_is_an_ephemport_error() -> None:
    names = [
        "PortsExhausted",
        "PortUnavailable",
        "TakeoverTimeout",
        "WrongListener",
        "ServerExited",
        "ReservationReleased",
    ]
    for name in names:
        assert issubclass(getattr(ephemport, name), ephemport.EphemportError)
    assert issubclass(ephemport.EphemportError, RuntimeError)
    assert issubclass(ephemport.TakeoverTimeout, TimeoutError)

"""How a reservation ends: release(), with, forgetting it, kill -9."""

import asyncio
import gc
import os
import signal
import threading

import pytest

from ephemport import ReservationGroup, reserve, reserve_many
from tests.conftest import InNamespace
from tests.core.helpers import bound_ports, child, may_bind, open_descriptors


def test_release_may_be_called_often() -> None:
    before = open_descriptors()
    r = reserve()
    assert open_descriptors() != before
    for _ in range(3):
        r.release()
        assert r.released
    assert open_descriptors() == before


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_the_port_is_free_at_once(in_namespace: InNamespace, protocol: str, handoff: str) -> None:
    in_namespace(_only_port, protocol, handoff, ports=(40000, 40000))


def _only_port(protocol: str, handoff: str) -> None:
    for _ in range(20):
        with reserve(protocol=protocol, handoff=handoff) as r:
            assert r.port == 40000
        assert r.released
        assert may_bind(40000, "::")


def test_with_ends_it_whatever_happens() -> None:
    with pytest.raises(KeyError), reserve() as r:
        raise KeyError
    assert r.released


def test_async_with() -> None:
    async def main() -> None:
        async with reserve() as r:
            assert not r.released
        assert r.released

    asyncio.run(main())


def test_many_threads_release_the_same() -> None:
    before = open_descriptors()
    failures: list[BaseException] = []

    def let_go(go: threading.Barrier, group: ReservationGroup) -> None:
        go.wait()
        try:
            for r in group:
                r.release()
                assert r.released
        except BaseException as error:
            failures.append(error)

    for _ in range(50):
        arguments = (threading.Barrier(8), reserve_many(4, protocol="both"))
        threads = [threading.Thread(target=let_go, args=arguments) for _ in range(8)]
        for thread in threads:
            thread.start()
        # A second close must not close a file that was opened meanwhile with the same number.
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(16)]
        for thread in threads:
            thread.join()
        for descriptor in opened:
            os.close(descriptor)
    assert failures == []
    assert open_descriptors() == before


def test_many_threads_reserve_and_release() -> None:
    before = bound_ports()
    failures: list[BaseException] = []
    held: list[int] = []

    def work() -> None:
        try:
            for _ in range(50):
                with reserve() as r:
                    assert held.count(r.port) == 0
                    held.append(r.port)
                    held.remove(r.port)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert bound_ports() == before


def forget(count: int) -> None:
    if count == 1:
        reserve()
    else:
        reserve_many(count)
    gc.collect()


def test_a_forgotten_reservation_warns_and_frees_its_port() -> None:
    before = open_descriptors()
    with pytest.warns(ResourceWarning, match=r"unreleased reservation of port \d+ \(tcp\)"):
        forget(1)
    assert open_descriptors() == before


def test_a_forgotten_group_warns_for_each() -> None:
    before = open_descriptors()
    with pytest.warns(ResourceWarning) as warned:
        forget(3)
    assert len(warned) == 3
    assert open_descriptors() == before


def test_a_released_reservation_is_forgotten_quietly() -> None:
    r = reserve()
    r.release()
    del r
    gc.collect()  # a warning would be an error here


@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_kill_9_frees_the_port_at_once(in_namespace: InNamespace, protocol: str) -> None:
    in_namespace(_killed_holder, protocol, ports=(40000, 40000))


def _killed_holder(protocol: str) -> None:
    for _ in range(10):
        readable, writable = os.pipe()

        def holder(protocol: str = protocol, writable: int = writable) -> None:
            r = reserve(protocol=protocol)
            os.write(writable, str(r.port).encode())
            signal.pause()

        with child(holder) as pid:
            assert os.read(readable, 100) == b"40000"
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert may_bind(40000, "::")
        os.close(readable)
        os.close(writable)

"""Children: a forked one holds nothing of its parent's, an exec()ed one inherits nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from ephemport import Reservation, ReservationReleased, reserve, reserve_many
from ephemport._kernel.sockets import State, read_sockets
from tests.conftest import InNamespace
from tests.core.helpers import child, in_child, may_bind, open_descriptors

INODES = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass
"""


def inodes_of(r: Reservation) -> set[str]:
    return {f"socket:[{os.fstat(sock.fileno()).st_ino}]" for sock in r._hold.sockets}


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_exec_inherits_no_hold(handoff: str) -> None:
    with reserve(protocol="both", handoff=handoff) as r:
        mine = inodes_of(r)
        assert len(mine) == 2
        assert mine <= {one.partition(" ")[2] for one in open_descriptors()}
        said = subprocess.run(
            [sys.executable, "-c", INODES], close_fds=False, stdout=subprocess.PIPE, text=True
        ).stdout
        assert "/" in said
        assert mine.isdisjoint(said.split())


def test_a_listening_socket_is_not_inherited_either() -> None:
    with reserve() as r, r.listen():
        mine = inodes_of(r)
        command = [sys.executable, "-c", INODES]
        done = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, text=True)
        assert mine.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_in_a_forked_child_the_reservation_is_released(handoff: str) -> None:
    parent = os.getpid()
    with reserve(handoff=handoff, protocol="both") as r, reserve_many(2) as group:
        mine = inodes_of(r)

        def work() -> None:
            assert r.released
            assert group.released
            assert f"released here, kept by pid {parent}" in repr(r)
            with pytest.raises(
                ReservationReleased, match=f"pid {parent}, which this process was forked from"
            ):
                r.listen()
            assert mine.isdisjoint(one.partition(" ")[2] for one in open_descriptors())
            r.release()
            with pytest.raises(ReservationReleased), r:
                pass
            with reserve() as own:
                assert not own.released

        in_child(work)
        assert not r.released
        assert inodes_of(r) == mine
        assert not may_bind(r.port, "::")


def test_a_grandchild_names_the_process_that_has_the_port() -> None:
    parent = os.getpid()
    with reserve() as r:

        def grandchild() -> None:
            assert f"kept by pid {parent}" in repr(r)

        in_child(lambda: in_child(grandchild))


def test_a_reservation_released_before_the_fork_stays_just_that() -> None:
    with reserve() as r:
        r.release()

        def work() -> None:
            assert repr(r).endswith(" released>")
            with pytest.raises(ReservationReleased, match="was released"):
                r.listen()

        in_child(work)


@pytest.mark.parametrize("way", ["release", "kill"])
@pytest.mark.parametrize("fork", ["os", "multiprocessing"])
def test_a_child_keeps_no_port_alive(in_namespace: InNamespace, way: str, fork: str) -> None:
    in_namespace(_child_outlives, way, fork, ports=(40000, 40000))


def _child_outlives(way: str, fork: str) -> None:
    ready, is_ready = os.pipe()
    end, please_end = os.pipe()

    def descendant() -> None:
        os.close(please_end)
        os.write(is_ready, b"%d" % os.getpid())
        os.read(end, 1)

    def parent() -> None:
        r = reserve(protocol="both")
        if fork == "os":
            if os.fork() == 0:
                descendant()
                os._exit(0)
        else:
            process = multiprocessing.get_context("fork").Process(target=descendant)
            process.start()
        if way == "release":
            os.read(ready, 0)
            r.release()
            os.write(is_ready, b"released")
        signal.pause()

    with child(parent) as pid:
        said = b""
        while not (said.strip(b"released") and (way == "kill" or b"released" in said)):
            said += os.read(ready, 100)
        if way == "kill":
            assert not may_bind(40000, "::")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.kill(int(said.strip(b"released") or 0), 0)  # it lives
        assert may_bind(40000, "::")
    os.close(please_end)


def test_forks_while_other_threads_reserve_leak_nothing(in_namespace: InNamespace) -> None:
    in_namespace(_fork_among_threads)


def _fork_among_threads() -> None:
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)  # that forking among threads is unwise
    standard = set(range(3))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        arguments: list[dict[str, Any]] = [
            {},
            {"protocol": "both"},
            {"handoff": "shadow"},
            {"port": [40000, 0]},
        ]
        try:
            while not stop.is_set():
                with reserve(**arguments[number % 4]), reserve_many(2, contiguous=True):
                    pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    def look() -> None:
        left = [one for one in open_descriptors() if int(one.split()[0]) not in standard]
        # Transient ones (netlink, a socket that asks for an address) hold no port.
        inodes = {int(one.partition("[")[2].rstrip("]")) for one in left if "socket:[" in one}
        records = read_sockets("tcp", {State.BOUND_INACTIVE}) + read_sockets("udp", {State.CLOSE})
        mine = [record for record in records if record.inode in inodes]
        assert mine == [], mine
        with reserve():  # no lock was left locked
            pass

    try:
        for _ in range(100):
            in_child(look)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []

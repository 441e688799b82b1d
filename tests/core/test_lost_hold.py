"""A hold whose descriptor other code of this process has closed: nothing is said that is not so,
and nothing is closed that is somebody else's."""

import copy
import gc
import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemport import Reservation, ReservationReleased, adopt, reserve, reserve_many
from tests.abilities import Ability, needs, without
from tests.conftest import run_python
from tests.core.helpers import bound, in_child, may_bind, open_descriptors

PROTOCOLS = ["tcp", "udp", "both"]


def descriptors_of(r: Reservation) -> list[int]:
    return [sock.fileno() for sock in r._hold.sockets]


def close_under(r: Reservation) -> list[int]:
    """What a daemonizing library does to descriptors."""
    numbers = descriptors_of(r)
    for number in numbers:
        os.close(number)
    return numbers


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_is_released_and_says_why(protocol: str) -> None:
    r = reserve(protocol=protocol)
    close_under(r)
    assert r.released
    assert repr(r).endswith(" lost: its descriptor was closed>")
    for use in (r.listen, r.share, lambda: r.popen(["true"]), r.__enter__):
        with pytest.raises(ReservationReleased, match=r"closed the descriptor .* os\.closerange"):
            use()
    r.release()
    assert r.released


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ask_first", [True, False])
def test_a_file_that_has_the_descriptor_stays_open(
    protocol: str, ask_first: bool, tmp_path: Path
) -> None:
    r = reserve(protocol=protocol)
    numbers = close_under(r)
    files = [open(tmp_path / str(number), "w+") for number in numbers]
    assert sorted(file.fileno() for file in files) == sorted(numbers)
    if ask_first:
        assert r.released
    r.release()
    del r
    for file in files:
        file.write("still there")
        file.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_on_the_same_port_and_descriptor_stays_open(protocol: str) -> None:
    # The hardest to tell apart: the address is the hold's, too.
    r = reserve(protocol=protocol)
    numbers = close_under(r)
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with bound(r.port, "::", (socket.SO_REUSEADDR,), kind) as server:
        assert server.fileno() in numbers
        r.release()
        assert server.getsockname()[1] == r.port
        if kind == socket.SOCK_STREAM:
            server.listen()


def test_another_reservation_on_the_same_port_and_descriptor_stays() -> None:
    r = reserve()
    numbers = close_under(r)
    with reserve(port=r.port) as other:
        assert descriptors_of(other) == numbers
        r.release()
        assert not other.released
        assert not may_bind(other.port, "::")


def test_a_forgotten_one_closes_nothing_of_others_and_warns_of_nothing(tmp_path: Path) -> None:
    r = reserve()
    [number] = close_under(r)
    with open(tmp_path / "file", "w") as file:
        assert file.fileno() == number
        del r
        file.write("still there")


def test_half_of_both_is_none() -> None:
    r = reserve(protocol="both")
    os.close(descriptors_of(r)[1])
    assert r.released
    assert may_bind(r.port, "::")


def test_options_of_strangers_are_left_alone(tmp_path: Path) -> None:
    r = reserve(handoff="fd")
    close_under(r)
    with socket.socket() as stranger:
        with pytest.raises(ReservationReleased):
            r.listen()
        assert stranger.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_a_child_closes_nothing_of_others(tmp_path: Path) -> None:
    r = reserve()
    close_under(r)
    with open(tmp_path / "file", "w") as file:

        def work() -> None:
            file.write("the child's")
            file.flush()

        in_child(work)
    assert (tmp_path / "file").read_text() == "the child's"
    assert r.released


def test_in_a_daemon_the_advice_is_not_to_adopt() -> None:
    done = run_python(
        """
import os, sys, ephemport
r = ephemport.reserve()
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)  # until both parents are gone
        try: r.listen()
        except ephemport.ReservationReleased as error: print(error, flush=True)
    os._exit(0)
os._exit(0)
"""
    )
    said = done.stdout
    assert "which has ended" in said
    assert "a daemon calls reserve() when it has become one" in said
    assert "adopt()" not in said


@needs(Ability.SHOWS_BOUND)
def test_after_a_fork_the_port_is_free_when_release_returns() -> None:
    for _ in range(200):
        r = reserve()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        r.release()
        free = may_bind(r.port, "::")
        os.waitpid(pid, 0)
        assert free


@without(Ability.SHOWS_BOUND)
def test_after_a_fork_the_port_is_free_when_the_child_has_closed_its_copy() -> None:
    for _ in range(20):
        r = reserve()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        r.release()
        os.waitpid(pid, 0)
        assert may_bind(r.port, "::")


def test_what_a_fork_in_another_thread_caught_in_the_middle_is_closed() -> None:
    done = run_python(
        """
import os, socket, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
import ephemport
ephemport.reserve().release()  # imports done: a child may wait for ever for one that never ends
stop = threading.Event()
def work():
    while not stop.is_set():
        with ephemport.reserve(), ephemport.reserve(protocol="both"): pass
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
bad = 0
for _ in range(100):
    pid = os.fork()
    if pid == 0:
        held = 0
        for name in os.listdir("/proc/self/fd"):
            try: sock = socket.socket(fileno=os.dup(int(name)))
            except OSError: continue
            if sock.family == socket.AF_INET6 and sock.getsockname()[1]: held += 1
        os._exit(held)
    bad += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads: thread.join()
print(bad)
"""
    )
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_it_cannot_be_copied(copied: Callable[[object], object]) -> None:
    with reserve() as r, reserve_many(2) as group:
        for one in (r, group):
            with pytest.raises(TypeError, match=r"cannot be copied.*share\(\)"):
                copied(one)


def test_a_copy_of_a_group_is_refused_in_a_sentence() -> None:
    with reserve_many(2) as group:
        with pytest.raises(TypeError, match="cannot be copied: each port is held by this process"):
            copy.copy(group)


def test_a_group_takes_no_attributes() -> None:
    with reserve_many(2) as group:
        for name in ("port", "ports"):
            with pytest.raises(AttributeError):
                setattr(group, name, 1)


def test_it_cannot_be_pickled_and_names_share() -> None:
    with reserve() as r, reserve_many(2) as group:
        for one in (r, group):
            with pytest.raises(TypeError, match=r"cannot be pickled.*share\(\)"):
                pickle.dumps(one)


def test_it_cannot_be_changed() -> None:
    with reserve() as r:
        for name in ("port", "host", "protocol", "handoff", "released", "address"):
            with pytest.raises(AttributeError):
                setattr(r, name, getattr(r, name))


def test_a_released_one_cannot_be_entered() -> None:
    r = reserve()
    r.release()
    with pytest.raises(ReservationReleased, match="its reservation was released"), r:
        pass
    given = reserve()
    with adopt(given.share()):
        with pytest.raises(ReservationReleased, match=f"adopted by pid {os.getpid()}"), given:
            pass


def test_only_reserve_makes_one() -> None:
    with pytest.raises(TypeError, match="is not made by hand"):
        Reservation(8080, "127.0.0.1", "tcp", "takeover")  # type: ignore[arg-type]


def test_closing_everything_in_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "import os, ephemport\n"
            "with ephemport.reserve() as r:\n"
            "    os.closerange(3, 100)\n"
            "    files = [open(os.devnull) for _ in range(20)]\n"
            "    assert r.released\n"
            "for file in files: file.close()\n",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(open_descriptors()) > 0


def test_a_group_is_entered_only_whole() -> None:
    group = reserve_many(2)
    group[1].release()
    with pytest.raises(ReservationReleased), group:
        pass
    group.release()


@pytest.mark.parametrize("gone", ["released", "lost"])
def test_nothing_is_waited_for_on_a_port_that_is_not_held(gone: str) -> None:
    r = reserve()
    if gone == "released":
        r.release()
    else:
        close_under(r)
    with pytest.raises(ReservationReleased, match="cannot wait for a server"):
        r.wait_listening(60)


def test_a_fallback_leaves_no_circle_that_keeps_it() -> None:
    gc.disable()
    try:
        with reserve() as taken:
            r = reserve(port=[taken.port, 0])
            given = weakref.ref(r)
            r.release()
            del r
            assert given() is None
    finally:
        gc.enable()


def test_a_child_forked_while_a_server_is_started_has_none_of_its_sockets() -> None:
    done = run_python(
        """
import os, socket, subprocess, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
import ephemport
def start():
    with ephemport.reserve() as r:
        with r.popen(["true"], activate=True): pass
start()
stop = threading.Event()
def work():
    while not stop.is_set(): start()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
bad = 0
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        held = 0
        for name in os.listdir("/proc/self/fd"):
            try: sock = socket.socket(fileno=os.dup(int(name)))
            except OSError: continue
            if sock.family == socket.AF_INET and sock.getsockname()[1]: held += 1
        os._exit(held)
    bad += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads: thread.join()
print(bad)
"""
    )
    assert done.stdout.strip() == "0", done.stderr

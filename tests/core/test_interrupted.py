"""A signal handler that raises: nothing is taken by then, and nothing stays behind.

Two ways to get at every moment. Real signals, at random: a timer. And an exception at each line of
ours in turn, thrown by a trace function: more than any signal can do, and no line is missed.
"""

import gc
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

import ephemport
from ephemport import Reservation, assisted, reserve, reserve_many
from ephemport._kernel.fork import lock
from tests.core.helpers import bound_ports, open_descriptors

# Of real signals. The hundred thousand of the promise: EPHEMPORT_INTERRUPTIONS=100000.
INTERRUPTIONS = int(os.environ.get("EPHEMPORT_INTERRUPTIONS", "2000"))
OURS = os.path.dirname(ephemport.__file__)


class Interrupted(BaseException):
    """What the signal handler raises."""


@contextmanager
def nothing_left_behind(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    reserve().release()
    gc.collect()
    before, held = open_descriptors(), bound_ports()
    replaced = {"bind", "listen"} & vars(socket.socket).keys()
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert bound_ports() == held
    assert {"bind", "listen"} & vars(socket.socket).keys() == replaced
    assert open_descriptors() == before
    assert [(one.exc_type, one.err_msg) for one in unraisable] == []
    assert is_free(lock)
    assert capsys.readouterr().err == ""


def is_free(one: Any) -> bool:
    """Whether another thread can have the lock."""
    got: list[bool] = []

    def try_it() -> None:
        got.append(one.acquire(timeout=5))
        if got[0]:
            one.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return got[0]


def reserve_and_release() -> None:
    reserve().release()


def in_a_block() -> None:
    with reserve() as r:
        assert r.port


def several() -> None:
    with reserve_many(3) as group:
        assert len(group.ports) == 3


def on_both() -> None:
    reserve(protocol="both").release()


def preferred() -> None:
    reserve(port=range(20000, 20010)).release()


def over_a_shadow() -> None:
    reserve(protocol="both", handoff="shadow").release()


def in_a_row() -> None:
    reserve_many(3, contiguous=True).release()


def a_server_of_this_process() -> None:
    with reserve() as r, assisted(), socket.socket() as sock:
        sock.bind(r.address)
        sock.listen()


WAYS = [
    reserve_and_release,
    in_a_block,
    several,
    on_both,
    preferred,
    over_a_shadow,
    in_a_row,
]


# The last takes a lock. At the end of a `with lock:` no signal is handled, but a trace function is
# called there.
SIGNALLED = [*WAYS[:4], a_server_of_this_process]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore:unreleased:ResourceWarning", "ignore:unclosed:ResourceWarning")
def test_an_exception_at_every_line(
    way: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with nothing_left_behind(capsys):
        way()
        count = lines_of(way)
        assert count > 10
        for line in range(count):
            with suppress(Interrupted):
                interrupt_at(line, way)


def lines_of(way: Callable[[], None]) -> int:
    """How many lines of ours it runs through."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if not is_stopped_at(frame):
            return None
        if event == "line":
            seen += 1
        return trace

    sys.settrace(trace)
    try:
        way()
    finally:
        sys.settrace(None)
    return seen


def interrupt_at(line: int, way: Callable[[], None]) -> None:
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not is_stopped_at(frame):
            return None
        if event == "line":
            left -= 1
            if left == -1:
                sys.settrace(None)
                raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        way()
    finally:
        sys.settrace(None)


def is_stopped_at(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


@pytest.mark.filterwarnings("ignore:unreleased:ResourceWarning", "ignore:unclosed:ResourceWarning")
def test_signals_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)

    def interrupt(*_: object) -> None:
        raise Interrupted

    handler = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        with nothing_left_behind(capsys):
            while interrupted < INTERRUPTIONS:
                way = chance.choice(SIGNALLED)
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-4))
                    try:
                        while True:
                            way()
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_ctrl_c_while_another_thread_has_the_lock() -> None:
    """A thread that waits for the lock is interrupted there, and gets its own exception."""
    released, held = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with lock:
            held.set()
            released.wait(20)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=hold_the_lock)
    thread.start()
    try:
        held.wait()
        # These take none, so they do not wait.
        reserve().release()
        reserve(handoff="shadow").release()
        with reserve(handoff="fd") as r:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                r.listen()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        released.set()
        thread.join()
    assert is_free(lock)


def test_a_half_made_reservation_has_a_repr() -> None:
    assert "Reservation" in repr(Reservation.__new__(Reservation))

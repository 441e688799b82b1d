"""Reservations beside other ways to start a process or an interpreter: each has its own or says so.

The default of multiprocessing is "forkserver" since Python 3.14, and was "fork" before.
"""

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from ephemport import Reservation, adopt, reserve
from tests.conftest import run_python

METHODS = ["fork", "spawn", "forkserver"]


def hold_and_tell(ours: Connection, theirs: Connection) -> None:
    theirs.close()
    with reserve() as r:
        ours.send(r.port)
        ours.recv()


def adopt_and_tell(ours: Connection, theirs: Connection) -> None:
    theirs.close()
    with adopt(ours.recv()) as r:
        ours.send(r.port)
        ours.recv()


def look(reservation: Reservation) -> None:
    reservation.release()


def start(method: str, target: Callable[..., None]) -> tuple[Any, Connection]:
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, ours))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return process, ours


def end(process: Any) -> None:
    process.join(30)
    assert process.exitcode == 0
    # Its pipes would stay open until it is collected, in the middle of another test.
    process.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_holds_ports_of_its_own(method: str) -> None:
    with reserve() as mine:
        process, connection = start(method, hold_and_tell)
        port = connection.recv()
        assert port != mine.port
        assert not mine.released
        with pytest.raises(Exception, match=f"port {port}.* pid {process.pid}"):
            reserve(port=port)
        connection.send("end")
        end(process)
        reserve(port=port).release()
        connection.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_adopts_by_a_token(method: str) -> None:
    r = reserve()
    process, connection = start(method, adopt_and_tell)
    connection.send(r.share())
    assert connection.recv() == r.port
    assert r.released
    connection.send("end")
    end(process)
    connection.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_reservation_is_no_argument_of_a_process(method: str) -> None:
    context = multiprocessing.get_context(method)
    with reserve() as r:
        process = context.Process(target=look, args=(r,))  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match=r"cannot be pickled.* share"):
            process.start()
        assert not r.released


_RUN = """
import sys
inside = sys.argv[1]
if sys.version_info >= (3, 14):
    from concurrent import interpreters
    one = interpreters.create()
    one.exec(inside)
    one.close()
elif sys.version_info >= (3, 13):
    import _interpreters
    one = _interpreters.create()
    failed = _interpreters.exec(one, inside)
    assert failed is None, failed
    _interpreters.destroy(one)
else:
    import _xxsubinterpreters
    one = _xxsubinterpreters.create()
    _xxsubinterpreters.run_string(one, inside)
    _xxsubinterpreters.destroy(one)
import ephemport
with ephemport.reserve() as r:
    print(r.port)
"""
_INSIDE = """
import ephemport
with ephemport.reserve() as r, ephemport.reserve_many(3, contiguous=True) as group:
    server = r.listen()
    print(ephemport.wait_listening(r.port, 20).port == r.port, len(group), flush=True)
    server.close()
"""
# A thread cannot be a daemon there. Python 3.12 itself aborts when such an interpreter has imported
# hashlib, which secrets does.
_SHARE = """
try:
    with ephemport.reserve() as r:
        r.share()
except ephemport.EphemportError as error:
    print(error, flush=True)
"""


def test_a_subinterpreter_reserves_and_says_what_it_cannot_do() -> None:
    shares = sys.version_info[:2] != (3, 12)
    done = run_python(_RUN, _INSIDE + (_SHARE if shares else ""))
    assert (done.returncode, done.stderr) == (0, "")
    first, *said, last = done.stdout.splitlines()
    assert first == "True 3"
    assert last.isdigit()
    assert not shares or "cannot share port" in said[0]

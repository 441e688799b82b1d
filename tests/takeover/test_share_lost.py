"""share() after other code closed its descriptors, and after exceptions of signal handlers."""

import gc
import linecache
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from ephemport import adopt, reserve
from ephemport._holding.identity import Identity, is_still
from ephemport._kernel.fork import lock
from ephemport._serving import share
from tests.conftest import run_python
from tests.core.helpers import eventually
from tests.core.helpers import open_descriptors as descriptors
from tests.core.test_interrupted import Interrupted, is_stopped_at
from tests.takeover.sharing import Adopter, servers

pytestmark = pytest.mark.usefixtures("nothing_stays_served")

_ALL_CLOSED = """
import os, socket, subprocess, sys, threading
from ephemport import adopt, reserve
def served(r):
    adopt(r.share()).release()
    assert r.released
first, second = reserve(), reserve()
first.share(), second.share()
threads = [one for one in threading.enumerate() if one.name == "ephemport-share"]
os.closerange(3, 64)
# Only sockets: the descriptors of ephemport were sockets too.
pairs = [socket.socketpair() for _ in range(10)]
"""
_NOTHING_TOUCHED = """
for pair in pairs:
    for one, other in (pair, pair[::-1]):
        other.setblocking(False)
        one.send(b"mine")
        assert other.recv(100) == b"mine"
    for one in pair:
        one.close()
print("well")
"""


@pytest.mark.parametrize(
    "then",
    [
        "first.release(); second.release()",
        "served(reserve()); first.release(); second.release()",
        "first.release(); served(reserve()); served(reserve()); del second",
        "first.release(); second.release()\nfor one in threads: one.join(20); "
        "assert not one.is_alive()",
    ],
)
def test_after_every_descriptor_was_closed(then: str) -> None:
    done = run_python(_ALL_CLOSED + then + _NOTHING_TOUCHED)
    assert done.stdout == "well\n", done.stderr
    assert "Exception" not in done.stderr


_FILES = """
import os, tempfile
from ephemport import adopt, reserve
first = reserve()
first.share()
os.closerange(3, 64)
files = [tempfile.TemporaryFile() for _ in range(8)]
with reserve() as r:
    adopt(r.share()).release()
    assert r.released
first.release()
assert [os.pread(one.fileno(), 100, 0) for one in files] == [b""] * 8
print("well")
"""


def test_files_that_have_the_descriptors_now() -> None:
    done = run_python(_FILES)
    assert done.stdout == "well\n", done.stderr


@pytest.mark.parametrize("which", ["news", "listener"])
def test_one_descriptor_is_another_socket_now(which: str) -> None:
    with reserve() as r, reserve() as other:
        token = r.share()
        server, offer = share._server, r._offer
        assert server is not None
        assert offer is not None
        assert offer.listener is not None
        mine, peer = socket.socketpair()
        lost = server._news if which == "news" else offer.listener
        os.dup2(mine.fileno(), lost.fileno())
        copy = socket.socket(fileno=lost.fileno())
        adopt(other.share()).release()
        assert other.released
        again = r.share()
        assert (again == token) == (which == "news")
        adopt(again).release()
        assert r.released
        eventually(lambda: not servers())
        copy.send(b"+")
        assert peer.recv(10) == b"+"
        for sock in mine, peer, copy:
            sock.close()


@pytest.mark.parametrize("where", ["_wait", "_serve"])
def test_descriptors_are_other_sockets_just_after_the_thread_has_looked(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new sockets block, and nothing arrives at them."""
    real = is_still
    mine, peer = socket.socketpair()
    copies: list[socket.socket] = []
    with reserve() as r, reserve() as other:

        def look_and_lose(sock: socket.SocketType, identity: Identity) -> bool:
            answer = real(sock, identity)
            server = share._server
            if server is None or sock is not server._news or copies:
                return answer
            if sys._getframe(1).f_code.co_name == where:
                listeners = [one.listener for one in server._offers]
                for lost in filter(None, [server._news, *listeners]):
                    os.dup2(mine.fileno(), lost.fileno())
                    copies.append(socket.socket(fileno=lost.fileno()))
            return answer

        with lock:
            r.share()
            monkeypatch.setattr(share, "is_still", look_and_lose)
        eventually(lambda: len(copies) == 2)
        adopter = Adopter(other.share())
        assert adopter.end() == ""
    eventually(lambda: not servers())
    for sock in mine, peer, *copies:
        sock.close()


def share_and_release() -> None:
    with reserve() as r:
        r.share()


def share_beside_another() -> None:
    with reserve() as r, reserve() as other:
        r.share()
        other.share()


def share_and_try_again() -> None:
    """After an exception in share() the same reservation can be shared."""
    with reserve() as r:
        try:
            r.share()
        except Interrupted:
            adopt(r.share()).release()
            assert r.released
            raise


@pytest.mark.parametrize(
    "way", [share_and_release, share_beside_another, share_and_try_again], ids=lambda f: f.__name__
)
@pytest.mark.filterwarnings("ignore:unreleased:ResourceWarning", "ignore:unclosed:ResourceWarning")
def test_an_exception_at_every_line(
    way: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with reserve() as r:
        adopt(r.share()).release()
    eventually(lambda: not servers())
    gc.collect()
    before = descriptors()
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    assert not interrupt_at(10_000, way)
    line = 0
    while interrupt_at(line, way):
        line += 1
        with reserve() as r:
            adopt(r.share()).release()
            assert r.released
    assert line > 50
    gc.collect()
    eventually(lambda: not servers())
    eventually(lambda: descriptors() == before)
    assert [(one.exc_type, one.err_msg) for one in unraisable] == []


def interrupt_at(line: int, way: Callable[[], None]) -> bool:
    """Throw an exception at this line of ours, counted from the first that `way` runs through.

    False: there are fewer lines. Two kinds of lines are left out, for no signal handler runs there
    and CPython leaves a with block without its end: `try:`, and `with`, which a trace function sees
    again at the end of the block.
    """
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not is_stopped_at(frame):
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith(("with ", "try:")):
            left -= 1
            if left == -1:
                sys.settrace(None)
                raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        way()
    except Interrupted:
        return True
    finally:
        sys.settrace(None)
    return False


def test_a_thread_that_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserve() as r, reserve() as other:
        r.share()
        server = share._server
        assert server is not None
        monkeypatch.setattr(server._thread, "is_alive", lambda: False)
        adopt(other.share()).release()
        assert other.released

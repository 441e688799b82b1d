"""Other connections to a giver: other users, silent ones, many at a time."""

import os
import resource
import socket
import threading
import time

import pytest

from ephemport import EphemportError, adopt, reserve
from ephemport._kernel.fork import lock
from ephemport._serving import share
from tests.conftest import InNamespace
from tests.core.helpers import become_nobody, child, eventually, in_child, may_bind
from tests.core.helpers import open_descriptors as descriptors
from tests.takeover.sharing import Adopter, giver, servers, visit

pytestmark = pytest.mark.usefixtures("nothing_stays_served")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@as_root
def test_a_silent_stranger_is_sent_away_at_once(in_namespace: InNamespace) -> None:
    in_namespace(_be_silent_as_nobody)


def _be_silent_as_nobody() -> None:
    r = reserve()
    token = r.share()
    ready, writer = os.pipe()

    def connect() -> None:
        become_nobody()
        with visit(token) as one, visit(token) as other:
            for sock in one, other:
                assert b"you are uid 65534" in sock.recv(4096)
                assert sock.recv(4096) == b""
            os.write(writer, b".")
            time.sleep(60)

    with child(connect):
        assert os.read(ready, 1) == b"."
        adopt(token).release()


@as_root
def test_root_is_another_user(in_namespace: InNamespace) -> None:
    in_namespace(_root_and_nobody)


def _root_and_nobody() -> None:
    reader, writer = os.pipe()
    done, end = os.pipe()

    def give() -> None:
        become_nobody()
        with reserve() as r:
            os.write(writer, r.share().encode())
            os.read(done, 1)
            assert not r.released

    with child(give) as pid:
        token = os.read(reader, 1000).decode()
        with pytest.raises(EphemportError, match="served by uid 65534, and this process has uid 0"):
            adopt(token)
        with visit(token) as sock:
            assert b"it belongs to uid 65534, and you are uid 0" in sock.recv(4096)
        os.write(end, b".")
        assert os.waitpid(pid, 0)[1] == 0


@as_root
def test_a_stranger_that_serves_the_name_later_is_found_out(in_namespace: InNamespace) -> None:
    in_namespace(_serve_a_dead_token_as_nobody)


def _serve_a_dead_token_as_nobody() -> None:
    with reserve() as r:
        token = r.share()
    eventually(lambda: not servers())
    ready, writer = os.pipe()

    def pretend() -> None:
        become_nobody()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(f"\0ephemport-share-{token.split(':')[1]}")
            sock.listen()
            os.write(writer, b".")
            connection, _ = sock.accept()
            assert connection.recv(100) == b"", "the secret is not said to strangers"

    with child(pretend) as pid:
        assert os.read(ready, 1) == b"."
        with pytest.raises(EphemportError, match="served by uid 65534"):
            adopt(token)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("silent", [1, 100])
def test_the_silent_of_this_user_keep_nobody_waiting(silent: int) -> None:
    with reserve() as r:
        token = r.share()
        visitors = [visit(token) for _ in range(silent)]
        adopt(token).release()
        for sock in visitors:
            answers = [sock.recv(4096), sock.recv(4096)]
            assert answers[0] == b"" or b"refused" in answers[0]
            assert answers[1] == b""
            sock.close()


def test_the_silent_are_bounded() -> None:
    with reserve() as r:
        token = r.share()
        before = len(descriptors())
        visitors = [visit(token) for _ in range(100)]
        refused = visitors[: 100 - share._MOST_VISITORS]
        assert all(b"too many others" in sock.recv(4096) for sock in refused)
        # A refused connection is closed a moment later.
        eventually(lambda: len(descriptors()) == before + 100 + share._MOST_VISITORS)
        for sock in visitors:
            sock.close()
        adopt(token).release()


def test_the_silent_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "PATIENCE", 0.1)
    with reserve() as r, visit(r.share()) as sock:
        assert sock.recv(4096) == b"", "hung up"


def test_a_full_queue_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()
    sleep = time.sleep

    def try_again_later(seconds: float) -> None:
        tried.set()
        sleep(seconds)

    with giver() as one:
        one.stop()
        visitors = []
        with pytest.raises(BlockingIOError):
            while True:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                visitors.append(sock)
                sock.setblocking(False)
                sock.connect(f"\0ephemport-share-{one.token.split(':')[1]}")
        with monkeypatch.context() as patch:
            patch.setattr("ephemport._serving.adopt.time.sleep", try_again_later)
            adopter = Adopter(one.token)
            assert tried.wait(30)
        one.go_on()
        assert adopter.end() == ""
        assert one.has_let_go()
        for sock in visitors:
            sock.close()


def test_a_full_queue_that_nobody_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemport._serving.adopt.PATIENCE", 0.1)
    with reserve() as r:
        name = r.share().split(":")[1]
        r._offer.withdraw()  # type: ignore[union-attr]
    eventually(lambda: not servers())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(f"\0ephemport-share-{name}")
        deaf.listen(0)
        with visit(f":{name}"), pytest.raises(EphemportError, match="queue of conn") as caught:
            adopt(f"ephemport-share:{name}:{'0' * 32}")
        assert isinstance(caught.value.__cause__, TimeoutError)


def test_without_descriptors_the_giver_waits_and_serves_again(in_namespace: InNamespace) -> None:
    in_namespace(_use_up_descriptors)


def _use_up_descriptors() -> None:
    with reserve() as r:
        token = r.share()
        # Connects before the descriptors are used up, is accepted after.
        with lock:
            visitors = [visit(token) for _ in range(3)]
            limit = max(int(one.split()[0]) for one in descriptors()) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            copies = []
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    copies.append(os.dup(0))
        server = share._server
        assert server is not None
        eventually(lambda: server._used_up)
        for copy in copies:
            os.close(copy)
        for sock in visitors:
            sock.close()
        adopt(token).release()


def test_who_cannot_be_accepted_is_not_looked_at() -> None:
    with reserve() as r:
        token = r.share()
        offer = r._offer
        assert offer is not None
        server = share._Server()
        server._offers.append(offer)
        with lock:  # the thread that really serves is kept out
            with visit(token):
                assert offer.listener is not None
                assert offer.listener.fileno() in server._wait()
                server._used_up = True
                assert server._wait() == {}, "no end of waking up for what cannot be accepted"
                assert offer.listener.fileno() in server._wait()
        server._news.close()


def test_one_thread_serves_all_offers_and_ends_with_them() -> None:
    before = descriptors()
    reservations = [reserve() for _ in range(5)]
    tokens = [one.share() for one in reservations]
    assert len(servers()) == 1
    (thread,) = servers()
    adopt(tokens[3]).release()
    for one in reservations[:-1]:
        one.release()
    adopt(tokens[4]).release()
    thread.join(30)
    assert not thread.is_alive()
    assert descriptors() == before
    with reserve() as r:
        adopt(r.share()).release()


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = descriptors()
    with reserve() as r:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(EphemportError, match=r"cannot share port .* start new"):
                r.share()
        adopt(r.share()).release()
    eventually(lambda: descriptors() == before)


def test_a_forked_child_closes_what_is_served() -> None:
    with reserve() as r, visit(r.share()) as sock:
        token = r.share()
        assert share._server is not None
        assert r._offer is not None
        assert r._offer.listener is not None
        served = [share._server._news, r._offer.listener]
        names = [f"socket:[{os.fstat(one.fileno()).st_ino}]" for one in served]

        def look() -> None:
            assert not [one for one in descriptors() if one.split()[1] in names]
            assert r.released
            r.release()  # the parent's, which must not feel it
            assert share._server is None

        in_child(look)
        port = r.port
        sock.close()
        adopt(token).release()
    assert may_bind(port)

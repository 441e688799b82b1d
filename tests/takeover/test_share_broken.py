"""Giver or adopter stops, ends or gives up in the middle of a hand-over."""

import os
import secrets
import socket
import threading

import pytest

from ephemport import EphemportError, ReservationReleased, adopt, reserve
from ephemport._kernel.fork import lock
from tests.conftest import InNamespace
from tests.core.helpers import eventually, is_held, may_bind
from tests.core.helpers import open_descriptors as descriptors
from tests.takeover.sharing import Adopter, giver, servers, take_sockets, visit

pytestmark = pytest.mark.usefixtures("nothing_stays_served")


def test_a_giver_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemport._serving.adopt.PATIENCE", 0.2)
    with giver() as one:
        one.stop()
        with pytest.raises(EphemportError, match=r"did not answer within 0\.2 s") as caught:
            adopt(one.token)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert f"pid {one.pid} (" in str(caught.value)
        assert "which is stopped" in str(caught.value)
        one.go_on()
        monkeypatch.undo()
        adopt(one.token).release()
        assert one.has_let_go()


def test_a_giver_that_is_killed_before_it_answers() -> None:
    with giver() as one:
        one.stop()
        adopter = Adopter(one.token)
        eventually(lambda: _waits(adopter))
        one.process.kill()
        one.process.wait()
        reported = adopter.end()
    assert "hung up in the middle" in reported
    assert f"the giver, pid {one.pid}" in reported


def _waits(adopter: Adopter) -> bool:
    """Whether it has connected, as /proc shows it, and so waits for an answer."""
    with open(f"/proc/self/task/{adopter.native_id}/wchan", encoding="ascii") as file:
        return "poll" in file.read()


@pytest.mark.parametrize("protocol", ["tcp", "both"])
def test_a_giver_that_is_killed_when_the_adopter_has_the_sockets(protocol: str) -> None:
    with giver(protocol) as one:
        connection, sockets = take_sockets(one.token)
        assert len(sockets) == (2 if protocol == "both" else 1)
        one.process.kill()
        one.process.wait()
        assert connection.recv(1) == b""
        connection.close()
        for descriptor in sockets:
            os.close(descriptor)
    assert may_bind(one.port)


def test_a_giver_that_releases_during_the_hand_over() -> None:
    r = reserve()
    connection, sockets = take_sockets(r.share())
    r.release()
    assert b"released meanwhile" in connection.recv(4096)
    assert connection.recv(1) == b""
    connection.close()
    for descriptor in sockets:
        os.close(descriptor)
    assert may_bind(r.port)


def test_an_adopter_that_ends_with_the_sockets() -> None:
    r = reserve()
    connection, sockets = take_sockets(r.share())
    connection.close()
    for descriptor in sockets:
        os.close(descriptor)
    with adopt(r.share()) as adopted:
        assert adopted.port == r.port
        assert r.released


def test_an_adopter_that_gives_up_after_it_has_confirmed() -> None:
    with giver() as one:
        connection, sockets = take_sockets(one.token)
        one.stop()
        connection.send(b"+")
        connection.close()
        for descriptor in sockets:
            os.close(descriptor)
        one.go_on()
        with adopt(one.token) as adopted:
            assert adopted.port == one.port
            assert one.has_let_go()
            assert is_held(one.port, os.getpid())


def test_of_a_stopped_giver_the_adopter_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The giver stops between its two messages: in any case one of the two holds."""
    real = socket.recv_fds
    with giver() as one:

        def recv_fds(*arguments: object) -> object:
            answer = real(*arguments)  # type: ignore[arg-type]
            one.stop()
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(socket, "recv_fds", recv_fds)
            patch.setattr("ephemport._serving.adopt.PATIENCE", 0.2)
            with pytest.raises(EphemportError, match="which is stopped"):
                adopt(one.token)
        one.go_on()
        with adopt(one.token):
            assert one.has_let_go()


def test_the_kernel_decides_between_the_last_message_and_giving_up() -> None:
    """What adopt() relies on when its time is up: an earlier message is read, a later one fails."""
    giver_end, adopter_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with giver_end, adopter_end:
        giver_end.send(b".")
        adopter_end.shutdown(socket.SHUT_RDWR)
        assert adopter_end.recv(10) == b"."
        with pytest.raises(BrokenPipeError):
            giver_end.send(b".")


def test_an_adopter_without_descriptors_keeps_none(in_namespace: InNamespace) -> None:
    in_namespace(_adopt_with_one_descriptor_too_few)


def _adopt_with_one_descriptor_too_few() -> None:
    import resource

    import ephemport._serving.adopt  # noqa: F401

    with giver("both") as one:
        limit = max(int(name.split()[0]) for name in descriptors()) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        copies = []
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                copies.append(os.dup(0))
        # One for the connection, and one of two sockets.
        for few in (0, 1, 2):
            for _ in range(few):
                os.close(copies.pop())
            before = len(os.listdir("/proc/self/fd")) if few else None
            with pytest.raises(EphemportError, match=r"Too many open|no file descriptor left"):
                adopt(one.token)
            if few:
                assert len(os.listdir("/proc/self/fd")) == before
            copies += [os.dup(0) for _ in range(few)]
        for copy in copies:
            os.close(copy)
        with adopt(one.token):
            assert one.has_let_go()


@pytest.mark.parametrize("answer", [b"[]", b"7", b"\xff", b"{}", b'{"port": 1}', b"x" * 4000])
def test_an_answer_that_is_none(answer: bytes) -> None:
    name = secrets.token_hex(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"\0ephemport-share-{name}")
        server.listen()
        adopter = Adopter(f"ephemport-share:{name}:{name}")
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            socket.send_fds(connection, [answer], [connection.fileno()])
            reported = adopter.end()
    assert reported.startswith(f"cannot adopt: the giver, pid {os.getpid()} (")


def test_two_adopters_at_the_same_time() -> None:
    with reserve() as r:
        token = r.share()
        first, sockets = take_sockets(token)
        with adopt(token) as adopted:
            assert adopted.port == r.port
            assert f"adopted by pid {os.getpid()} meanwhile".encode() in first.recv(4096)
        first.close()
        for descriptor in sockets:
            os.close(descriptor)


def test_a_withdrawn_offer_ends_at_once() -> None:
    r = reserve()
    token = r.share()
    assert r._offer is not None
    with lock:  # the thread cannot serve it now
        silent = visit(token)
        for _ in range(3):
            r._offer.withdraw()
        with pytest.raises(ConnectionRefusedError):
            visit(token)
    eventually(lambda: not servers())
    r._offer.withdraw()
    with silent:
        assert b"released meanwhile" in silent.recv(4096)
    assert not r.released
    r.release()


def test_withdrawing_waits_for_nobody() -> None:
    r = reserve()
    r.share()
    offer = r._offer
    assert offer is not None
    with lock:
        other = threading.Thread(target=offer.withdraw)
        other.start()
        other.join(30)
        assert not other.is_alive()
    r.release()


def test_release_and_adopt_at_the_same_time() -> None:
    for _ in range(50):
        r = reserve()
        adopter = Adopter(r.share())
        r.release()
        adopter.join(60)
        if adopter.reservation is not None:
            assert not may_bind(r.port)
            adopter.reservation.release()
        else:
            assert adopter.error is not None
            with pytest.raises(ReservationReleased):
                r.listen()
        assert may_bind(r.port)
    eventually(lambda: not servers())

"""share() and adopt(): another process of the same user gets the same socket."""

import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from ephemport import EphemportError, ReservationReleased, adopt, reserve
from ephemport._serving import share
from tests.conftest import ROOT, InNamespace, run_python
from tests.core.helpers import TCP, UDP, become_nobody, in_child, is_held, may_bind

ADOPT = """
import os, sys
from ephemport import adopt
from tests.core.helpers import is_held
with adopt(sys.argv[1]) as r:
    protocols = ("tcp", "udp") if r.protocol == "both" else (r.protocol,)
    alone = is_held(r, os.getpid(), protocols=protocols)
    print(r.port, r.host, r.protocol, r.handoff, alone, flush=True)
    sys.stdin.read()
"""


def adopter(token: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", ADOPT, token],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_adopter_holds_and_the_giver_does_not(handoff: str, protocol: str) -> None:
    r = reserve(handoff=handoff, protocol=protocol)
    with adopter(r.share()) as process:
        assert process.stdout is not None
        reported = process.stdout.readline().split()
        assert reported == [str(r.port), "127.0.0.1", protocol, handoff, "True"]
        assert r.released
        assert f"adopted by pid {process.pid}" in repr(r)
        with pytest.raises(ReservationReleased, match=f"pid {process.pid}"):
            r.listen()
        assert is_held(r, process.pid, protocols=(protocol,))
        r.release()
        assert is_held(r, process.pid, protocols=(protocol,))
        process.communicate()
    assert may_bind(r.port, "::", kind=TCP if protocol == "tcp" else UDP)


def test_both_sockets_travel() -> None:
    r = reserve(protocol="both")
    with adopter(r.share()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_held(r, process.pid, protocols=("tcp", "udp"))
        process.communicate()


def test_at_no_moment_is_the_number_free(in_namespace: InNamespace) -> None:
    assert in_namespace(_bounce_the_last_number, ports=(40000, 40001)) == []


def _bounce_the_last_number() -> list[int]:
    """There are two ports, both held. One goes to and fro while a neighbour wants it."""
    import threading

    taken: list[int] = []
    done = threading.Event()

    def want() -> None:
        while not done.is_set():
            with socket.socket() as sock:
                try:
                    sock.bind(("127.0.0.1", 0))
                except OSError:
                    continue
                taken.append(sock.getsockname()[1])

    other = reserve()
    current = reserve()
    assert {other.port, current.port} == {40000, 40001}
    neighbour = threading.Thread(target=want)
    neighbour.start()
    for _ in range(100):
        following = adopt(current.share())
        assert current.released
        current = following
    done.set()
    neighbour.join()
    current.release()
    other.release()
    return taken


def test_a_token_works_once() -> None:
    with reserve() as r:
        token = r.share()
        assert r.share() == token
        with adopt(token) as adopted:
            assert adopted.port == r.port
            with pytest.raises(EphemportError, match="works once"):
                adopt(token)


def test_a_token_is_used_up_when_adopt_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real_end, real_close = share.Offer.end, share._Visitor.close

    def end(offer: share.Offer, reason: str) -> None:
        real_end(offer, reason)
        seen.append("ended")

    def close(visitor: share._Visitor) -> None:
        seen.append("hung up")
        real_close(visitor)

    monkeypatch.setattr(share.Offer, "end", end)
    monkeypatch.setattr(share._Visitor, "close", close)
    with reserve() as r:
        adopt(r.share()).release()
    assert seen == ["ended", "hung up"]


def test_a_wrong_token_is_refused_and_the_right_one_still_works() -> None:
    with reserve() as r:
        token = r.share()
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        with pytest.raises(EphemportError, match="the token is wrong"):
            adopt(wrong)
        assert not r.released
        adopt(token).release()


GOOD = f"ephemport-share:{'0' * 32}:{'a' * 32}"


@pytest.mark.parametrize(
    "bad",
    [
        *("", "abc", "ephemport-share:a", "ephemport-share::b", "\0", f"\0{GOOD}"),
        *(f"{GOOD}\n", f" {GOOD}", f"{GOOD}a", GOOD[:-1], GOOD * 1000, GOOD.upper()),
        *(GOOD.replace("a", "\u0663"), GOOD.replace("a", "\udc80"), GOOD.replace("a", "\0")),
    ],
)
def test_what_is_no_token(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before there is no class to speak of.
    importlib.import_module("ephemport._serving.adopt")
    monkeypatch.delattr(socket, "socket")
    with pytest.raises(ValueError, match="no token") as caught:
        adopt(bad)
    assert "aaaa" not in str(caught.value), "a secret, perhaps"


def test_what_is_no_string() -> None:
    with pytest.raises(TypeError, match="token"):
        adopt(7)  # type: ignore[arg-type]


def test_a_token_dies_with_its_reservation() -> None:
    with reserve() as r:
        token = r.share()
    with pytest.raises(EphemportError, match="nobody serves this token"):
        adopt(token)
    with pytest.raises(ReservationReleased):
        r.share()


def test_a_forgotten_shared_reservation_is_still_found() -> None:
    r = reserve()
    token = r.share()
    port = r.port
    with pytest.warns(ResourceWarning, match=str(port)):
        del r
    with pytest.raises(EphemportError, match="nobody serves"):
        adopt(token)
    assert may_bind(port)


def test_another_user_is_refused(in_namespace: InNamespace) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    in_namespace(_adopt_as_nobody)


def _adopt_as_nobody() -> None:
    # Before the change of user: another user may not read a checkout below a folder of mode 0700.
    import ephemport._serving.adopt  # noqa: F401

    with reserve() as r:
        token = r.share()

        def try_it() -> None:
            become_nobody()
            with pytest.raises(EphemportError, match="uid 0, and this process has uid 65534"):
                adopt(token)

        in_child(try_it)
        assert not r.released


def test_the_giver_checks_the_user_too(in_namespace: InNamespace) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    in_namespace(_ask_the_giver_as_nobody)


def _ask_the_giver_as_nobody() -> None:
    with reserve() as r:
        _, name, secret = r.share().split(":")

        def ask() -> None:
            become_nobody()
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(f"\0ephemport-share-{name}")
                # Sent away before it is read.
                with suppress(BrokenPipeError):
                    sock.send(secret.encode())
                answer, descriptors, _, _ = socket.recv_fds(sock, 4096, 2)
            assert b"you are uid 65534" in answer
            assert descriptors == []

        in_child(ask)
        assert not r.released


def _adopt_and_answer(token: str, answers: "multiprocessing.Queue[int]") -> None:
    with adopt(token) as r:
        answers.put(r.port)


def test_a_worker_that_multiprocessing_spawned() -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[int] = context.Queue()
    with reserve() as r:
        worker = context.Process(target=_adopt_and_answer, args=(r.share(), answers))
        worker.start()
        assert answers.get(timeout=60) == r.port
        worker.join()
    answers.close()
    answers.join_thread()


def test_a_forked_child_does_not_keep_the_token_alive() -> None:
    source = """
import os, sys
from ephemport import EphemportError, adopt, reserve
r = reserve()
token = r.share()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
r.release()
try:
    adopt(token)
except EphemportError as error:
    print(error)
os.close(reader); os.close(writer)
os.waitpid(child, 0)
"""
    done = run_python(source)
    assert "nobody serves this token" in done.stdout, done.stderr

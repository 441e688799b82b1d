"""Waiting until the right server listens, and every way in which it does not."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ephemport import (
    Reservation,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
    reserve,
    wait_listening,
)
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel import sockets
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._serving.watch import Watch
from tests.conftest import InNamespace

BARE = """
import socketserver, sys
address = ("127.0.0.1", int(sys.argv[1]))
socketserver.TCPServer(address, socketserver.BaseRequestHandler).serve_forever()
"""
# Listens as a grandchild of the process that started it, and ends when its input ends.
GRANDCHILD = """
import subprocess, sys
server = '''
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); sys.stdin.read()
'''
subprocess.run([sys.executable, "-c", server, sys.argv[1]])
"""
SLEEP = "import sys; sys.stdin.read()"


@contextmanager
def python(source: str, *argv: str) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(
        [sys.executable, "-c", source, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def listening_later(reservation: Reservation, address: str) -> Iterator[threading.Event]:
    """A server in this process that listens on `address` once the event is set."""
    go = threading.Event()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, reservation.port))

        def listen() -> None:
            go.wait()
            sock.listen()

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield go
        finally:
            go.set()
            thread.join()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("127.0.0.9", "127.0.0.9"),
        ("localhost", "127.0.0.1"),
        ("localhost", "::"),
        ("::1", "::1"),
        ("::1", "::"),
        ("0.0.0.0", "0.0.0.0"),
        ("0.0.0.0", "::"),
        ("::", "::"),
    ],
)
def test_it_finds_a_server_that_comes_up(host: str, address: str) -> None:
    with reserve(host=host) as r, listening_later(r, address) as go:
        threading.Timer(0.02, go.set).start()
        found = r.wait_listening(10)
    assert (found.port, found.address, found.protocol) == (r.port, address, "tcp")
    assert found.pid == os.getpid()
    assert found.command


def test_bound_is_not_listening() -> None:
    with reserve() as r, listening_later(r, "127.0.0.1") as go:
        with pytest.raises(TakeoverTimeout):
            wait_listening(r.port, 0.05)
        go.set()
        assert wait_listening(r.port, 10).port == r.port


def test_it_never_connects() -> None:
    with reserve() as r, r.listen() as server:
        server.setblocking(False)
        for _ in range(3):
            r.wait_listening(10)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("handoff", ["takeover", "shadow"])
def test_udp_bound_counts_and_a_hold_does_not(handoff: str) -> None:
    with reserve(protocol="udp", handoff=handoff) as r:
        with pytest.raises(TakeoverTimeout, match="nothing listened"):
            r.wait_listening(0.05)
        with r.listen():
            assert r.wait_listening(10).protocol == "udp"


def test_both_means_both() -> None:
    with reserve(protocol="both", handoff="shadow") as r, r.listen():
        with pytest.raises(TakeoverTimeout):
            r.wait_listening(0.05)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(r.address)
            r.wait_listening(10)


def test_another_process_s_udp_hold_is_no_server(in_namespace: InNamespace) -> None:
    reported = in_namespace(_wait_for_a_foreign_udp_hold)
    assert "nothing listened" in reported


def _wait_for_a_foreign_udp_hold() -> str:
    source = """
import ephemport, sys
with ephemport.reserve(protocol="udp") as r:
    print(r.port, flush=True); sys.stdin.read()
"""
    with python(source) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())

        class Udp(int):
            protocol = "udp"

        try:
            wait_listening(Udp(port), 0.05)
        except TakeoverTimeout as error:
            return str(error)
    return "found"


def test_a_listener_of_a_grandchild_is_the_right_one() -> None:
    with reserve() as r, python(GRANDCHILD, str(r.port)) as process:
        found = r.wait_listening(20, process)
        assert found.pid not in (None, process.pid, os.getpid())
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("as_pid", [False, True])
def test_a_stranger_s_listener_is_the_wrong_one(as_pid: bool) -> None:
    with reserve() as r, python(SLEEP) as process, r.listen():
        with pytest.raises(WrongListener) as caught:
            r.wait_listening(10, process.pid if as_pid else process)
    assert f"this process (pid {os.getpid()})" in str(caught.value)
    assert f"pid {process.pid} " in str(caught.value)


@pytest.mark.parametrize("way", ["Popen", "pid", "psutil"])
def test_a_server_that_ends_is_reported_at_once(way: str) -> None:
    source = "import sys; print('no config'); sys.exit(3)"
    with reserve() as r, python(source) as process:
        began = time.monotonic()
        waited_for: object = process
        if way == "pid":
            waited_for = process.pid
        elif way == "psutil":
            waited_for = pytest.importorskip("psutil").Process(process.pid)
        with pytest.raises(ServerExited) as caught:
            r.wait_listening(60, waited_for)  # type: ignore[arg-type]
        assert time.monotonic() - began < 30
    assert caught.value.returncode == 3
    assert "exited with status 3" in str(caught.value)
    assert f"pid {process.pid}" in str(caught.value)
    if way == "Popen":
        assert caught.value.output == "no config"
        assert "no config" in str(caught.value)


def test_the_captured_output_is_still_there_for_its_reader() -> None:
    with reserve() as r, python("print('one'); print('two')") as process:
        with pytest.raises(ServerExited, match="one\ntwo"):
            r.wait_listening(60, process)
        assert process.stdout is not None
        assert process.stdout.read() == b"one\ntwo\n"


def test_a_server_ended_by_a_signal() -> None:
    with reserve() as r, python(SLEEP) as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ServerExited, match="ended by signal 15") as caught:
            r.wait_listening(60, process)
    assert caught.value.returncode == -15


def test_a_process_that_ended_long_ago() -> None:
    with reserve() as r:
        with python("") as process:
            pass
        with pytest.raises(ServerExited):
            r.wait_listening(60, process)


def test_the_error_for_a_server_without_reuseaddr_says_so() -> None:
    with reserve() as r, python(BARE, str(r.port)) as process:
        with pytest.raises(ServerExited, match=r"assist=True") as caught:
            r.wait_listening(60, process)
    assert "Address already in use" in (caught.value.output or "")


def test_a_decoy_that_was_there_first_is_named_and_not_reuseaddr() -> None:
    with reserve() as r, r.listen(), python(BARE, str(r.port)) as process:
        process.wait()
        with pytest.raises((ServerExited, WrongListener)) as caught:
            r.wait_listening(60, process)
    assert f"(pid {os.getpid()}) listens on" in str(caught.value)
    assert "assist" not in str(caught.value)


def test_a_timeout_says_who_holds_and_that_the_process_runs() -> None:
    with reserve() as r, python(SLEEP) as process:
        with pytest.raises(TakeoverTimeout) as caught:
            r.wait_listening(0.05, process)
    reported = str(caught.value)
    if can_see_bound_inactive():
        assert f"this process (pid {os.getpid()}) holds [::]:{r.port}" in reported
    else:
        assert f"the kernel shows nobody; {HOLDERS_UNSEEN}" in reported
    assert f"pid {process.pid} " in reported
    assert "still runs" in reported
    assert isinstance(caught.value, TimeoutError)


def test_the_error_for_a_server_that_goes_on_trying_to_bind_says_so() -> None:
    source = f"""
try:
    exec({BARE!r})
except OSError as error:
    print(error, flush=True)
sys.stdin.read()
"""
    with reserve() as r, python(source, str(r.port)) as process:
        # Its output is there and not read, however long it took.
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        with pytest.raises(TakeoverTimeout, match=r"Its output says .*assist=True"):
            r.wait_listening(0.05, process)


def test_under_asyncio_the_loop_goes_on() -> None:
    async def main() -> int:
        with reserve() as r:
            turns = 0

            async def serve() -> asyncio.Server:
                nonlocal turns
                for _ in range(20):
                    turns += 1
                    await asyncio.sleep(0.001)
                return await asyncio.start_server(lambda r, w: None, *r.address)

            serving = asyncio.create_task(serve())
            found = await r.wait_listening_async(30)
            assert found.port == r.port
            server = await serving
            server.close()
            await server.wait_closed()
            return turns

    assert asyncio.run(main()) == 20


def test_under_asyncio_with_its_own_process() -> None:
    async def main() -> str:
        with reserve() as r:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "raise SystemExit(4)"
            )
            with pytest.raises(ServerExited) as caught:
                await r.wait_listening_async(60, process)
            assert await process.wait() == 4
            return str(caught.value)

    assert "status 4" in asyncio.run(main())


def test_under_trio() -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        with reserve() as r:
            listener = await trio.open_tcp_listeners(r.port, host="127.0.0.1")
            assert (await r.wait_listening_async(10)).pid == os.getpid()
            await listener[0].aclose()
            with pytest.raises(TakeoverTimeout):
                await r.wait_listening_async(0.02)

    trio.run(main)


@pytest.mark.parametrize("bad", [-1, float("nan"), "3", None, True])
def test_bad_timeouts(bad: object) -> None:
    with reserve() as r, pytest.raises((TypeError, ValueError), match="timeout must be"):
        r.wait_listening(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -3, "1", True])
def test_bad_processes(bad: object) -> None:
    with reserve() as r, pytest.raises((TypeError, ValueError), match="process must be"):
        r.wait_listening(1, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, 70000, -1])
def test_bad_ports(bad: int) -> None:
    with pytest.raises(ValueError, match="no port"):
        wait_listening(bad)


def test_no_descriptor_is_left() -> None:
    with reserve() as r, python(SLEEP) as process:
        before = set(os.listdir("/proc/self/fd"))
        for waited_for in (None, process):
            with pytest.raises(TakeoverTimeout):
                r.wait_listening(0.01, waited_for)
        assert set(os.listdir("/proc/self/fd")) == before


def test_a_pidfd_that_other_code_closes_ends_nobody() -> None:
    """As os.closerange() does. The number is another file by then, and stays open."""
    with reserve() as r, python(SLEEP) as process, Watch(r, process) as watch:
        assert watch.look() is None
        (pidfd,) = [
            int(name)
            for name in os.listdir("/proc/self/fd")
            if "pidfd" in os.path.realpath(f"/proc/self/fd/{name}")
        ]
        os.close(pidfd)
        other = os.open("/dev/zero", os.O_RDONLY)
        if other != pidfd:
            os.dup2(other, pidfd)
            os.close(other)
        assert watch.look() is None
        began = time.monotonic()
        watch.awaited.sleep(0.02)
        assert time.monotonic() - began >= 0.02
        process.communicate()
        with pytest.raises(ServerExited):
            watch.look()
        watch.awaited.close()
        assert os.read(pidfd, 1) == b"\0"
        os.close(pidfd)


def test_where_netlink_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A netlink protocol that nobody serves: refused as sock_diag would be.
    monkeypatch.setattr(sockets, "NETLINK_SOCK_DIAG", 31)
    with reserve() as r:
        with pytest.raises(TakeoverTimeout):
            r.wait_listening(0.1)
        with r.listen():
            assert r.wait_listening(10).pid == os.getpid()


class CollectedElsewhere(subprocess.Popen[bytes]):
    """Another thread has collected the exit status, and stores it a moment later."""

    asked = 0

    def poll(self) -> int | None:
        self.asked += 1
        if self.asked == 1:
            self.collected = os.waitpid(self.pid, 0)[1]
        if self.asked < 5:
            return None
        self.returncode = os.waitstatus_to_exitcode(self.collected)
        return self.returncode


def test_a_status_that_another_thread_collects() -> None:
    with reserve() as r:
        process = CollectedElsewhere([sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(ServerExited, match="exited with status 3") as caught:
            r.wait_listening(30, process)
        assert caught.value.returncode == 3

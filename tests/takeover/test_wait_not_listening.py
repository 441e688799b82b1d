"""Waiting until nobody listens, and the error that names who does."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from contextlib import AbstractContextManager

import pytest

from ephemport import (
    EphemportError,
    ReservationReleased,
    StillListening,
    reserve,
    reserve_many,
    wait_not_listening,
    wait_not_listening_async,
)
from tests.core.helpers import bound, eventually
from tests.takeover.started import started

# Longer than any test.
LONG = 600

LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("up", flush=True)
    sys.stdin.read()
"""
# Its child listens, and lives on after it.
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {LISTENS!r}, sys.argv[1]])
"""


def server(source: str, port: int) -> "AbstractContextManager[subprocess.Popen[str]]":
    return started(source, str(port))


def test_it_returns_when_nobody_listens() -> None:
    with reserve() as r:
        r.wait_not_listening(0)
        with server(LISTENS, r.port) as process:
            assert process.stdin is not None
            threading.Timer(0.05, process.stdin.close).start()
            r.wait_not_listening(LONG)
        wait_not_listening(r.port, 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", "::"])
def test_every_address_counts(address: str) -> None:
    with reserve() as r, bound(r.port, address, (socket.SO_REUSEADDR,)) as sock:
        r.wait_not_listening(0)
        sock.listen()
        with pytest.raises(StillListening) as caught:
            r.wait_not_listening(0.02)
    error = caught.value
    assert isinstance(error, (EphemportError, TimeoutError))
    assert (error.port, error.protocol) == (r.port, "tcp")
    assert error.diagnosis is not None
    where = f"[{address}]" if ":" in address else address
    assert str(error).startswith(
        f"port {r.port} (tcp) still has a listener after 0.02 s: this process (pid {os.getpid()}) "
        f"listens on {where}:{r.port} (tcp). Close the socket in this process"
    )


def test_udp_and_both() -> None:
    with reserve(protocol="udp", handoff="shadow") as r:
        r.wait_not_listening(0)
        with r.listen(), pytest.raises(StillListening, match=r"\(udp\) still has"):
            r.wait_not_listening(0.02)
    with reserve(protocol="both", handoff="shadow") as r, r.listen():
        with pytest.raises(StillListening, match=r"\(tcp and udp\) still has"):
            r.wait_not_listening(0.02)


def test_a_grandchild_that_lives_on_is_named() -> None:
    with reserve() as r, server(PARENT, r.port) as parent:
        child = r.wait_listening(30, parent).pid
        threading.Timer(0.05, parent.kill).start()
        with pytest.raises(StillListening) as caught:
            r.wait_not_listening(2, parent)
        parent.wait()
    text = str(caught.value)
    assert f"pid {child} (" in text
    assert f", which pid {parent.pid} (" in text
    assert (
        "started and which lives on after it. End that process, or wait longer (timeout=)" in text
    )
    assert "os.killpg(" in text


def test_a_process_that_had_ended_has_unknown_children() -> None:
    with reserve() as r, server(PARENT, r.port) as parent:
        child = r.wait_listening(30, parent).pid
        parent.kill()
        parent.wait()
        with pytest.raises(StillListening, match=f"pid {child} "):
            r.wait_not_listening(0.02, parent)


def test_the_next_server_is_not_the_one_that_stops() -> None:
    with reserve() as r, server(LISTENS, r.port) as first:
        second = None

        def restart() -> None:
            nonlocal second
            first.kill()
            first.wait()
            second = subprocess.Popen(
                [sys.executable, "-c", LISTENS, str(r.port)], stdin=subprocess.PIPE
            )

        restarting = threading.Timer(0.05, restart)
        restarting.start()
        r.wait_not_listening(LONG, first)
        restarting.join()
        assert second is not None
        assert r.wait_listening(30, second).pid == second.pid
        second.communicate()


def test_a_stranger_does_not_count_with_a_process_that_runs() -> None:
    with reserve() as r, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other, r.listen():
        r.wait_not_listening(0.02, other)
        with pytest.raises(StillListening):
            r.wait_not_listening(0.02)
        other.communicate()


def test_in_an_event_loop() -> None:
    async def main() -> None:
        with reserve() as r:
            running = await asyncio.start_server(print, *r.address)
            serving = asyncio.create_task(running.serve_forever())
            with pytest.raises(
                EphemportError, match=r"still listens on .* block the asyncio"
            ) as no:
                r.wait_not_listening(LONG)
            assert "Write 'await wait_not_listening_async(...)'" in str(no.value)
            with pytest.raises(EphemportError, match="block the asyncio event loop"):
                r.wait_not_listening(LONG, serving)
            with pytest.raises(StillListening):
                await r.wait_not_listening_async(0.02)
            asyncio.get_running_loop().call_later(0.05, running.close)
            await wait_not_listening_async(r, LONG)
            r.wait_not_listening(0)

    asyncio.run(main())


def test_a_thread_that_stops_while_the_loop_is_blocked() -> None:
    async def main() -> None:
        with reserve() as r:
            sock = r.listen()
            closing = threading.Timer(0.05, sock.close)
            closing.start()
            r.wait_not_listening(LONG)
            closing.join()

    asyncio.run(main())


def test_a_group_waits_for_all() -> None:
    with reserve_many(3) as group:
        group.wait_not_listening(0)
        with group[1].listen():
            with pytest.raises(StillListening) as caught:
                group.wait_not_listening(0.02)
            assert caught.value.port == group[1].port
            with pytest.raises(StillListening):
                asyncio.run(group.wait_not_listening_async(0.02))


def test_a_released_reservation_says_so() -> None:
    with reserve() as r:
        pass
    with pytest.raises(ReservationReleased, match="cannot wait for the end of a server on"):
        r.wait_not_listening(0)


def test_it_ends_nobody_and_leaves_nothing() -> None:
    with reserve() as r, server(LISTENS, r.port) as process:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(StillListening):
            r.wait_not_listening(0.02, process)
        assert set(os.listdir("/proc/self/fd")) == before
        assert process.poll() is None
        assert eventually(lambda: r.wait_listening(10, process))

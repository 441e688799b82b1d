"""A server in the test's own process: its thread, task or future, and the event loop it runs in."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ephemport
from ephemport import (
    EphemportError,
    Reservation,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
    reserve,
    wait_listening,
    wait_listening_async,
)
from ephemport._serving.thread_failures import failure_of, kept_failures
from tests.conftest import ROOT

# Longer than any test: an error comes at once, or the test is too slow to pass.
LONG = 600


class Broken(Exception):
    pass


@contextmanager
def at_once() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60


def serve_until(stop: threading.Event, reservation: Reservation) -> None:
    with reservation.listen():
        stop.wait(60)


@contextmanager
def thread(target: Callable[..., Any], *arguments: Any) -> Iterator[threading.Thread]:
    one = threading.Thread(target=target, args=arguments, name="the server's")
    one.start()
    try:
        yield one
    finally:
        one.join(60)


def test_a_thread_that_serves() -> None:
    stop = threading.Event()
    with reserve() as r, thread(serve_until, stop, r) as server:
        assert r.wait_listening(30, server).pid == os.getpid()
        stop.set()


def fail_when(go: threading.Event, cause: BaseException) -> None:
    go.wait(60)
    raise cause


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("cause", [Broken("no config"), SystemExit(3)], ids=["error", "exit"])
def test_a_thread_that_fails_is_reported_at_once_with_its_exception(cause: BaseException) -> None:
    go = threading.Event()
    with reserve() as r, thread(fail_when, go, cause) as server, at_once():
        threading.Timer(0.05, go.set).start()
        with pytest.raises(ServerExited) as caught:
            r.wait_listening(LONG, server)
    assert caught.value.__cause__ is cause
    assert caught.value.returncode is None
    assert caught.value.port == r.port
    assert str(caught.value) == (
        f'the thread "the server\'s" ended with {type(cause).__name__}: {cause} before it '
        f"listened on port {r.port}"
    )
    assert failure_of(server) is None


def test_the_thread_s_exception_still_reaches_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))
    go, cause = threading.Event(), Broken()
    with reserve() as r, thread(fail_when, go, cause) as server:
        threading.Timer(0.01, go.set).start()
        with pytest.raises(ServerExited, match="ended with Broken before"):
            r.wait_listening(LONG, server)
    assert seen == [cause]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_failed_before_the_wait_in_a_test() -> None:
    go, cause = threading.Event(), Broken("no config")
    go.set()
    with reserve() as r, thread(fail_when, go, cause) as server, at_once():
        server.join()
        with pytest.raises(ServerExited, match="ended with Broken: no config") as caught:
            r.wait_listening(LONG, server)
        assert caught.value.__cause__ is cause


def test_without_pytest_the_exception_of_an_ended_thread_is_unknown() -> None:
    source = """
import threading
from ephemport import ServerExited, reserve
server = threading.Thread(target=int, args=("no",))
server.start()
server.join()
with reserve() as r:
    try:
        r.wait_listening(process=server)
    except ServerExited as error:
        assert error.__cause__ is None
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert "ended before it listened" in done.stdout
    assert "invalid literal for int()" in done.stderr, "the hook has printed it"


def test_the_hook_is_put_back_also_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", before := threading.excepthook)
    with kept_failures():
        inner = threading.excepthook
        monkeypatch.setattr(threading, "excepthook", print)
    assert threading.excepthook is print
    monkeypatch.setattr(threading, "excepthook", inner)
    seen: list[object] = []
    with kept_failures():
        assert threading.excepthook is not inner
    assert threading.excepthook is inner
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with kept_failures(), thread(fail_when, (go := threading.Event()), Broken()) as failing:
        go.set()
        failing.join()
        assert isinstance(failure_of(failing), Broken)
    assert failure_of(failing) is None
    assert len(seen) == 1
    monkeypatch.setattr(threading, "excepthook", before)


def test_a_thread_that_ended_before_the_wait() -> None:
    with reserve() as r, thread(int) as server, at_once():
        server.join()
        with pytest.raises(ServerExited, match="ended before it listened"):
            r.wait_listening(LONG, server)


def test_a_thread_that_was_not_started_is_waited_for() -> None:
    stop = threading.Event()
    with reserve() as r:
        server = threading.Thread(target=serve_until, args=(stop, r))
        with pytest.raises(TakeoverTimeout, match="was not started"):
            r.wait_listening(0.01, server)
        threading.Timer(0.02, server.start).start()
        r.wait_listening(30, server)
        stop.set()
        server.join()


def test_a_thread_cannot_wait_for_itself() -> None:
    with reserve() as r, at_once(), pytest.raises(EphemportError, match="the thread that waits"):
        r.wait_listening(LONG, threading.current_thread())


def test_a_stranger_is_not_the_thread_s() -> None:
    go = threading.Event()
    server = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))"
    # In a session that is no descendant of this process: its parent ends at once.
    server += "; print(flush=True); sys.stdin.read()"
    source = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {server!r}, sys.argv[1]])
"""
    with reserve() as r, thread(go.wait, 60) as waits:
        with subprocess.Popen(
            [sys.executable, "-c", source, str(r.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as stranger:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "\n"
            stranger.wait()
            with pytest.raises(WrongListener, match=r"while the thread .* runs and does not"):
                r.wait_listening(LONG, waits)
        go.set()


def test_a_future_of_a_pool() -> None:
    stop = threading.Event()
    with reserve() as r, concurrent.futures.ThreadPoolExecutor() as pool:
        serving = pool.submit(serve_until, stop, r)
        assert r.wait_listening(30, serving).pid == os.getpid()
        stop.set()
    with reserve() as r, concurrent.futures.ThreadPoolExecutor() as pool, at_once():
        failing = pool.submit(int, "no")
        with pytest.raises(ServerExited, match="the Future ended with ValueError: inv") as caught:
            r.wait_listening(LONG, failing)
        assert caught.value.__cause__ is failing.exception()
        cancelled: concurrent.futures.Future[None] = concurrent.futures.Future()
        cancelled.cancel()
        with pytest.raises(ServerExited, match="was cancelled before it listened"):
            r.wait_listening(LONG, cancelled)


def serve_port(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        server.accept()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_future_of_a_pool_of_processes(method: str) -> None:
    context = multiprocessing.get_context(method)
    with reserve() as r, concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        serving = pool.submit(serve_port, r.port)
        assert r.wait_listening(60, serving).pid not in (None, os.getpid())
        socket.create_connection(r.address).close()


def test_a_process_of_multiprocessing() -> None:
    context = multiprocessing.get_context("fork")
    with reserve() as r, at_once():
        server = context.Process(target=serve_port, args=(r.port,))
        with pytest.raises(ValueError, match="process was not started"):
            r.wait_listening(LONG, server)
        server.start()
        assert r.wait_listening(30, server).pid == server.pid
        socket.create_connection(r.address).close()
        server.join()
        failing = context.Process(target=sys.exit, args=(3,))
        failing.start()
        failing.join()
        with pytest.raises(ServerExited, match="exited with status 3"):
            r.wait_listening(LONG, failing)


async def serve(reservation: Reservation) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), *reservation.address)
    async with server:
        await server.serve_forever()


async def fail(cause: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise cause


def test_under_asyncio_a_task_that_serves_fails_or_is_cancelled() -> None:
    async def main() -> None:
        with reserve() as r:
            serving = asyncio.create_task(serve(r))
            assert (await r.wait_listening_async(30, serving)).pid == os.getpid()
            # start_server() listens before it returns. Cancelled in between it leaves its socket.
            for _ in range(3):
                await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait([serving])
            cause = Broken("no config")
            failing = asyncio.create_task(fail(cause), name="web")
            with pytest.raises(ServerExited) as caught:
                await wait_listening_async(r, LONG, process=failing)
            assert caught.value.__cause__ is cause
            assert "the Task 'web' ended with Broken: no config" in str(caught.value)
            with pytest.raises(ServerExited, match="was cancelled"):
                await r.wait_listening_async(LONG, serving)
            # What starts the server and ends has not failed: the server listens.
            starting = asyncio.create_task(asyncio.start_server(print, *r.address))
            assert (await r.wait_listening_async(30, starting)).pid == os.getpid()
            (await starting).close()

    with at_once():
        asyncio.run(main())


def test_a_task_of_a_loop_in_another_thread() -> None:
    with reserve() as r:
        loop = asyncio.new_event_loop()
        with thread(loop.run_forever):
            serving = asyncio.run_coroutine_threadsafe(serve(r), loop)
            assert r.wait_listening(30, serving).pid == os.getpid()
            task = next(iter(asyncio.all_tasks(loop)))
            assert wait_listening(r, 30, process=task).pid == os.getpid()
            serving.cancel()
            loop.call_soon_threadsafe(loop.stop)
        loop.close()


ENV = {"PYTHONPATH": str(ROOT)}

IN_VAIN = "to wait here would block the {} event loop of this thread: "


@pytest.mark.parametrize("known", [True, False])
def test_the_wait_that_blocks_the_server_s_own_loop_is_refused(known: bool) -> None:
    async def main() -> None:
        with reserve() as r:
            serving = asyncio.create_task(serve(r))
            with pytest.raises(EphemportError, match=IN_VAIN.format("asyncio")) as caught:
                r.wait_listening(LONG, serving if known else None)
            assert type(caught.value) is EphemportError
            assert caught.value.port == r.port
            assert "Write 'await wait_listening_async(...)'" in str(caught.value)
            assert "SO_REUSEADDR" not in str(caught.value)
            await r.wait_listening_async(30, serving)
            # It is answered at once, so it blocks nothing.
            assert r.wait_listening(30, serving).pid == os.getpid()
            serving.cancel()

    with at_once():
        asyncio.run(main())


def test_a_callback_of_the_loop_blocks_it_too() -> None:
    async def main() -> None:
        with reserve() as r:
            serving = asyncio.create_task(serve(r))
            refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

            def wait() -> None:
                try:
                    r.wait_listening(LONG)
                except EphemportError as error:
                    refused.set_result(str(error))

            asyncio.get_running_loop().call_soon(wait)
            assert "to wait here would block the asyncio event loop" in await refused
            serving.cancel()

    with at_once():
        asyncio.run(main())


def test_code_that_the_loop_has_not_called_may_wait() -> None:
    """As with greenlets, of which one runs the loop: Playwright's sync API."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.sleep(60))
    asyncio._set_running_loop(loop)
    try:
        assert asyncio.get_running_loop() is loop
        with reserve() as r:
            with pytest.raises(TakeoverTimeout) as caught:
                r.wait_listening(0.02)
            assert "await" not in str(caught.value)
    finally:
        asyncio._set_running_loop(None)
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()


def test_this_process_is_no_answer_inside_its_loop() -> None:
    async def main() -> None:
        with reserve() as r, pytest.raises(EphemportError, match=r"pid \d+ is this process"):
            r.wait_listening(LONG, os.getpid())

    with at_once():
        asyncio.run(main())


def test_under_trio() -> None:
    trio = pytest.importorskip("trio")

    async def serve(reservation: Reservation) -> None:
        await trio.serve_tcp(print, reservation.port, host="127.0.0.1")

    async def main() -> None:
        with reserve() as r:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, r)
                with pytest.raises(EphemportError, match=IN_VAIN.format("trio")):
                    r.wait_listening(LONG)
                assert (await wait_listening_async(r, 30)).pid == os.getpid()
                assert r.wait_listening(30).pid == os.getpid()
                nursery.cancel_scope.cancel()

            async def sibling() -> None:
                with pytest.raises(EphemportError, match=IN_VAIN.format("trio")):
                    r.wait_listening(LONG)
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, r)
                nursery.start_soon(sibling)

    with at_once():
        trio.run(main)


SERVER = """
import socket, sys, time
time.sleep(0.05)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    sys.stdin.read()
"""


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("busy", [True, False])
def test_another_process_answers_while_the_loop_is_blocked(known: bool, busy: bool) -> None:
    """With a child process the server may be that, even if process= does not say so."""

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(60)) if busy else None
        with reserve() as r:
            server = r.popen([sys.executable, "-c", SERVER, "{port}"], stdin=subprocess.PIPE)
            assert r.wait_listening(30, server if known else None).pid == server.pid
            server.communicate()
        if other is not None:
            other.cancel()

    asyncio.run(main())


def test_a_thread_answers_while_the_loop_is_blocked() -> None:
    stop = threading.Event()

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        with reserve() as r, thread(serve_until, stop, r) as server:
            assert r.wait_listening(30, server).pid == os.getpid()
            stop.set()
        other.cancel()

    asyncio.run(main())


def test_a_wait_that_blocked_a_loop_in_vain_says_so() -> None:
    async def main() -> None:
        with reserve() as r, pytest.raises(TakeoverTimeout) as caught:
            r.wait_listening(0.05)
        assert "This wait has blocked the asyncio event loop of this thread" in str(caught.value)
        assert "Address already in use" not in str(caught.value)
        other = asyncio.create_task(asyncio.sleep(60))
        # Without time to wait nothing is blocked.
        with reserve() as r, pytest.raises(TakeoverTimeout, match="nothing listened"):
            r.wait_listening(0)
        other.cancel()

    asyncio.run(main())


def test_neither_asyncio_nor_trio_is_imported_for_it() -> None:
    source = """
import sys
from ephemport import TakeoverTimeout, reserve
with reserve() as r:
    try:
        r.wait_listening(0.01)
    except TakeoverTimeout:
        pass
assert not {"asyncio", "trio"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", source], check=True, cwd=ROOT)


def test_the_names_are_public() -> None:
    names = {"wait_listening_async", "wait_not_listening", "wait_not_listening_async"}
    assert names <= set(ephemport.__all__)


@pytest.mark.parametrize("bad", ["server.pid", object(), 1.5, b"1"])
def test_what_is_no_server_is_refused(bad: object) -> None:
    with reserve() as r, pytest.raises(TypeError, match="process must be a Popen"):
        r.wait_listening(1, bad)  # type: ignore[arg-type]

"""Wait until a server listens on a port, and check that it is the right one. Nothing connects."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import SupportsIndex

from ephemport._arguments import seconds
from ephemport._errors import ServerExited
from ephemport._looking.listeners import Listener
from ephemport._serving.awaited import ServerLike
from ephemport._serving.event_loop import async_sleep
from ephemport._serving.pace import FIRST_PAUSE, Pace
from ephemport._serving.watch import Watch

_TURNS_FOR_STATUS = 200


def wait_listening(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ServerLike | None = None,
) -> Listener:
    """Wait until a server listens on `port` (TCP) or is bound to it (UDP), and return who it is.

    The wait asks the kernel (sock_diag) and connects to nobody. So the server's log stays clean,
    and a server that listens and does not accept connections counts as listening.

    For a Reservation a server is up when a client of its `host` reaches it. So a server counts on
    that address itself, on the wildcard of its family, or, for IPv4, on `::` if it takes both
    families. A server on another address is waited on: 127.0.0.1, ::1 and 127.0.0.9 are three
    addresses. Of the host "0.0.0.0" or "::", only a server on the wildcard counts. A name such as
    "localhost" stands for every address that it has here (getaddrinfo()), and a server on any of
    them counts. Then a client that tries all addresses in turn gets through, as
    socket.create_connection(), browsers and curl do. For a client that tries only one, reserve
    with that address. For a plain int, a server on any address counts. With `process`, another
    process on any address that counts is the wrong one.

    In an event loop (asyncio, trio) this call blocks all tasks. If the server may be one of them,
    it raises EphemportError at once, unless the server listens already: use
    `wait_listening_async()` there.

        server = threading.Thread(target=serve, args=(r,))
        server.start()
        wait_listening(r, process=server)  # raises ServerExited at once if serve() fails

        r.popen(["redis-server", "--port", "{port}", "--daemonize", "yes", "--pidfile", path])
        wait_listening(r, process=Path(path))

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server. None: any listener counts. Otherwise only a listener of this server
            counts, and `process` is one of these:
            - A process: a Popen, the Process of multiprocessing, asyncio or psutil, or a pid. Its
              descendants count as well. After it has ended with status 0, so do the processes that
              it left in the session or process group that it leads (start_new_session=True).
            - A part of this process: a threading.Thread, an asyncio.Task, or a Future of asyncio
              or concurrent.futures. Then this process and its descendants count.
            - The Path of a pid file, for servers that daemonize. The wait includes the time until
              the file names a process that runs.

    Returns:
        The Listener that was found. With protocol "both" it is the UDP one. A port can have
        several: on different addresses, or where all set SO_REUSEPORT. `listeners()` lists them.

    Raises:
        TakeoverTimeout: Nothing listened on the port, where its clients reach it, within
            `timeout`.
        WrongListener: Another process listens there, alone or as well (only with `process`).
        ServerExited: The process, thread, task or future ended before it listened (only with
            `process`). Its exception is the `__cause__`: that of a task or future, and that of a
            thread that ended during the wait or, under pytest, in the same phase of the test.
        EphemportError: The process cannot be watched. Or this call would block the event loop in
            which the server runs.
        TypeError: An argument has the wrong type.
        ValueError: `port` is no port, `timeout` is no number of seconds, `process` is no pid, or
            it was not started.
        CallRefused: The kernel answers neither through netlink nor through /proc.
    """
    return wait([(port, process)], timeout)[0]


async def wait_listening_async(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ServerLike | None = None,
) -> Listener:
    """Do what `wait_listening()` does, in an event loop of asyncio or trio.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server, as for `wait_listening()`. None: any listener counts.

    Returns:
        The Listener that was found.

    Raises:
        TakeoverTimeout, WrongListener, ServerExited: These and all others as `wait_listening()`.
    """
    return (await wait_async([(port, process)], timeout))[0]


Wanted = Sequence[tuple[SupportsIndex, ServerLike | None]]


def wait(wanted: Wanted, timeout: float) -> list[Listener]:
    """Wait for the servers of several ports, each with its process or None, all in one time."""
    pace = Pace(seconds(timeout, "timeout"))
    with ExitStack() as stack:
        watches = [stack.enter_context(Watch(*one)) for one in wanted]
        waiting = watches
        for pause in pace.pauses():
            waiting = [watch for watch in waiting if watch.look() is None]
            if not waiting:
                break
            pace.cost = sum(watch.cost for watch in waiting)
            for watch in waiting:
                watch.check_it_may_block(pause)
            waiting[0].awaited.sleep(pause)
        for watch in waiting:
            raise watch.timed_out(timeout)
        return [watch.found for watch in watches if watch.found is not None]


async def wait_async(wanted: Wanted, timeout: float) -> list[Listener]:
    """`wait()` for an event loop."""
    pace = Pace(seconds(timeout, "timeout"))
    sleep = async_sleep()
    with ExitStack() as stack:
        watches = [stack.enter_context(Watch(*one)) for one in wanted]
        waiting = watches
        for pause in pace.pauses():
            for watch in waiting:
                try:
                    watch.look()
                except ServerExited as error:
                    # asyncio collects the exit status elsewhere, and reports it in a turn of the
                    # loop.
                    for _ in range(_TURNS_FOR_STATUS):
                        if getattr(watch.process, "returncode", 0) is not None:
                            break
                        await sleep(FIRST_PAUSE)
                    raise watch.exited() from error.__cause__
            waiting = [watch for watch in waiting if watch.found is None]
            if not waiting:
                break
            pace.cost = sum(watch.cost for watch in waiting)
            await sleep(pause)
        for watch in waiting:
            raise watch.timed_out(timeout)
        return [watch.found for watch in watches if watch.found is not None]

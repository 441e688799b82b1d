"""listeners(), holders(), diagnose(), wait_listening() and port_map, with anything."""

import concurrent.futures
import functools
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ephemport import (
    Reservation,
    ReservationGroup,
    diagnose,
    holders,
    listeners,
    port_map,
    reserve,
    reserve_many,
    wait_listening,
    wait_listening_async,
    wait_not_listening,
    wait_not_listening_async,
)
from tests.fuzz import values
from tests.fuzz.calls import Call, Calls, call_of, try_all, with_what_it_is_called_on
from tests.fuzz.conftest import Fuzz
from tests.fuzz.test_fuzz_reserving import GOOD


class HasPid:
    """What looks like a process, with a pid of any kind and perhaps more."""

    def __init__(self, pid: object, more: dict[str, object]) -> None:
        self.pid = pid
        vars(self).update(more)


class RaisingPid:
    @property
    def pid(self) -> int:
        raise values.Theirs("pid")


def ended() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process


def failed() -> "concurrent.futures.Future[None]":
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_exception(values.Theirs("failed"))
    return future


pids = st.one_of(
    st.sampled_from([1, 2, os.getpid(), 2**22 + 1, 2**31 - 1]), values.wrong_ints, values.anything
)
more = st.dictionaries(
    st.sampled_from(["poll", "returncode", "args", "stdout", "stderr"]),
    st.one_of(values.anything, st.sampled_from([lambda: 1, lambda: "x", lambda: None])),
    max_size=2,
)
processes = st.one_of(
    st.none(),
    st.builds(os.getpid),
    pids,
    st.builds(HasPid, pids, more),
    st.builds(RaisingPid),
    st.builds(ended),
    st.builds(threading.current_thread),
    st.builds(threading.Thread),
    st.builds(concurrent.futures.Future),
    st.builds(failed),
    st.sampled_from([Path("/nowhere.pid"), Path("/"), Path("/dev/null"), Path("a\0b")]),
)
some_port = st.one_of(values.ports, st.just(values.Number.LOW))


def with_server(timeout: Any, process: Any = None) -> None:
    """Waiting for a server that is up: for ever is as good as any other time."""
    with reserve() as reservation, reservation.listen(), socket.socket():
        wait_listening(reservation, timeout, process=process)


def on_reservation(name: str, **takes: Any) -> Call:
    method = getattr(Reservation, name)

    def call(_terms: dict[str, Any], **arguments: Any) -> Any:
        with reserve(**_terms) as reservation:
            run(getattr(reservation, name)(**arguments))

    return with_what_it_is_called_on(call_of(method, **takes), call, _terms=GOOD)


def on_group(name: str, **takes: Any) -> Call:
    method = getattr(ReservationGroup, name)

    def call(_count: int, **arguments: Any) -> Any:
        with reserve_many(_count) as group:
            run(getattr(group, name)(**arguments))

    return with_what_it_is_called_on(call_of(method, **takes), call, _count=st.integers(0, 3))


def run(found: Any) -> None:
    if hasattr(found, "send"):
        import asyncio

        asyncio.run(found)


def awaited(function: Any) -> Any:
    def call(**arguments: Any) -> None:
        run(function(**arguments))

    return functools.wraps(function)(call)


def environ(first: Any, second: Any) -> None:
    port_map.environ(first, second)


# A time that never ends only where somebody listens.
never_long = st.one_of(
    values.timeouts,
    st.sampled_from(
        [-1, values.Huge(-(10**5000)), True, float("nan"), -float("inf"), None, "1", b"1", [1]]
    ),
    st.builds(values.Falsy),
)


def bounded(call: Call) -> Call:
    return call._replace(
        takes={**call.takes, "timeout": never_long}, needed=call.needed | {"timeout"}
    )


WAITING = {"timeout": never_long, "process": processes}
WAITING_FOR_SEVERAL = {
    "timeout": never_long,
    "process": st.one_of(processes, st.lists(processes, max_size=3)),
}
LOOKING: Calls = {
    "listeners": call_of(listeners, port=some_port),
    "holders": call_of(holders, port=some_port),
    "diagnose": call_of(
        diagnose, port=some_port, protocol=values.protocols, elsewhere=st.just(False)
    ),
    "wait_listening": bounded(call_of(wait_listening, port=some_port, **WAITING)),
    "wait_listening (up)": call_of(
        with_server,
        timeout=st.one_of(values.timeouts, values.huge, values.floats, values.nan),
        process=processes,
    ),
    "Reservation.wait_listening": bounded(on_reservation("wait_listening", **WAITING)),
    "Reservation.wait_listening_async": bounded(on_reservation("wait_listening_async", **WAITING)),
    "wait_listening_async": bounded(
        call_of(awaited(wait_listening_async), port=some_port, **WAITING)
    ),
    "wait_not_listening": bounded(call_of(wait_not_listening, port=some_port, **WAITING)),
    "wait_not_listening_async": bounded(
        call_of(awaited(wait_not_listening_async), port=some_port, **WAITING)
    ),
    **{
        f"Reservation.{name}": bounded(on_reservation(name, **WAITING))
        for name in ("wait_not_listening", "wait_not_listening_async")
    },
    **{
        f"ReservationGroup.{name}": bounded(on_group(name, **WAITING_FOR_SEVERAL))
        for name in (
            "wait_listening",
            "wait_listening_async",
            "wait_not_listening",
            "wait_not_listening_async",
        )
    },
    "PortMap.__getitem__": call_of(port_map.__getitem__, port=some_port),
    "PortMap.as_written": call_of(port_map.as_written, value=values.texts),
    "PortMap.environ": call_of(environ, first=some_port, second=some_port),
    "PortMap.release": call_of(port_map.release),
}


def fuzz_looking() -> None:
    try_all(LOOKING, 200, port_map.release)


def test_looking(fuzz: Fuzz) -> None:
    fuzz(fuzz_looking)

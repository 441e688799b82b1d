"""When is it up? How long after a server's `listen()` each way of waiting notices it."""

import http.client
import itertools
import multiprocessing
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cells import DEFAULT_RANGE, Row, can_have_networks, die_with_parent, end, run_cell
from benchmarks.record import Record
from benchmarks.stats import ratios, spread
from ephemport import Reservation, TakeoverTimeout, reserve

NAME = "up"
TITLE = "When is it up?"
OURS = "wait_listening"
_SERVER = Path(__file__).with_name("web_server.py")
# When the server listens, in seconds after the waiting has begun.
_EARLIEST, _LATEST = 0.05, 0.3
_FIXED_SLEEP = 0.5
_PAUSES = (0.01, 0.05, 0.1)


def run(record: Record) -> None:
    network = None if can_have_networks() else DEFAULT_RANGE
    rounds = 6 if record.quick else 40
    record.step(NAME, f"{rounds} rounds of all ways to wait")
    for row in run_cell(after_listen, {"rounds": rounds}, network=network):
        record.add(NAME, row)
    rounds = 5 if record.quick else 30
    record.step(NAME, f"{rounds} rounds of all ways to the first answer")
    for row in run_cell(first_answer, {"rounds": rounds}, network=network):
        record.add(NAME, row)
    times = (1,) if record.quick else (5, 10)
    rounds = 1 if record.quick else 3
    record.step(NAME, f"{rounds} rounds of waiting in vain, {' and '.join(map(str, times))} s")
    for seconds, process in itertools.product(times, (False, True)):
        # A fresh interpreter each: what only the error imports is part of the price.
        arguments = {"seconds": seconds, "process": process}
        found = [row for _ in range(rounds) for row in run_cell(in_vain, arguments)]
        way = f"{seconds} s, {'with' if process else 'without'} process="
        spent = spread([row["processor"] for row in found])
        record.add(NAME, {"measure": "in vain", "way": way, "seconds": spent})


def in_vain(seconds: float, process: bool) -> Iterator[Row]:
    """The processor time of a wait that ends in TakeoverTimeout, its message included."""
    with reserve() as reservation, subprocess.Popen(["sleep", "60"]) as server:
        began = time.process_time()
        try:
            reservation.wait_listening(seconds, server if process else None)
        except TakeoverTimeout as error:
            str(error)
        yield {"processor": time.process_time() - began}
        server.kill()


def after_listen(rounds: int) -> Iterator[Row]:
    """Delay from `listen()` and processor time spent, for each way of waiting."""
    ways: dict[str, Callable[[Reservation], object]] = {
        OURS: lambda r: r.wait_listening(10),
        **{f"connect every {_ms(pause)}": partial(_connect, pause) for pause in _PAUSES},
        f"sleep {_FIXED_SLEEP} s": lambda _: time.sleep(_FIXED_SLEEP),
    }
    delays: dict[str, list[float]] = {way: [] for way in ways}
    busy: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        in_any_order = list(ways.items())
        random.shuffle(in_any_order)
        # The same in a round for all of them: it decides how long each waits.
        moment = random.uniform(_EARLIEST, _LATEST)
        for way, wait in in_any_order:
            with reserve() as reservation, _Server(reservation.port, moment) as server:
                processor, began = time.process_time(), time.monotonic()
                wait(reservation)
                now = time.monotonic()
                busy[way].append((time.process_time() - processor) / (now - began))
                delays[way].append(now - server.listened())
    for way in ways:
        yield {
            "measure": "delay",
            "way": way,
            "seconds": spread(delays[way]),
            "busy": spread(busy[way]),
        }


class _Server:
    """A forked process that listens after a moment, and says when it did."""

    def __init__(self, port: int, moment: float) -> None:
        context = multiprocessing.get_context("fork")
        self._ready, ready = context.Pipe(duplex=False)
        self._process = context.Process(target=_listen_after, args=(port, moment, ready))

    def __enter__(self) -> "_Server":
        self._process.start()
        self._ready.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._ready.close()

    def listened(self) -> float:
        """When `listen()` returned, on the clock that all processes share."""
        moment: float = self._ready.recv()
        return moment


def _listen_after(port: int, moment: float, ready: Any) -> None:
    die_with_parent()
    with socket.socket() as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(("127.0.0.1", port))
        ready.send(None)
        time.sleep(moment)
        service.listen()
        ready.send(time.monotonic())
        time.sleep(60)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)} ms"


def _connect(pause: float, reservation: Reservation) -> None:
    while True:
        with suppress(OSError), socket.create_connection(reservation.address, timeout=1):
            return
        time.sleep(pause)


class _Start(NamedTuple):
    """One way from a command to its first answer."""

    popen: Callable[[Reservation], "subprocess.Popen[bytes]"]
    wait: Callable[[Reservation], object]


def first_answer(rounds: int) -> Iterator[Row]:
    """From starting a web server to its first answer."""
    ways = {
        "activation": _Start(lambda r: r.popen(_web_server("activated"), activate=True), _at_once),
        "listen() and pass_fds": _Start(_pass_listener, _at_once),
        OURS: _Start(_bind_itself, lambda r: r.wait_listening(10)),
        **{
            f"connect every {_ms(pause)}": _Start(_bind_itself, partial(_connect, pause))
            for pause in _PAUSES
        },
        f"sleep {_FIXED_SLEEP} s": _Start(_bind_itself, lambda _: time.sleep(_FIXED_SLEEP)),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        in_any_order = list(ways.items())
        random.shuffle(in_any_order)
        for way, start in in_any_order:
            with reserve() as reservation:
                began = time.monotonic()
                server = start.popen(reservation)
                try:
                    start.wait(reservation)
                    _request(reservation)
                    times[way].append(time.monotonic() - began)
                finally:
                    end(server)
    for way in ways:
        yield {
            "measure": "first answer",
            "way": way,
            "seconds": spread(times[way]),
            "ratio": ratios(times[way], times[OURS]),
        }


def _at_once(_: Reservation) -> None:
    """The kernel queues who connects before the server runs."""


def _bind_itself(reservation: Reservation) -> "subprocess.Popen[bytes]":
    return reservation.popen(_web_server("{port}"))


def _pass_listener(reservation: Reservation) -> "subprocess.Popen[bytes]":
    with reservation.listen() as service:
        descriptor = service.fileno()
        return subprocess.Popen(_web_server(f"fd={descriptor}"), pass_fds=[descriptor])


def _web_server(where: str) -> list[str]:
    return [sys.executable, str(_SERVER), where]


def _request(reservation: Reservation) -> None:
    connection = http.client.HTTPConnection(*reservation.address, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    finally:
        connection.close()

"""Does it collide? Real servers, started a moment after their port was picked, on a busy machine.

Each worker picks a port, waits a random moment, as any server does between the two, starts an
asyncio server there and asks it for its name. Neighbours bind to port 0 and connect all the while.
Every peer has a network of its own, so that nobody inherits another's TIME_WAITs.
"""

import asyncio
import os
import random
import secrets
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from benchmarks.cells import (
    DEFAULT_RANGE,
    CellFailed,
    Row,
    background,
    can_have_networks,
    run_cell,
    together,
)
from benchmarks.neighbours import disturb
from benchmarks.peers import EPHEMPORT, LIMIT, installed, named, surroundings
from benchmarks.pickers import Picker
from benchmarks.record import Record

NAME = "collide"
TITLE = "Does it collide?"
RANGES = {"default": DEFAULT_RANGE, "200-port": (40000, 40199)}
# Mean seconds between two actions of a neighbour.
RESTS = {"without rest": 0.0, "5 ms rests": 0.005}

_WORKERS = 4
_NEIGHBOURS = 2
_MEAN_GAP = 0.005
_MEAN_UPTIME = 0.002
_LONGEST_PICK = 2.0
_LONGEST_ANSWER = 1.0
_NAME_LENGTH = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def run(record: Record) -> None:
    refused = can_have_networks()
    if refused is not None:
        record.leave_out(NAME, f"needs network namespaces: {refused}")
        return
    starts, passes = (100, 1) if record.quick else (1000, 2)
    rests = ["without rest"] if record.quick else list(RESTS)
    competitors = [peer for peer in installed() if peer is not LIMIT]
    for turn in range(passes):
        for rest in rests:
            for span in RANGES:
                for peer in competitors:
                    record.step(NAME, f"{peer.name}, {span} range, neighbours {rest}, {turn + 1}")
                    # Fewer of port-for's: 15 ms of one processor for each port.
                    fewer = 4 if peer.most < 5 else 1
                    arguments = {
                        "peer": peer.name,
                        "starts": starts // fewer,
                        "rest": RESTS[rest],
                    }
                    labels = {"peer": peer.name, "range": span, "rest": rest}
                    try:
                        for row in run_cell(cell, arguments, network=RANGES[span]):
                            record.add(NAME, {**labels, **row})
                    except CellFailed as error:
                        if peer is EPHEMPORT:
                            raise
                        record.leave_out(f"{NAME}, {peer.name}, {span}", str(error))


def cell(peer: str, starts: int, rest: float) -> Iterator[Row]:
    """What became of `starts` servers."""
    competitor = named(peer)
    with ExitStack() as stack:
        around = stack.enter_context(surroundings(competitor))
        for _ in range(_NEIGHBOURS):
            stack.enter_context(background(disturb, rest))

        def worker(number: int) -> Row:
            os.environ["PYTEST_XDIST_WORKER"] = f"gw{number}"
            return asyncio.run(_work(competitor.load(around), starts // _WORKERS))

        counts: Counter[str] = Counter()
        began = time.perf_counter()
        for row in together([partial(worker, number) for number in range(_WORKERS)]):
            counts.update(row)
        kinds = ("starts", "failed_picks", "failed_starts", "wrong_answers")
        seconds = time.perf_counter() - began
    yield {**{kind: counts[kind] for kind in kinds}, "seconds": seconds}


async def _work(picker: Picker, starts: int) -> Row:
    counts: Counter[str] = Counter(starts=starts)
    # Not the same gaps in all workers.
    chance = random.Random(secrets.randbits(64))
    for _ in range(starts):
        try:
            with _no_longer_than(_LONGEST_PICK):
                port = picker.take()
        except Exception:
            counts["failed_picks"] += 1
            continue
        await asyncio.sleep(chance.expovariate(1 / _MEAN_GAP))
        await _serve(port, counts, chance.expovariate(1 / _MEAN_UPTIME))
        picker.give_back(port)
    return dict(counts)


async def _serve(port: int, counts: Counter[str], uptime: float) -> None:
    name = secrets.token_bytes(_NAME_LENGTH)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _reset_on_close(writer)
        writer.write(name)
        with suppress(OSError):
            await writer.drain()

    server: asyncio.Server | None = None
    try:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
    except OSError:
        counts["failed_starts"] += 1
    # A client does not know that the start has failed; it asks whoever is there.
    answered = await _ask(port)
    if answered is not None and answered != name:
        counts["wrong_answers"] += 1
    if server is not None:
        await asyncio.sleep(uptime)
        server.close()


async def _ask(port: int) -> bytes | None:
    """The name that the server on `port` says; None when nobody answers."""
    writer = None
    try:
        async with asyncio.timeout(_LONGEST_ANSWER):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            _reset_on_close(writer)
            return await reader.readexactly(_NAME_LENGTH)
    except (OSError, asyncio.IncompleteReadError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    # Connections that end in TIME_WAIT would use up 200 ports in no time, whoever picked them.
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

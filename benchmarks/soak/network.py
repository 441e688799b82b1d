"""One network of the soak: workers beside the benchmark's neighbours, and somebody who looks on."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.cells import Row, background, die_with_parent
from benchmarks.collide import RESTS
from benchmarks.neighbours import disturb
from benchmarks.soak.books import Books, Enough
from benchmarks.soak.events import EVENTS, take
from benchmarks.soak.ledger import Claims, Count, Promise, Tally
from ephemport._kernel.port_range import ephemeral_range
from ephemport._kernel.processes import command_line, descendants, owners
from ephemport._kernel.sockets import SocketRecord, State, read_sockets

# Ports that neighbours, children and clients need beside those that the workers keep.
_FOR_OTHERS = 80
_LARGEST_GROUP = 3
_MOST_KEPT = 12
_LOOK_EVERY = 1.0
# A socket that a process is about to get or to close has no owner for a moment, in no two looks.
_LOOKS = 3
_STANDS_STILL = 150.0
# More than there are workers' places, or events: seeds that differ by it never meet.
_FAR = 1 << 40


@dataclass(frozen=True)
class Task:
    """What one worker shall do: so many starts, but none after the end."""

    seed: int
    starts: int | None
    end: float | None
    most: int


def cell(seed: int, workers: int, starts: int | None, seconds: float | None) -> Iterator[Row]:
    """How far it is, every second; the last row is the end. To be run in a network of its own.

    starts: how many by all workers together. seconds: no longer than that.
    """
    ports = ephemeral_range()
    with ExitStack() as stack:
        for rest in RESTS.values():
            stack.enter_context(background(disturb, rest))
        crew = stack.enter_context(Crew(workers))
        for number in range(workers):
            task = Task(
                seed=seed * _FAR + ports.start * workers + number,
                starts=None if starts is None else share_of(starts, workers, number),
                end=None if seconds is None else crew.began + seconds,
                most=min(_MOST_KEPT, (len(ports) - _FOR_OTHERS) // (workers * _LARGEST_GROUP)),
            )
            crew.start(number, task)
        while crew.at_work():
            crew.look_for_sockets_of_nobody()
            yield crew.row()
    crew.look_for_what_is_left()
    yield {**crew.row(), "done": True}


def share_of(whole: int, parts: int, number: int) -> int:
    """The `number`th of so many parts that differ by one at most."""
    return whole * (number + 1) // parts - whole * number // parts


class Crew:
    """The workers of a network: what they report, whether they move, what they leave."""

    def __init__(self, workers: int) -> None:
        self.began = time.monotonic()
        self._context = multiprocessing.get_context("fork")
        self._tally = Tally(workers)
        self._claims = Claims()
        self._processes: list[Any] = []
        self._at_work: dict[Connection, int] = {}
        self._moved = [(0, self.began)] * workers
        self._faults: list[Row] = []
        self._ends: list[Row] = []
        self._of_nobody: dict[int, int] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def start(self, number: int, task: Task) -> None:
        reader, writer = self._context.Pipe(duplex=False)
        row = self._tally.row(number)
        process = self._context.Process(target=_work, args=(task, self._claims, row, writer))
        process.start()
        # End of file shall mean that the worker has ended.
        writer.close()
        self._processes.append(process)
        self._at_work[reader] = number

    def at_work(self) -> bool:
        """Listen to the workers until the next look is due; False when all have ended."""
        until = time.monotonic() + _LOOK_EVERY
        while self._at_work and (left := until - time.monotonic()) > 0:
            for reader in wait(list(self._at_work), left):
                assert isinstance(reader, Connection)
                self._hear(reader)
        self._look_who_stands_still()
        return bool(self._at_work)

    def row(self) -> Row:
        return {
            "seconds": time.monotonic() - self.began,
            "counts": {
                count.name.lower(): self._tally.total(count)
                for count in Count
                if count is not Count.EVENT
            },
            "faults": self._faults,
            "ends": self._ends,
            "done": False,
        }

    def look_for_sockets_of_nobody(self) -> None:
        """A socket that no process has open, time and again, is left behind."""
        records = {record.inode: record for record in _bound_sockets()}
        owned = owners(records, within=descendants(os.getpid()))
        seen = self._of_nobody
        self._of_nobody = {inode: seen.get(inode, 0) + 1 for inode in records if inode not in owned}
        for inode, times in self._of_nobody.items():
            if times == _LOOKS:
                self._broken(Promise.LEFT_BEHIND, f"no process has {_told(records[inode])} open")

    def look_for_what_is_left(self) -> None:
        """When workers and neighbours have ended, no socket is bound any more."""
        records = {record.inode: record for record in _bound_sockets()}
        whose = owners(records)
        for inode, record in records.items():
            pids = whose.get(inode, ())
            who = ", ".join(f"pid {pid} ({command_line(pid)})" for pid in pids) or "no process"
            self._broken(Promise.LEFT_BEHIND, f"at the end {who} has {_told(record)} open")

    def _hear(self, reader: Connection) -> None:
        worker = self._at_work[reader]
        try:
            said: Row = reader.recv()
        except EOFError:
            self._broken(Promise.UNEXPECTED, "the worker ended without a word", worker)
        else:
            if "promise" in said:
                self._faults.append({"worker": worker, **said})
                return
            self._ends.append({"worker": worker, **said})
            self._ends.sort(key=lambda end: end["worker"])
        reader.close()
        del self._at_work[reader]

    def _look_who_stands_still(self) -> None:
        now = time.monotonic()
        for reader, worker in list(self._at_work.items()):
            events = self._tally.row(worker)[Count.EVENTS]
            before, since = self._moved[worker]
            if events != before:
                self._moved[worker] = (events, now)
            elif now - since > _STANDS_STILL:
                self._broken(
                    Promise.UNEXPECTED, f"the worker stands still for {now - since:.0f} s", worker
                )
                self._processes[worker].kill()
                reader.close()
                del self._at_work[reader]

    def _broken(self, promise: Promise, what: str, worker: int | None = None) -> None:
        fault: Row = {"promise": promise, "what": what, "worker": worker}
        if worker is not None:
            row = self._tally.row(worker)
            fault |= {"event": row[Count.EVENTS], "kind": kind_of_event(row)}
        self._faults.append(fault)


def _work(task: Task, claims: Claims, row: memoryview, writer: Connection) -> None:
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    chance = random.Random()
    books = Books(
        claims=claims,
        row=row,
        most=task.most,
        chance=chance,
        report=lambda fault: writer.send({**fault, "kind": kind_of_event(row)}),
    )
    # What a signal cut off may be dropped unclosed. What stays open, the books find.
    warnings.simplefilter("ignore", ResourceWarning)
    _report_what_is_only_printed(books)
    events, weights = list(EVENTS), list(EVENTS.values())
    with suppress(Enough):
        while (task.starts is None or row[Count.STARTS] < task.starts) and (
            task.end is None or time.monotonic() < task.end
        ):
            # Each event by its own seed: what went otherwise than the last time, by a signal or a
            # neighbour, changes none of the later ones.
            chance.seed(task.seed * _FAR + row[Count.EVENTS])
            position = chance.choices(range(len(events)), weights)[0]
            books.next_event(position)
            try:
                if not books.kept:
                    take(books)
                events[position](books)
            except Enough:
                raise
            except Exception as error:
                books.surprised(error)
    writer.send(books.close())


def _report_what_is_only_printed(books: Books) -> None:
    """Errors in finalizers and in threads break no program, and should not happen either."""

    def report(args: Any) -> None:
        where = getattr(args, "object", None) or getattr(args, "thread", None)
        with suppress(Enough):
            books.broken(
                Promise.UNEXPECTED, f"{args.exc_type.__name__}: {args.exc_value} (in {where!r})"
            )

    sys.unraisablehook = threading.excepthook = report


def kind_of_event(row: memoryview) -> str:
    return list(EVENTS)[row[Count.EVENT]].__name__


def _bound_sockets() -> list[SocketRecord]:
    tcp = read_sockets("tcp", {State.LISTEN, State.BOUND_INACTIVE})
    return tcp + read_sockets("udp", {State.CLOSE})


def _told(record: SocketRecord) -> str:
    return f"{record.protocol} {record.address} port {record.port} (inode {record.inode})"

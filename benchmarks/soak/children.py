"""What happens to a worker in which other processes have a part: most of them are killed."""

import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.cells import die_with_parent
from benchmarks.soak.books import TERMS, Books, places
from benchmarks.soak.ledger import Count, OwnSocket, Promise, own_sockets
from benchmarks.soak.servers import any_server, start_server
from ephemport import EphemportError, Reservation, adopt, reserve, wait_listening
from ephemport._kernel.sockets import State, read_sockets

_PATIENCE = 60.0
_MOST_HELD = 3
_STATES = {"tcp": {State.LISTEN, State.BOUND_INACTIVE}, "udp": {State.CLOSE}}

Answer = dict[str, Any]


class Child:
    """A forked process that has done its work and waits to be killed."""

    def __init__(self, pid: int, said: int) -> None:
        self.pid = pid
        self._said = said

    def answer(self) -> Answer:
        """What its work came to. Raises RuntimeError when it says nothing."""
        text = b""
        while not text.endswith(b"\n"):
            if not select.select([self._said], [], [], _PATIENCE)[0]:
                raise RuntimeError(f"a forked child said nothing for {_PATIENCE:.0f} s")
            more = os.read(self._said, 65536)
            if not more:
                raise RuntimeError("a forked child ended without a word")
            text += more
        said: Answer = json.loads(text)
        return said


def crash(books: Books) -> None:
    """A server in a process of its own is killed, and comes back on the port that is held."""
    chosen = books.choose(lambda kept, one: one.protocol != "udp" and one.handoff == "takeover")
    if chosen is None:
        return
    kept, reservation = chosen
    kept.close_servers()
    for _ in range(books.chance.choice((1, 1, 2))):
        _run_until_killed(books, reservation)
    books.count(Count.RESTARTS)
    books.start(kept, reservation)


def _run_until_killed(books: Books, reservation: Reservation) -> None:
    server = any_server(books.chance)
    waits = books.chance.random() < 0.5

    def serve() -> Answer:
        _left_open.append(server.start(reservation.port, "tcp"))
        return {}

    books.count(Count.STARTS)
    books.count(Count.CRASHES)
    with _child(books, serve) as child:
        waited: object = None
        if waits:
            try:
                wait_listening(reservation.port, _PATIENCE, process=child.pid)
            except EphemportError as error:
                waited = error
        failure = child.answer().get("failure") or waited
        if failure:
            books.not_started(reservation, failure)


def kill_holder(books: Books) -> None:
    """A process that holds ports is killed: they are free at once."""
    asked = [books.chance.choice(TERMS) for _ in range(books.chance.randint(1, _MOST_HELD))]

    def hold() -> Answer:
        held = [reserve(**terms) for terms in asked]
        _left_open.extend(held)
        taken = [
            f"{protocol} {port} was given to a process and is pid {owner}'s"
            for one in held
            for protocol, port in places(one)
            if (owner := books.claims.take(protocol, port)) is not None
        ]
        if held[0].handoff != "shadow":
            _left_open.append(start_server(held[0], books.chance))
        return {"sockets": own_sockets(), "taken": taken}

    books.count(Count.HOLDERS_KILLED)
    with _child(books, hold) as child:
        answer = child.answer()
        if answer.get("failure"):
            books.broken(Promise.LOST, f"a process that reserves and serves: {answer['failure']}")
    for twice in answer.get("taken", ()):
        books.broken(Promise.DOUBLE, twice)
    _check_gone(books, "a holder was killed", answer.get("sockets", ()))


def fork(books: Books) -> None:
    """A child lives on after its parent has let go of a port: it has kept nothing of it."""
    kept = books.chance.choice(books.kept)
    sockets = books.sockets_of(kept)

    def look() -> Answer:
        held = [repr(one.whole) for one in books.kept if not one.whole.released]
        return {"held": held, "sockets": own_sockets()}

    books.count(Count.FORKS)
    with _child(books, look) as child:
        answer = child.answer()
        for one in answer.get("sockets", ()):
            books.broken(Promise.LEFT_BEHIND, f"{OwnSocket(*one)} is open in a forked child")
        for one in (*answer.get("held", ()), *filter(None, [answer.get("failure")])):
            books.broken(Promise.LEFT_BEHIND, f"in a forked child: {one}")
        books.drop(kept)
        _check_gone(books, "released while a forked child lives", sockets)


def share(books: Books) -> None:
    """Another process adopts a reservation and serves there, and is killed."""
    chosen = books.choose(lambda kept, one: kept.whole is one)
    if chosen is None:
        return
    kept, reservation = chosen
    kept.close_servers()
    token = reservation.share()
    books.give_up(kept)

    def take() -> Answer:
        mine = adopt(token)
        _left_open.append(mine)
        taken = [books.claims.take(*place) for place in places(mine)]
        if mine.handoff != "shadow":
            _left_open.append(start_server(mine, books.chance))
        return {"sockets": own_sockets(), "taken": [one for one in taken if one is not None]}

    books.count(Count.SHARED)
    with _child(books, take) as child:
        answer = child.answer()
        if answer.get("failure"):
            books.broken(Promise.LOST, f"adopting {reservation!r}: {answer['failure']}")
        elif not reservation.released:
            books.broken(Promise.DOUBLE, f"{reservation!r} was adopted by pid {child.pid}")
        for owner in answer.get("taken", ()):
            books.broken(Promise.DOUBLE, f"{reservation!r} was adopted, and is pid {owner}'s")
    reservation.release()
    _check_gone(books, "its adopter was killed", answer.get("sockets", ()))


# What a child keeps open until it is killed.
_left_open: list[object] = []


@contextmanager
def _child(books: Books, work: Callable[[], Answer]) -> Iterator[Child]:
    """A forked process that does `work`; killed at the end of the block, and gone behind it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(books, work, writing)
    os.close(writing)
    try:
        yield Child(pid, reading)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_child(books: Books, work: Callable[[], Answer], writing: int) -> None:
    try:
        die_with_parent()
        # Copies of the parent's servers, which would listen on when the parent's are closed.
        for kept in books.kept:
            kept.close_servers()
        try:
            answer = work()
        except Exception as error:
            answer = {"failure": f"{type(error).__name__}: {error}"}
        os.write(writing, json.dumps(answer).encode() + b"\n")
        # wait_listening() shall see that a server which did not start has ended.
        while not answer.get("failure"):
            signal.pause()
    finally:
        os._exit(1)


def _check_gone(books: Books, why: str, sockets: Iterable[Any]) -> None:
    """Nothing of these sockets is left, now."""
    for protocol, port, inode in sockets:
        if _is_free(protocol, port):
            continue
        # Somebody else may have been given the port meanwhile.
        for record in read_sockets(protocol, _STATES[protocol], port=port):
            if record.inode == inode:
                books.broken(
                    Promise.LEFT_BEHIND,
                    f"{protocol} {port} (inode {inode}) is still bound although {why}",
                )


def _is_free(protocol: str, port: int) -> bool:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6, kind) as sock:
        try:
            sock.bind(("::", port))
        except OSError:
            return False
    return True

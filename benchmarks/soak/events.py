"""What happens to a worker's reservations: each event is a function, EVENTS says how often."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from benchmarks.soak.books import TERMS, Books, Enough
from benchmarks.soak.children import crash, fork, kill_holder, share
from benchmarks.soak.ledger import Count, Promise
from benchmarks.soak.servers import reached
from ephemport import (
    PortsExhausted,
    PortUnavailable,
    Reservation,
    ReservationGroup,
    reserve,
    reserve_many,
    wait_listening,
)

T = TypeVar("T")

# A signal is sent between 2 and 200 us after the call began, early more often than late: the call
# takes some 10 us, and several times that on a busy machine.
_EARLIEST_SIGNAL, _LATEST_SIGNAL = 2e-6, 200e-6
_PATIENCE = 30.0


def take(books: Books) -> None:
    """Reserve one port."""
    books.make_room()
    books.keep(reserve(**books.chance.choice(TERMS)))


def take_again(books: Books) -> None:
    """Release a port and reserve it again, or any other if somebody was quicker."""
    kept = books.chance.choice(books.kept)
    port = kept.reservations[0].port
    books.drop(kept)
    books.keep(reserve(port=[port, 0]))


def take_many(books: Books) -> None:
    """Reserve several ports at once, in a row or not."""
    books.make_room()
    count, contiguous = books.chance.randint(2, 3), books.chance.random() < 0.5
    books.count(Count.GROUPS)
    try:
        books.keep(reserve_many(count, contiguous=contiguous))
    except PortsExhausted:
        if not contiguous:
            raise
        # In a range that is two thirds full, three neighbours are not always free.
        books.count(Count.NO_ROW)


def take_held(books: Books) -> None:
    """Ask for a port that is held: refused, and never given."""
    kept = books.chance.choice(books.kept)
    protocol, port = kept.places[0]
    books.count(Count.REFUSED)
    try:
        second = reserve(protocol=protocol, port=port)
    except PortUnavailable:
        return
    second.release()
    books.broken(Promise.DOUBLE, f"{protocol} {port} is held and was reserved once more")


def start(books: Books) -> None:
    """Start a server, or restart it."""
    kept = books.chance.choice(books.kept)
    books.start(kept, books.chance.choice(kept.reservations))


def ask(books: Books) -> None:
    """Wait for a server and connect to it."""
    chosen = books.choose(lambda kept, one: ("tcp", one.port) in kept.servers)
    if chosen is None:
        return
    kept, reservation = chosen
    books.count(Count.ASKED)
    # Of "both" it is the TCP port that has a server.
    listener = wait_listening(reservation.port, _PATIENCE, process=os.getpid())
    wrong = reached(kept.servers[("tcp", reservation.port)])
    if listener.pid != os.getpid():
        wrong = f"instead of this process {listener}"
    if wrong is not None:
        books.broken(Promise.DOUBLE, f"{reservation!r}: {wrong}")


def let_go(books: Books) -> None:
    """Release what one call has reserved."""
    books.drop(books.chance.choice(books.kept))


def interrupt_reserve(books: Books) -> None:
    """A signal handler raises in the midst of reserve(): held, or nothing left."""
    books.make_room()
    terms = books.chance.choice(TERMS)
    given: Reservation | ReservationGroup | None
    if books.chance.random() < 0.7:
        given = _interrupted(books, lambda: reserve(**terms))
    else:
        given = _interrupted(books, lambda: reserve_many(2, **terms))
    if given is not None:
        books.keep(given)
    _nothing_is_left(books)


def interrupt_release(books: Books) -> None:
    """A signal handler raises in the midst of release(): once more, and nothing is left."""
    kept = books.chance.choice(books.kept)
    kept.close_servers()
    books.give_up(kept)
    _interrupted(books, kept.whole.release)
    kept.whole.release()
    _nothing_is_left(books)


def audit(books: Books) -> None:
    """Compare all that is open with the books."""
    books.audit()


# By how many in the sum of all. An event that finds nothing to happen to passes.
EVENTS: dict[Callable[[Books], None], int] = {
    start: 500,
    take: 150,
    take_again: 30,
    take_many: 30,
    take_held: 3,
    let_go: 100,
    ask: 50,
    crash: 10,
    kill_holder: 6,
    fork: 8,
    share: 6,
    interrupt_reserve: 20,
    interrupt_release: 10,
    audit: 8,
}


class Interrupted(Exception):
    """What the signal handler raises."""


_armed = False


def _ring(number: int, frame: FrameType | None) -> None:
    if _armed:
        raise Interrupted


def _interrupted(books: Books, call: Callable[[], T]) -> T | None:
    """Call with a signal on its way; what was returned, None if it was cut short."""
    global _armed
    books.count(Count.SIGNALS)
    signal.signal(signal.SIGALRM, _ring)
    after = _EARLIEST_SIGNAL * (_LATEST_SIGNAL / _EARLIEST_SIGNAL) ** books.chance.random()
    returned: T | None = None
    try:
        _armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            returned = call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _armed = False
    except Interrupted:
        _armed = False
        books.count(Count.SIGNALS_RAISED)
    except Exception as error:
        books.surprised(error)
    return returned


def _nothing_is_left(books: Books) -> None:
    """Neither a socket nor a lock stays behind a call that a signal cut short."""
    books.look()
    thread = threading.Thread(target=lambda: reserve().release(), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        books.broken(
            Promise.LEFT_BEHIND,
            f"after a signal no other thread can reserve for {_PATIENCE:.0f} s: a lock is taken",
        )
        raise Enough

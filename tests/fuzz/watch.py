"""What may come out of a call, and what may be left of it: documented errors, and nothing."""

import dis
import faulthandler
import gc
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import ephemport
from ephemport import EphemportError, reserve
from ephemport._kernel.sockets import State, read_sockets
from tests.core.helpers import eventually, open_descriptors
from tests.fuzz.effort import FACTOR
from tests.fuzz.values import Theirs

PATIENCE = 120.0 * FACTOR
# A message is read by people, whatever was passed.
_LONGEST_MESSAGE = 10_000

_MOST_MEMORY = 4 << 30
_HOME = str(Path(ephemport.__file__).parent)
_QUIET = (State.TIME_WAIT,)


class Origin(Enum):
    """Where an error was raised."""

    OURS = "by a statement of ephemport"
    WITHIN = "by what a statement of ephemport called, in C"
    ELSEWHERE = "by Python code that ephemport called"


def origin_of(error: BaseException) -> Origin:
    """Where the error was raised, by the innermost frame that it came through."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if not code.co_filename.startswith(_HOME):
        return Origin.ELSEWHERE
    at = {one.offset: one.opname for one in dis.get_instructions(code)}
    return Origin.OURS if at.get(trace.tb_lasti) == "RAISE_VARARGS" else Origin.WITHIN


def check_documented(
    error: BaseException, also: tuple[type[BaseException], ...] = (), *, lenient: bool = False
) -> None:
    """Fail for an error that no docstring names, or that says nothing of the matter.

    TypeError and ValueError count where ephemport raises them itself: Python's own say what went
    wrong inside. `also` are those that a call is documented to pass on from elsewhere. `lenient`
    does not ask where it was raised.
    """
    # Python's own warnings of what was passed are errors here (-W error).
    also = (*also, Warning) if lenient else also
    origin = Origin.OURS if lenient else origin_of(error)
    if isinstance(error, Theirs) or (isinstance(error, also) and origin is not Origin.WITHIN):
        return
    ours = type(error) in (TypeError, ValueError) and origin is Origin.OURS
    if not ours and not isinstance(error, EphemportError):
        raise AssertionError(f"not documented: {type(error).__name__}: {error!s:.500}") from error
    with suppress(Theirs):
        text = str(error)
        assert text.strip(), "no message"
        assert len(text) < _LONGEST_MESSAGE, f"{len(text)} letters: {text[:300]}"


@contextmanager
def only_documented(
    also: tuple[type[BaseException], ...] = (), *, lenient: bool = False
) -> Iterator[None]:
    """Let pass what a call may raise."""
    try:
        yield
    except Exception as error:
        check_documented(error, also, lenient=lenient)
        # It holds the frames, and they the objects.
        error.__traceback__ = None


def bound_now() -> set[tuple[str, int]]:
    """Every port of this network that somebody is bound to, connections that end not counted."""
    tcp = read_sockets("tcp", [state for state in State if state not in _QUIET])
    udp = read_sockets("udp", [State.CLOSE, State.ESTABLISHED])
    return {(one.protocol, one.port) for one in (*tcp, *udp)}


class Watch:
    """What there was before the first example, and must be after each."""

    def __init__(self) -> None:
        self.unraisable: list[str] = []
        sys.unraisablehook = self._note
        threading.excepthook = self._note
        self._warm_up()
        self._before = self._now()

    def _note(self, unraisable: Any) -> None:
        self.unraisable.append(f"{unraisable.exc_type.__name__}: {unraisable.exc_value}")

    def _warm_up(self) -> None:
        """What is opened once in a process and stays."""
        for protocol in ("tcp", "udp", "both"):
            reserve(protocol=protocol).release()

    def _now(self) -> tuple[Any, ...]:
        return (open_descriptors(), bound_now(), threading.active_count())

    def check(self) -> None:
        """Fail if something is left: a descriptor, a port, a thread, an error that nobody saw."""
        if self._now() != self._before:
            # Something in a circle. It may not hold a port: that would be said on the way.
            gc.collect()
        with suppress(AssertionError):
            eventually(lambda: self._now() == self._before)
        assert self._now() == self._before, f"{self._now()}\n before: {self._before}"
        assert not self.unraisable, self.unraisable

    def check_lock(self) -> None:
        """Fail if some call has left the lock taken: then no other thread can reserve."""
        thread = threading.Thread(target=lambda: reserve().release(), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the lock was left taken"


@contextmanager
def nothing_hangs() -> Iterator[None]:
    """End this process, with what every thread does, when it takes too long."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    # What never ends mostly grows, too.
    resource.setrlimit(
        resource.RLIMIT_AS, (_MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1])
    )
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()

"""A server in this process is awaited: a thread, a task or a future that runs it."""

import os
import threading
from typing import Any, Protocol

from ephemport._findings import one_line
from ephemport._kernel.processes import descendants
from ephemport._serving.awaited.anybody import Anybody, Ending
from ephemport._serving.event_loop import Loop
from ephemport._serving.thread_failures import failure_of, keep_failure


class FutureLike(Protocol):
    """A Task or Future of asyncio, or a Future of concurrent.futures."""

    def done(self) -> bool:
        """Whether it has ended."""

    def cancelled(self) -> bool:
        """Whether it was cancelled."""

    def exception(self) -> BaseException | None:
        """Return the exception that ended it."""


class _Inside(Anybody):
    """Something that runs here: the sockets of this process count, and those of its children."""

    def family(self) -> list[int] | None:
        return descendants(os.getpid())


class Future(_Inside):
    """A task or a future."""

    else_name = ""

    def __init__(self, future: FutureLike) -> None:
        self._future = future

    @property
    def name(self) -> str:
        get_name = getattr(self._future, "get_name", None)
        kind = type(self._future).__name__
        return f"the {kind} {get_name()!r}" if callable(get_name) else f"the {kind}"

    @property
    def has_ended(self) -> bool:
        return self._future.done()

    def ending(self) -> Ending:
        if self._future.cancelled():
            return Ending("was cancelled")
        return _ended_with(self._future.exception())

    @property
    def state(self) -> str:
        loop = self._loop
        if not self.has_ended and loop is not None and not loop.is_running():
            return "has not ended, and its event loop does not run"
        return super().state

    def why_in_vain(self, loop: Loop | None, port: int) -> str:
        if loop is None or loop.loop is None or self._loop is not loop.loop:
            return ""
        return f"{self.name} runs in it"

    @property
    def _loop(self) -> Any:
        get_loop = getattr(self._future, "get_loop", None)
        return get_loop() if callable(get_loop) else None


class Thread(_Inside):
    """A thread. From now on its exception is kept."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._undo = keep_failure(thread)

    @property
    def name(self) -> str:
        return f"the thread {self._thread.name!r}"

    @property
    def state(self) -> str:
        return "was not started" if self._thread.ident is None else super().state

    @property
    def has_ended(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def ending(self) -> Ending:
        return _ended_with(failure_of(self._thread))

    def why_in_vain(self, loop: Loop | None, port: int) -> str:
        return "it is the thread that waits" if self._thread is threading.current_thread() else ""

    def sleep(self, seconds: float) -> None:
        if self._thread.ident is None or self._thread is threading.current_thread():
            super().sleep(seconds)
        else:
            self._thread.join(seconds)

    def close(self) -> None:
        self._undo()


def _ended_with(cause: BaseException | None) -> Ending:
    if cause is None:
        return Ending("ended")
    said = one_line(str(cause))
    return Ending(f"ended with {type(cause).__qualname__}{': ' if said else ''}{said}", None, cause)

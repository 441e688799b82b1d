"""The event loop that runs in this thread, asyncio's or trio's. Neither is imported here."""

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ephemport._kernel.processes import descendants, was_told

# CO_COROUTINE, CO_ITERABLE_COROUTINE and CO_ASYNC_GENERATOR of the module inspect.
_OF_COROUTINES = 0x80 | 0x100 | 0x200
_CALLBACKS = "asyncio.events"


class Loop(NamedTuple):
    """A running event loop.

    name: "asyncio" or "trio". loop: asyncio's loop. other_tasks: whether it has tasks beside the
    one that runs now.
    """

    name: str
    loop: object
    other_tasks: bool

    def why_in_vain(self, port: int) -> str:
        """Say why nobody may be able to answer a wait that blocks this loop; "" if somebody can.

        Without other tasks nothing of this loop is waited for. With a child process that was told
        the port, the server is likely to be that.
        """
        children = descendants(os.getpid())[1:]
        if not self.other_tasks or any(was_told(child, str(port)) for child in children):
            return ""
        return "the server may be another task of it"


def running_loop() -> Loop | None:
    """Return the event loop of this thread that has called the code that runs now.

    A loop may run in this thread, and yet code that is not of it: greenlets (Playwright's sync API)
    switch between the two. Such code cannot await.
    """
    if not _is_called_by_a_loop():
        return None
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            return Loop("trio", None, _trio_has_others(trio.lowlevel.current_task()))
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None:
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            return Loop("asyncio", loop, _asyncio_has_others(asyncio, loop))
    return None


def _is_called_by_a_loop() -> bool:
    """Whether a coroutine, or a callback of asyncio, is among the callers."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_flags & _OF_COROUTINES or frame.f_globals.get("__name__") == _CALLBACKS:
            return True
    return False


def async_sleep() -> Callable[[float], Awaitable[None]]:
    """Return the sleep of the running event loop, trio's or asyncio's."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            trio.lowlevel.current_trio_token()
            sleep: Callable[[float], Awaitable[None]] = trio.sleep
            return sleep
    import asyncio

    return asyncio.sleep


def _asyncio_has_others(asyncio: Any, loop: object) -> bool:
    return bool(asyncio.all_tasks(loop) - {asyncio.current_task(loop)})


def _trio_has_others(task: Any) -> bool:
    """Whether there are tasks beside this one and those that wait for it."""
    if any(nursery.child_tasks for nursery in task.child_nurseries):
        return True
    while task.parent_nursery is not None:
        if task.parent_nursery.child_tasks - {task}:
            return True
        task = task.parent_nursery.parent_task
    return False

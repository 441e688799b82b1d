"""The event loop that runs in this thread, asyncio's or trio's. Neither is imported here."""

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ephemport._kernel.processes import descendants, was_told


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
    """Return the event loop that runs in this thread now."""
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

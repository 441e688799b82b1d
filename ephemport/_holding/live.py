"""The holds of this process: those that are live, and those that a fork left to the parent."""

import os
from typing import TYPE_CHECKING
from weakref import ref

from ephemport._kernel.fork import lock

if TYPE_CHECKING:
    from ephemport._holding.hold import Hold

# Weak references, each of which removes itself: only its reservation may keep a hold.
live: set["ref[Hold]"] = set()
_left_to_parent: set["ref[Hold]"] = set()

# The pid that has the holds. A forked child needs its parent's, and the parent may have ended.
_process = os.getpid()


def holds_of(port: int) -> list["Hold"]:
    """The holds of a port: this process's own, and those that its parent had when it forked."""
    holds = (reference() for reference in (*list(live), *list(_left_to_parent)))
    return [held for held in holds if held is not None and held.port == port]


def held_now() -> list["Hold"]:
    """The holds that this process has."""
    holds = (reference() for reference in list(live))
    return [held for held in holds if held is not None and held.port and not held.closed]


def _after_fork_in_child() -> None:
    global _process
    parent, _process = _process, os.getpid()
    for reference in list(live):
        held = reference()
        if held is not None:
            held.abandon(parent)
    _left_to_parent.update(live)
    live.clear()
    lock.release()


os.register_at_fork(
    before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child
)

"""The registry of this process's holds: those that are live, and those that a fork left behind.

It knows nothing of what it registers but that a fork ends it in the child.
"""

import os
from typing import Any
from weakref import ref

from ephemport._kernel.fork import lock

# Weak references to holds, each of which removes itself: only its reservation may keep a hold.
live: set["ref[Any]"] = set()
left_to_parent: set["ref[Any]"] = set()

# The pid that has the holds. A forked child needs its parent's, and the parent may have ended.
_process = os.getpid()


def _after_fork_in_child() -> None:
    global _process
    parent, _process = _process, os.getpid()
    for reference in list(live):
        held = reference()
        if held is not None:
            held.abandon(parent)
    left_to_parent.update(live)
    live.clear()
    lock.release()


os.register_at_fork(
    before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child
)

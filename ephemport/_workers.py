"""Workers and helpers: which child has ports of its own, and which has those of its parent.

A worker runs tests beside others, and each needs its own port 9001. A helper is started by a test,
such as a server in a child process, and needs the port of its test. So

- the processes of a pool (multiprocessing.Pool, ProcessPoolExecutor) are workers, with every start
  method. Django's `manage.py test --parallel` uses such a pool;
- a child that is forked while a test runs (pytest, pytest-forked, unittest) is a helper;
- any other forked child is a worker, and what that forks in turn are its helpers.

The stack tells it at the moment of the fork: the pool or the test is on it.
"""

import os
import sys
from _thread import _local, get_ident
from collections.abc import Iterator
from types import FrameType

# Where pools make their processes: modules, and functions of theirs.
_POOLS = {
    "multiprocessing.pool": ("_repopulate_pool", "_repopulate_pool_static"),
    "billiard.pool": ("_repopulate_pool", "_create_worker_process"),
    "concurrent.futures.process": ("_spawn_process",),
}
# A process of a pool that is no fork knows it by what it runs.
_POOL_WORKERS = ("multiprocessing.pool", "concurrent.futures.process", "billiard.pool")
_FIXTURES_OF_UNITTEST = ("_handleClassSetUp", "_handleModuleFixture", "_tearDownPreviousClass")

# A forked child has the frames of its parent below its own, in the thread that made the fork.
_frames_of_parent = 0
_forked_in: int | None = None
_is_worker = False


class _Decided(_local):
    """What the child of a fork that this thread makes now will be."""

    worker = False


_child = _Decided()


def became_worker() -> bool:
    """Whether this process is a worker because of the fork that made it."""
    return _is_worker


def starter_of_pool() -> int | None:
    """The pid of the process whose pool this process works for; None if it is in no pool.

    For children that are no forks: spawn and forkserver.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    parent = None if multiprocessing is None else multiprocessing.parent_process()
    if multiprocessing is None or parent is None:
        return None
    # Not known while the main module is imported again, before the process begins its work.
    target = getattr(multiprocessing.current_process(), "_target", None)
    pid: int = parent.pid
    return pid if getattr(target, "__module__", None) in _POOL_WORKERS else None


def _look_at_fork() -> None:
    """Find out, in the parent, what the child will be."""
    own = _frames(get_ident(), sys._getframe())
    by_pool = any(frame.f_code.co_name in _POOLS.get(_module(frame), ()) for frame in own)
    _child.worker = by_pool or (_forked_in is None and not _runs_a_test())


def _runs_a_test() -> bool:
    return any(
        _is_of_a_test(frame)
        for thread, newest in sys._current_frames().items()
        for frame in _frames(thread, newest)
    )


def _is_of_a_test(frame: FrameType) -> bool:
    module = _module(frame)
    return (
        module.startswith("_pytest.")
        or module in ("pytest_forked", "unittest.case")
        or (module == "unittest.suite" and frame.f_code.co_name in _FIXTURES_OF_UNITTEST)
    )


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _frames(thread: int, newest: FrameType) -> Iterator[FrameType]:
    """The frames of a thread that this process began itself, the newest first."""
    left = _depth(newest) - (_frames_of_parent if thread == _forked_in else 0)
    frame: FrameType | None = newest
    while frame is not None and left > 0:
        yield frame
        frame, left = frame.f_back, left - 1


def _depth(newest: FrameType | None) -> int:
    depth = 0
    while newest is not None:
        depth, newest = depth + 1, newest.f_back
    return depth


def _begin_as_child() -> None:
    global _frames_of_parent, _forked_in, _is_worker
    _is_worker = _child.worker
    _frames_of_parent, _forked_in = _depth(sys._getframe()) - 1, get_ident()


os.register_at_fork(before=_look_at_fork, after_in_child=_begin_as_child)

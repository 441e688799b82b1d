"""Who is awaited: anybody, a process, a part of this process, or what a pid file names.

Each kind knows whose sockets count, whether it has ended, and how.
"""

import os
import threading

from ephemport._arguments import checked_path, checked_pid, shown
from ephemport._serving.awaited.anybody import Anybody, Ending
from ephemport._serving.awaited.inside import Future, FutureLike, Thread
from ephemport._serving.awaited.pid_file import PidFile
from ephemport._serving.awaited.process import Process, ProcessLike

__all__ = ["Anybody", "Ending", "ServerLike", "awaited"]

ServerLike = ProcessLike | int | threading.Thread | FutureLike | os.PathLike[str]

_MUST_BE = (
    "process must be a Popen, a Process or a pid; a Thread, Task or Future of this process; or the "
    "Path of a pid file"
)


def awaited(process: ServerLike | None) -> Anybody:
    """Return who is awaited by the argument `process` of a wait."""
    if process is None:
        return Anybody()
    if isinstance(process, threading.Thread):
        return Thread(process)
    if isinstance(process, os.PathLike):
        return PidFile(checked_path(process, "process"))
    if isinstance(process, str):
        raise TypeError(f"{_MUST_BE}, not {shown(process)}; for a pid file write Path(...)")
    if all(callable(getattr(process, one, None)) for one in ("done", "cancelled", "exception")):
        return Future(process)  # type: ignore[arg-type]
    pid = getattr(process, "pid", process)
    if pid is None:
        raise ValueError(f"process was not started: {shown(process)}")
    return Process(process, checked_pid(pid, _MUST_BE))  # type: ignore[arg-type]

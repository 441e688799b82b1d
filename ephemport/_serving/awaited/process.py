"""A process is awaited, and what it started."""

import os
import time
from typing import Protocol

from ephemport._errors import EphemportError
from ephemport._findings import command_in_words
from ephemport._kernel.process_end import ProcessEnd
from ephemport._kernel.processes import (
    command_line,
    descendants,
    is_running,
    session_or_group,
)
from ephemport._serving.awaited.anybody import Anybody, Ending
from ephemport._serving.event_loop import Loop
from ephemport._serving.output import captured_output

_TURNS_FOR_STATUS = 200
_TURN = 0.001


class ProcessLike(Protocol):
    """A Popen, or the Process of multiprocessing, asyncio or psutil."""

    @property
    def pid(self) -> int | None:
        """The process id."""


class Process(Anybody):
    """A process and its descendants. If it ended well, also what it left in its session or group.

    A server that daemonizes leaves both, but the shell's `server &` does not.
    """

    def __init__(self, process: ProcessLike | int, pid: int) -> None:
        self.pid = pid
        self._process = process
        self._left: list[int] = []
        # None: it had ended before.
        self._end: ProcessEnd | None = None
        if _known_status(process) is None:
            self._end = _end_of(pid)

    @property
    def else_name(self) -> str:
        return ". If the server is a thread of this process, process= can be that thread"

    @property
    def name(self) -> str:
        command = self.command
        return f"pid {self.pid}" + (f" ({command_in_words(command)})" if command else "")

    @property
    def command(self) -> str | None:
        """Its command line, where it is known."""
        command = _as_text(getattr(self._process, "args", None))
        return command_line(self.pid) if command is None and is_running(self.pid) else command

    @property
    def state(self) -> str:
        if self._left:
            return "has ended, and what it left in its session or group still runs"
        return super().state

    def family(self) -> list[int] | None:
        roots = [self.pid, *self._left]
        return list(dict.fromkeys(one for root in roots for one in descendants(root)))

    @property
    def is_known(self) -> bool:
        # A server that daemonizes ends its first process well, and the listener may be its.
        return not self._is_over or self.ending().returncode != 0

    @property
    def has_ended(self) -> bool:
        if not self._is_over:
            return False
        self._left = [pid for pid in self._left if is_running(pid)]
        if not self._left and not self.ending().returncode:
            self._left = session_or_group(self.pid)
        return not self._left

    @property
    def _is_over(self) -> bool:
        return self._end is None or self._end.has_come

    def ending(self) -> Ending:
        status = self._status()
        if status is None:
            return Ending("ended")
        if status < 0:
            return Ending(f"was ended by signal {-status}", status)
        return Ending(f"exited with status {status}", status)

    def output(self) -> str | None:
        return captured_output(self._process)

    def why_in_vain(self, loop: Loop | None, port: int) -> str:
        if loop is None or self.pid != os.getpid():
            return ""
        return f"pid {self.pid} is this process"

    def sleep(self, seconds: float) -> None:
        if self._end is None or self._left:
            time.sleep(seconds)
        else:
            self._end.sleep(seconds)

    def close(self) -> None:
        if self._end is not None:
            self._end.close()

    def _status(self) -> int | None:
        poll = getattr(self._process, "poll", None)
        status = poll() if callable(poll) else _known_status(self._process)
        if isinstance(status, int):
            return status
        if self._end is None:
            return None
        try:
            return self._end.status()
        except OSError:
            # No child, or another thread is collecting it now; meanwhile Popen.poll() returns None.
            for _ in range(_TURNS_FOR_STATUS):
                status = poll() if callable(poll) else _known_status(self._process)
                if isinstance(status, int) or not callable(poll):
                    return status
                time.sleep(_TURN)
            return None


def _known_status(process: object) -> int | None:
    """The exit status that the object has; multiprocessing's Process calls it exitcode."""
    for name in ("returncode", "exitcode"):
        status = getattr(process, name, None)
        if isinstance(status, int):
            return status
    return None


def _as_text(args: object) -> str | None:
    """Return a Popen's `args` as one line; None if they are no arguments."""
    if isinstance(args, (str, bytes, os.PathLike)):
        return os.fsdecode(args)
    if isinstance(args, (list, tuple)):
        return " ".join(_as_text(one) or str(one) for one in args)
    return None


def _end_of(pid: int) -> ProcessEnd | None:
    """Return the end of the process; None if it has come."""
    try:
        return ProcessEnd(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        # EINVAL: the id of a thread.
        raise EphemportError(f"cannot watch process {pid}: {error.strerror}") from error

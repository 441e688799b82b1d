"""Who is awaited: anybody, or a process and what it started. Whose sockets count, and its end."""

import os
import select
import time
from typing import NamedTuple, Protocol

from ephemport._arguments import checked_pid
from ephemport._errors import EphemportError
from ephemport._kernel.processes import command_line, descendants, is_running
from ephemport._looking.listeners import command_in_words
from ephemport._serving.output import captured_output

_TURNS_FOR_STATUS = 200
_TURN = 0.001


class ProcessLike(Protocol):
    """A Popen, asyncio's Process or psutil's."""

    @property
    def pid(self) -> int:
        """The process id."""


class Ending(NamedTuple):
    """How somebody ended.

    how: in words, such as "exited with status 3". returncode: the exit status, where there is one
    and it is known. cause: the exception that ended a thread or a task.
    """

    how: str
    returncode: int | None = None
    cause: BaseException | None = None


class Anybody:
    """Nobody in particular is awaited: every listener counts."""

    name = ""

    def family(self) -> list[int] | None:
        """Return the processes whose sockets count; None: those of any process."""
        return None

    @property
    def has_ended(self) -> bool:
        """Whether none of them will listen any more."""
        return False

    def ending(self) -> Ending:
        """Return how it ended."""
        raise NotImplementedError

    def output(self) -> str | None:
        """Return its last output, None where it was not captured."""
        return None

    def sleep(self, seconds: float) -> None:
        """Sleep, and wake up early if it ends."""
        time.sleep(seconds)

    def close(self) -> None:
        """Give back what the watching took."""


class Process(Anybody):
    """A process is awaited, and its descendants."""

    def __init__(self, process: ProcessLike | int, pid: int) -> None:
        self.pid = pid
        self._process = process
        self._pidfd: int | None = None
        if getattr(process, "returncode", None) is None:
            self._pidfd = _pidfd_of(pid)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The process as messages name it."""
        command = _as_text(getattr(self._process, "args", None))
        if command is None and is_running(self.pid):
            command = command_line(self.pid)
        return f"pid {self.pid}" + (f" ({command_in_words(command)})" if command else "")

    def family(self) -> list[int] | None:
        return descendants(self.pid)

    @property
    def has_ended(self) -> bool:
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def ending(self) -> Ending:
        status = self._status()
        if status is None:
            return Ending("ended")
        if status < 0:
            return Ending(f"was ended by signal {-status}", status)
        return Ending(f"exited with status {status}", status)

    def output(self) -> str | None:
        return captured_output(self._process)

    def sleep(self, seconds: float) -> None:
        if self._pidfd is None:
            time.sleep(seconds)
        else:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(seconds * 1000)

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _status(self) -> int | None:
        poll = getattr(self._process, "poll", None)
        status = poll() if callable(poll) else getattr(self._process, "returncode", None)
        if isinstance(status, int):
            return status
        if self._pidfd is None:
            return None
        try:
            # WNOWAIT leaves the zombie to its own waiter, such as asyncio's child watcher.
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # Another thread may be collecting it now; meanwhile Popen.poll() returns None.
            for _ in range(_TURNS_FOR_STATUS):
                status = poll() if callable(poll) else None
                if isinstance(status, int) or not callable(poll):
                    return status
                time.sleep(_TURN)
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def awaited(process: ProcessLike | int | None) -> Anybody:
    """Return who is awaited by the argument `process` of a wait."""
    if process is None:
        return Anybody()
    pid = checked_pid(
        getattr(process, "pid", process), "process must be a Popen, a Process or a pid"
    )
    return Process(process, pid)


def _as_text(args: object) -> str | None:
    """Return a Popen's `args` as one line; None if they are no arguments."""
    if isinstance(args, (str, bytes, os.PathLike)):
        return os.fsdecode(args)
    if isinstance(args, (list, tuple)):
        return " ".join(_as_text(one) or str(one) for one in args)
    return None


def _pidfd_of(pid: int) -> int | None:
    """Return a descriptor that reports the end of the process; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        # EINVAL: the id of a thread.
        raise EphemportError(f"cannot watch process {pid}: {error.strerror}") from error

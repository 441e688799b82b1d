"""A server is awaited that writes its process id into a file, as servers do that daemonize."""

import os
import time
from typing import NamedTuple

from ephemport._findings import command_in_words, one_line
from ephemport._kernel.processes import age, command_line, descendants, is_running
from ephemport._serving.awaited.anybody import Anybody
from ephemport._serving.event_loop import Loop

# More than any server writes: PostgreSQL writes seven lines.
_LONGEST = 4096
_LARGEST_PID = 2**31 - 1
# In seconds. Another machine may write the time of the file, and a clock may be set.
_TOLERANCE = 60.0


class _Content(NamedTuple):
    """What a pid file says now.

    problem: why it names no process that runs, in words that follow its path. whole: whether the
    line of the pid has its end.
    """

    pid: int | None
    problem: str
    whole: bool = False


class PidFile(Anybody):
    """The process that a file names, and its descendants.

    The file may not be there yet, or be left from an earlier server. So only a process that runs,
    and is not younger than the file, is the one that the file names.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)

    @property
    def name(self) -> str:
        pid = self._read().pid
        if pid is None:
            return f"the process of {self._path}"
        command = command_in_words(command_line(pid) or "command line unknown")
        return f"pid {pid} ({command}), the process of {self._path},"

    @property
    def state(self) -> str:
        content = self._read()
        return "still runs" if content.pid is not None else f"is unknown: it {content.problem}"

    def family(self) -> list[int] | None:
        pid, _, whole = self._read()
        if pid is None:
            return []
        # Half a pid may be 1, from which all others descend.
        return descendants(pid) if whole else [pid]

    @property
    def is_known(self) -> bool:
        # A line without its end may be half a pid.
        content = self._read()
        return content.pid is not None and content.whole

    def why_in_vain(self, loop: Loop | None, port: int) -> str:
        return ""

    def _read(self) -> _Content:
        try:
            with open(self._path, "rb") as file:
                line = file.read(_LONGEST).partition(b"\n")
                written = os.fstat(file.fileno()).st_mtime
        except OSError as error:
            there = not isinstance(error, FileNotFoundError)
            why = f"cannot be read ({error.strerror})" if there else "does not exist"
            return _Content(None, why)
        text = line[0].decode("ascii", "backslashreplace").strip()
        if not text:
            return _Content(None, "is empty")
        if not (text.isdecimal() and len(text) <= 10 and 0 < int(text) <= _LARGEST_PID):
            return _Content(None, f"does not begin with a pid, but with {one_line(text[:40])!r}")
        pid = int(text)
        if not is_running(pid):
            return _Content(None, f"names pid {pid}, which does not run")
        if self._is_younger(pid, written):
            return _Content(None, f"names pid {pid}, which is another process now: it is younger")
        return _Content(pid, "", bool(line[1]))

    @staticmethod
    def _is_younger(pid: int, written: float) -> bool:
        """Whether the process started after the file was written; then it has the pid by chance."""
        seconds = age(pid)
        return seconds is not None and time.time() - seconds > written + _TOLERANCE

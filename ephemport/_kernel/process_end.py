"""The end of a process: noticed at once by a pidfd, and looked for where the kernel gives none.

pidfd_open(2) needs Linux 5.3. Sandboxes refuse it (gVisor, Docker before 20.10), and PyPy has no
os.pidfd_open(). Then each look asks /proc/PID/stat: the process has ended when it is a zombie, when
it is gone, or when its start time is another one, because its id became another process's. Where
/proc does not show the process (hidepid, no /proc), waitid(2) tells of a child. Of any other
process kill(2) tells only whether its id is in use.
"""

import errno
import os
import select
import time
from contextlib import suppress

from ephemport._kernel.descriptors import Descriptor
from ephemport._kernel.processes import is_running, started, thread_group

# These have nothing to do with a sandbox.
_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ProcessEnd:
    """The end of one process, of any user.

    pid: its id. Raises ProcessLookupError if there is no such process, and OSError: EINVAL for the
    id of a thread, EMFILE without a descriptor left.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = _pidfd_of(pid)
        # Taken in any case: other code of this process may close the pidfd.
        self._started = started(pid)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What must stay open for it."""
        return () if self._pidfd is None else (self._pidfd.number,)

    @property
    def has_come(self) -> bool:
        """Whether the process has ended. A zombie has."""
        if self._pidfd is not None:
            readable = _is_readable(self._pidfd, 0)
            if readable is False:
                return False
            # Other code may have closed the descriptor, which is another file by now.
            if readable and self._pidfd.is_open():
                return True
        if self._started is not None:
            return started(self.pid) != self._started or not is_running(self.pid)
        return _has_ended_unseen(self.pid)

    def sleep(self, seconds: float) -> None:
        """Sleep; with a pidfd only until the process ends."""
        readable = None if self._pidfd is None else _is_readable(self._pidfd, seconds)
        if readable is None or (readable and self._pidfd is not None and not self._pidfd.is_open()):
            time.sleep(seconds)

    def status(self) -> int | None:
        """Return the exit status of a child, -N for signal N; None while it runs.

        The zombie stays for its own waiter, such as asyncio's child watcher. Raises
        ChildProcessError if it is no child, or another thread collects it now.
        """
        if self._pidfd is not None and self._pidfd.is_open():
            try:
                return _status_of(os.P_PIDFD, self._pidfd.number)
            except ChildProcessError:
                raise
            except OSError:
                pass  # Linux 5.3 has pidfds, and 5.4 waits for them
        return _status_of(os.P_PID, self.pid)

    def close(self) -> None:
        """Give back the descriptor."""
        if self._pidfd is not None:
            self._pidfd.close()


def _pidfd_of(pid: int) -> Descriptor | None:
    """Return a descriptor that is readable when the process has ended; None: there are none here.

    Raises as `ProcessEnd` does.
    """
    try:
        return Descriptor(os.pidfd_open(pid))
    except ProcessLookupError:
        raise
    except AttributeError:
        pass
    except OSError as error:
        if error.errno in _USED_UP:
            raise
    if not _is_in_use(pid):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    if thread_group(pid) not in (None, pid):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return None


def _is_readable(pidfd: Descriptor, seconds: float) -> bool | None:
    """Whether it becomes readable within so many seconds; None where poll(2) is refused."""
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    try:
        return bool(poll.poll(seconds * 1000))
    except OSError:
        return None


def _has_ended_unseen(pid: int) -> bool:
    with suppress(OSError):  # no child
        return _status_of(os.P_PID, pid) is not None
    return not _is_in_use(pid)


def _is_in_use(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _status_of(kind: int, which: int) -> int | None:
    ended = os.waitid(kind, which, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

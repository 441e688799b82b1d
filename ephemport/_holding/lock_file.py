"""A lock file: what it looks like, how it is made, read, and removed.

A file is ephemport's only if its name, PORT.lock, and all of its text are right. Every descriptor
has an owner from its first moment, since a signal handler may raise at any time.
"""

import errno
import fcntl
import os
import re
import stat
import time
from contextlib import suppress
from io import FileIO
from typing import NamedTuple

# The whole text of a file of ours: nothing may stand before, between or after these lines.
_OURS = re.compile(
    rb"ephemport lock, format 1\n"
    rb"port ([1-9][0-9]{0,4})\nworker ([^\n]*)\npid ([0-9]+)\ntime ([^\n]*)\nid [0-9a-f]{16}\n"
)
# Far more than we write. The name of a worker is cut to 200 characters of at most 10 bytes.
_MOST_BYTES = 4096
_WORKER_CHARACTERS = 200


# With these flags open() does not wait, follow or create: the file may be a FIFO, a device or a
# symbolic link.
_LOOK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class LockFile:
    """A locked file (flock) that names the owner of a port. The kernel unlocks it when that dies.

    path: its name. text: what is written into it; no other lock file has the same text.
    """

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text
        self._process = os.getpid()
        self._numbers: list[int] = []
        self._file: tuple[int, int] | None = None
        self._whole = False

    def create(self) -> None:
        """Create the file, locked. Raises FileExistsError, OSError, and then there is none."""
        self.__class__ = _Created
        try:
            try:
                self._create_whole()
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    raise
                # This filesystem has no files without a name, or this machine has no /proc.
                self._close()
                self._create_in_place()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the file and unlock it. It may be called often.

        A file that is no longer ours, or that somebody has written to, is left alone.
        """
        # It is removed while it is locked, so no other process can lock it in between. If it
        # cannot be removed, such as on a read-only disk, a later sweep removes it.
        with suppress(OSError):
            if self._may_remove():
                os.unlink(self._path)
        self._close()
        self.__class__ = LockFile

    def abandon(self) -> None:
        """Close the copy of a forked child. The parent still has the file and its lock."""
        self._close()
        self.__class__ = LockFile

    def _create_whole(self) -> None:
        """Write and lock the file before it has a name (O_TMPFILE in open(2))."""
        number = self._open(os.path.dirname(self._path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
        self._fill(number)
        # src_dir_fd makes it linkat(), as only that follows a link of /proc. Its value is ignored.
        os.link(f"/proc/self/fd/{number}", self._path, src_dir_fd=number, follow_symlinks=True)

    def _create_in_place(self) -> None:
        """Name the file first. A process that is killed in between leaves an empty file."""
        self._fill(self._open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _LOOK))

    def _open(self, path: str, flags: int) -> int:
        # One call in C opens and records it: no signal handler can raise in between.
        self._numbers.extend(map(os.open, (path,), (flags,), (0o600,)))
        number = self._numbers[0]
        self._file = _identity(os.fstat(number))
        return number

    def _fill(self, number: int) -> None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(number, self._text) < len(self._text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._whole = True

    def _may_remove(self) -> bool:
        """Whether the name stands for our file, and nobody else has written to it."""
        if self._process != os.getpid() or not self._is_open():
            return False
        number = self._numbers[0]
        text = os.pread(number, _MOST_BYTES, 0)
        untouched = text == self._text or (not self._whole and self._text.startswith(text))
        return untouched and _is_file_at(self._path, number)

    def _close(self) -> None:
        if self._is_open():
            os.close(self._numbers[0])
        self._numbers.clear()
        self._file, self._whole = None, False

    def _is_open(self) -> bool:
        # The program may have closed it (os.closerange() in a daemon) and opened another file:
        # even one with the same inode number, or the next lock of the same port.
        if not self._numbers or self._file is None:
            return bool(self._numbers)
        number = self._numbers[0]
        try:
            if _identity(os.fstat(number)) != self._file:
                return False
            text = os.pread(number, _MOST_BYTES, 0)
        except OSError:
            return False
        if not self._whole or text.startswith(self._text):
            return True
        # Somebody has written over it.
        return not _OURS.fullmatch(text) and _is_locked(number)


class _Created(LockFile):
    """A lock file until it is closed. Only this one may be forgotten.

    An exception of a signal handler is lost in a finalizer. So closed ones have none.
    """

    def __del__(self) -> None:
        self.close()


class Owner(NamedTuple):
    """The owner that a lock file names."""

    worker: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"worker {self.worker}, pid {self.pid}, time {self.since}"


class NotOurs(Exception):
    """Why a file is not ephemport's: the rest of a sentence that begins with its name."""


def text_of(port: int, worker_id: str) -> bytes:
    worker = " ".join(worker_id.split())[:_WORKER_CHARACTERS]
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return (
        f"ephemport lock, format 1\nport {port}\nworker {worker}\npid {os.getpid()}\n"
        f"time {since}\nid {os.urandom(8).hex()}\n"
    ).encode(errors="backslashreplace")


def read(path: str, port: int) -> Owner | None:
    """The owner of the lock file; None if there is no file. Raises NotOurs, OSError."""
    try:
        found = os.lstat(path)
        _check(found)
        file = _opened(path, os.O_RDONLY | _LOOK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
            raise NotOurs(f"cannot be read ({error.strerror})") from None
        raise
    with file:
        return _owner(file.fileno(), port)


def _check(found: os.stat_result) -> None:
    """Raise NotOurs for a file that is not even opened."""
    if not stat.S_ISREG(found.st_mode):
        raise NotOurs("is no regular file")
    if found.st_uid != os.geteuid():
        raise NotOurs(f"belongs to another user (uid {found.st_uid})")
    if found.st_size == 0:
        raise NotOurs("is empty")
    if found.st_size > _MOST_BYTES:
        raise NotOurs("is longer than a lock")


def _owner(descriptor: int, port: int) -> Owner:
    """The owner of an open lock file. Raises NotOurs."""
    _check(os.fstat(descriptor))
    ours = _OURS.fullmatch(os.pread(descriptor, _MOST_BYTES + 1, 0))
    if ours is None:
        raise NotOurs("has another text than a lock")
    named, worker, pid, since = (one.decode(errors="replace") for one in ours.groups())
    if int(named) != port:
        raise NotOurs(f"is a copy of the lock of port {named}")
    return Owner(worker, int(pid), since)


def remove_if_stale(path: str, port: int) -> bool:
    """Remove a lock file of ours unless a living process has locked it. Whether it is gone."""
    try:
        # For writing, although nothing is written: NFS locks only such files (flock(2)).
        file = _opened(path, os.O_RDWR | _LOOK)
    except FileNotFoundError:
        return True
    with file:
        try:
            _owner(file.fileno(), port)
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed it between our open() and our flock().
            if _is_file_at(path, file.fileno()):
                os.unlink(path)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            pass
        except NotOurs:
            # It has changed since it was read. The next look sees that.
            pass
    return True


def _opened(path: str, flags: int) -> FileIO:
    """Open a file, owned from its first moment: no signal handler can raise within this call."""
    return next(map(FileIO, map(os.open, (path,), (flags,)), ("rb",)))


def _is_locked(descriptor: int) -> bool:
    """Whether this open file has a lock (flock), as /proc reports it."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            return b"FLOCK" in file.read()
    except OSError:
        return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_file_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False

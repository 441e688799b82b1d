"""A folder of lock files: which process of which worker has a port of a fixed range.

The user may keep other files in the folder. So a file is ephemport's only if its name, PORT.lock,
and all of its text are right. Other files are never written, locked, renamed or removed. A lock
file gets its name when it is complete and locked, so a process that is killed leaves a whole file
or none.
"""

import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from ephemport import _spelling
from ephemport._arguments import checked_path
from ephemport._errors import EphemportError, PortUnavailable

# The whole text of a file of ours: nothing may stand before, between or after these lines.
_OURS = re.compile(
    rb"ephemport lock, format 1\n"
    rb"port ([1-9][0-9]{0,4})\nworker ([^\n]*)\npid ([0-9]+)\ntime ([^\n]*)\nid [0-9a-f]{16}\n"
)
_NAME = re.compile(r"([1-9][0-9]{0,4})\.lock")
_HIGHEST_PORT = 65535
# Far more than we write. The name of a worker is cut to 200 characters of at most 10 bytes.
_MOST_BYTES = 4096
_WORKER_CHARACTERS = 200

# With these flags open() does not wait, follow or create: the file may be a FIFO, a device or a
# symbolic link.
_LOOK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# As often another process may be faster and then be gone again.
_TRIES = 100
_SWEEPING = 5


class PortLocked(PortUnavailable):
    """A living process has locked the port."""


class NotOurFile(PortUnavailable):
    """A file that ephemport did not write has the name of the port's lock."""


class Standing(Enum):
    """What the name of a port's lock can stand for."""

    NOTHING = auto()
    LOCKED = auto()
    NOT_OURS = auto()


class LockFile:
    """A locked file (flock) that names the owner of a port. The kernel unlocks it when that dies.

    path: its name. descriptor: the locked file. text: what was written into it; no other lock file
    has the same text.
    """

    def __init__(self, path: str, descriptor: int, text: bytes) -> None:
        self._path = path
        self._descriptor = descriptor
        self._text = text
        self._file = _identity(os.fstat(descriptor))

    def close(self) -> None:
        """Remove the file and unlock it. A file that is no longer ours is left alone."""
        if self._has_descriptor():
            # It is removed while it is locked, so no other process can lock it in between. If it
            # cannot be removed, such as on a read-only disk, a later sweep removes it.
            with suppress(OSError):
                if _identity(os.lstat(self._path)) == self._file:
                    os.unlink(self._path)
            os.close(self._descriptor)

    def abandon(self) -> None:
        """Close the copy of a forked child. The parent still has the file and its lock."""
        if self._has_descriptor():
            os.close(self._descriptor)

    def _has_descriptor(self) -> bool:
        # The program may have closed it (os.closerange() in a daemon) and opened another file:
        # even one with the same inode number, or the next lock of the same port.
        try:
            return (
                _identity(os.fstat(self._descriptor)) == self._file
                and os.pread(self._descriptor, len(self._text) + 1, 0) == self._text
            )
        except OSError:
            return False


class LockFolder:
    """The user's own folder of lock files.

    path: defaults to the environment's EPHEMPORT_LOCK_DIR, then to a folder of this user below
        the temporary folder. It is made if it is missing.

    Raises EphemportError unless the folder is the user's own.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        chosen = path or os.environ.get("EPHEMPORT_LOCK_DIR")
        default = Path(tempfile.gettempdir(), f"ephemport-{os.geteuid()}")
        self.path = Path(checked_path(chosen or default, "lock_dir")).absolute()
        self._made = set() if chosen else {self.path, *self.path.parents}
        self._make({self.path, *self.path.parents})
        self.sweep()

    def lock(self, port: int, worker_id: str) -> LockFile:
        """Lock `port`, from 1 to 65535, for a worker.

        Raises PortLocked if a living process has locked it, NotOurFile if a file that is not ours
        has its name, EphemportError if the folder cannot be used, and OSError if this process may
        open no more files.
        """
        path = f"{self.path}/{port}.lock"
        text = _text(port, worker_id)
        try:
            self._make_again()
            for _ in range(_TRIES):
                self._make_room(path, port)
                with suppress(FileExistsError):
                    return LockFile(path, _create(path, text), text)
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise
            raise EphemportError(
                f"cannot lock port {port}: {path} cannot be made: {error.strerror}; "
                f"{_spelling.OTHER_LOCKS}",
                port=port,
            ) from error
        raise PortLocked(
            f"port {port} is locked by one process after the other in {self.path}", port=port
        )

    def standing(self, port: int) -> Standing:
        """What the name of a port's lock stands for now."""
        try:
            owner = _read(f"{self.path}/{port}.lock", port)
        except (_NotOurs, OSError):
            return Standing.NOT_OURS
        return Standing.NOTHING if owner is None else Standing.LOCKED

    def sweep(self) -> None:
        """Remove our lock files whose processes have ended, of any age."""
        for path, port in self._named_as_locks():
            # Nobody asks for this port now. A later request for it gets the error.
            with suppress(OSError, _NotOurs):
                if _read(path, port) is not None:
                    _remove_if_stale(path, port)

    def _named_as_locks(self) -> Iterator[tuple[str, int]]:
        with suppress(OSError):
            for name in os.listdir(self.path):
                named = _NAME.fullmatch(name)
                if named and int(named[1]) <= _HIGHEST_PORT:
                    yield f"{self.path}/{name}", int(named[1])

    def _make_room(self, path: str, port: int) -> None:
        """Remove the lock of a process that has ended. Raise if the name stays taken."""
        try:
            owner = _read(path, port)
        except _NotOurs as found:
            raise NotOurFile(
                f"port {port} cannot be locked: {path} {found}, so it is no lock of ephemport and "
                "is left alone; ask for another port, move the file if you do not need it, or "
                f"{_spelling.OTHER_LOCKS}",
                port=port,
            ) from None
        if owner is None or _remove_if_stale(path, port):
            return
        for _ in range(_SWEEPING):
            # No living process has it. Another process is sweeping, which takes microseconds.
            if os.path.exists(f"/proc/{owner.pid}"):
                break
            time.sleep(0.001)
            if _remove_if_stale(path, port):
                return
        raise PortLocked(
            f"port {port} is locked ({owner}) in {self.path}; it is free again when that "
            "process releases it or ends",
            port=port,
        )

    def _make_again(self) -> None:
        """Make a folder of ours again if it was removed: cleaners of /tmp do not see the locks."""
        try:
            same = _folder_identity(os.lstat(self.path)) == self._folder
        except FileNotFoundError:
            same = False
        if not same:
            self._make(self._made)

    def _make(self, may_make: set[Path]) -> None:
        missing = [one for one in (self.path, *self.path.parents) if not os.path.lexists(one)]
        if not may_make.issuperset(missing):
            raise EphemportError(
                f"the lock folder {self.path} is gone. This process did not make it, and so does "
                f"not make it again: make it, or {_spelling.OTHER_LOCKS}"
            )
        try:
            for folder in reversed(missing):
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700 if folder == self.path else 0o777)
                    self._made.add(folder)
            found = os.lstat(self.path)
        except OSError as error:
            raise EphemportError(
                f"cannot make the lock folder {self.path}: {error.strerror}; "
                f"{_spelling.OTHER_LOCKS}"
            ) from error
        wrong = _what_is_wrong(found)
        if wrong:
            raise EphemportError(
                f"refusing the lock folder {self.path}: it {wrong}; {_spelling.OTHER_LOCKS}"
            )
        self._folder = _folder_identity(found)


class _Owner(NamedTuple):
    """The owner that a lock file names."""

    worker: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"worker {self.worker}, pid {self.pid}, time {self.since}"


class _NotOurs(Exception):
    """Why a file is not ephemport's: the rest of a sentence that begins with its name."""


def _text(port: int, worker_id: str) -> bytes:
    worker = " ".join(worker_id.split())[:_WORKER_CHARACTERS]
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return (
        f"ephemport lock, format 1\nport {port}\nworker {worker}\npid {os.getpid()}\n"
        f"time {since}\nid {os.urandom(8).hex()}\n"
    ).encode(errors="backslashreplace")


def _read(path: str, port: int) -> _Owner | None:
    """The owner of the lock file; None if there is no file. Raises _NotOurs, OSError."""
    try:
        found = os.lstat(path)
        _check(found)
        descriptor = os.open(path, os.O_RDONLY | _LOOK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
            raise _NotOurs(f"cannot be read ({error.strerror})") from None
        raise
    try:
        return _owner(descriptor, port)
    finally:
        os.close(descriptor)


def _check(found: os.stat_result) -> None:
    """Raise _NotOurs for a file that is not even opened."""
    if not stat.S_ISREG(found.st_mode):
        raise _NotOurs("is no regular file")
    if found.st_uid != os.geteuid():
        raise _NotOurs(f"belongs to another user (uid {found.st_uid})")
    if found.st_size == 0:
        raise _NotOurs("is empty")
    if found.st_size > _MOST_BYTES:
        raise _NotOurs("is longer than a lock")


def _owner(descriptor: int, port: int) -> _Owner:
    """The owner of an open lock file. Raises _NotOurs."""
    _check(os.fstat(descriptor))
    ours = _OURS.fullmatch(os.pread(descriptor, _MOST_BYTES + 1, 0))
    if ours is None:
        raise _NotOurs("has another text than a lock")
    named, worker, pid, since = (one.decode(errors="replace") for one in ours.groups())
    if int(named) != port:
        raise _NotOurs(f"is a copy of the lock of port {named}")
    return _Owner(worker, int(pid), since)


def _remove_if_stale(path: str, port: int) -> bool:
    """Remove a lock file of ours unless a living process has locked it. Whether it is gone."""
    try:
        # For writing, although nothing is written: NFS locks only such files (flock(2)).
        descriptor = os.open(path, os.O_RDWR | _LOOK)
    except FileNotFoundError:
        return True
    try:
        _owner(descriptor, port)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have removed it between our open() and our flock().
        if _is_file_at(path, descriptor):
            os.unlink(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    except _NotOurs:
        # It has changed since it was read. The next look sees that.
        pass
    finally:
        os.close(descriptor)
    return True


def _create(path: str, text: bytes) -> int:
    """Create a locked file with this text. Raises FileExistsError, OSError."""
    try:
        return _create_whole(path, text)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise
    # This filesystem has no files without a name, or this machine has no /proc.
    return _create_in_place(path, text)


def _create_whole(path: str, text: bytes) -> int:
    """Write and lock the file before it has a name (O_TMPFILE in open(2))."""
    descriptor = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _fill(descriptor, text)
        # src_dir_fd makes it linkat(), as only that follows a link of /proc. Its value is ignored.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create_in_place(path: str, text: bytes) -> int:
    """Name the file first. A process that is killed in between leaves an empty file for ever."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _LOOK, 0o600)
    try:
        _fill(descriptor, text)
    except BaseException:
        if _is_file_at(path, descriptor):
            os.unlink(path)
        os.close(descriptor)
        raise
    return descriptor


def _fill(descriptor: int, text: bytes) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.write(descriptor, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _what_is_wrong(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}; use 0700)"
    return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _folder_identity(found: os.stat_result) -> tuple[int, ...]:
    # We keep no descriptor of it, so a link or a folder of another user can get its inode number.
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid


def _is_file_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False

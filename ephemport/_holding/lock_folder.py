"""A folder of lock files: which process of which worker has a port of a fixed range.

The user may keep other files in the folder. So a file is ephemport's only if its name, PORT.lock,
and all of its text are right. Other files are never written, locked, renamed or removed. A lock
file gets its name when it is complete and locked, so a process that is killed leaves a whole file
or none.
"""

import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from ephemport import _spelling
from ephemport._arguments import checked_path
from ephemport._errors import EphemportError, PortUnavailable
from ephemport._holding.lock_file import (
    NO_DESCRIPTORS,
    LockFile,
    NotOurs,
    read,
    remove_if_stale,
    text_of,
)

_NAME = re.compile(r"([1-9][0-9]{0,4})\.lock")
_HIGHEST_PORT = 65535

# What the kernel says of one file that is in the way: another user's or another mode, immutable,
# leased, a mount point, a program that runs, a broken sector or a lost server.
_OF_ONE_FILE = (
    errno.EACCES,
    errno.EPERM,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ETXTBSY,
    errno.EIO,
    errno.ESTALE,
)
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


class UnusableFile(PortUnavailable):
    """A file that cannot be opened or removed has the name of the port's lock."""


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
        has its name, UnusableFile if a file cannot be opened or removed, EphemportError if the
        folder cannot be used, and OSError if this process may open no more files.
        """
        path = f"{self.path}/{port}.lock"
        locked = LockFile(path, text_of(port, worker_id))
        try:
            self._make_again()
            for _ in range(_TRIES):
                self._make_room(path, port)
                with suppress(FileExistsError):
                    locked.create()
                    return locked
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
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
            owner = read(f"{self.path}/{port}.lock", port)
        except (NotOurs, OSError):
            return Standing.NOT_OURS
        return Standing.NOTHING if owner is None else Standing.LOCKED

    def sweep(self) -> None:
        """Remove our lock files whose processes have ended, of any age."""
        for path, port in self._named_as_locks():
            # Nobody asks for this port now. A later request for it gets the error.
            with suppress(OSError, NotOurs):
                if read(path, port) is not None:
                    remove_if_stale(path, port)

    def _named_as_locks(self) -> Iterator[tuple[str, int]]:
        with suppress(OSError):
            for name in os.listdir(self.path):
                named = _NAME.fullmatch(name)
                if named and int(named[1]) <= _HIGHEST_PORT:
                    yield f"{self.path}/{name}", int(named[1])

    def _make_room(self, path: str, port: int) -> None:
        """Remove the lock of a process that has ended. Raise if the name stays taken."""
        try:
            self._remove_dead(path, port)
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            raise UnusableFile(
                f"port {port} cannot be locked: {path} cannot be opened or removed: "
                f"{error.strerror}; ask for another port, move the file if you do not need it, or "
                f"{_spelling.OTHER_LOCKS}",
                port=port,
            ) from error

    def _remove_dead(self, path: str, port: int) -> None:
        try:
            owner = read(path, port)
        except NotOurs as found:
            raise NotOurFile(
                f"port {port} cannot be locked: {path} {found}, so it is no lock of ephemport and "
                "is left alone; ask for another port, move the file if you do not need it, or "
                f"{_spelling.OTHER_LOCKS}",
                port=port,
            ) from None
        if owner is None or remove_if_stale(path, port):
            return
        for _ in range(_SWEEPING):
            # No living process has it. Another process is sweeping, which takes microseconds.
            if os.path.exists(f"/proc/{owner.pid}"):
                break
            time.sleep(0.001)
            if remove_if_stale(path, port):
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


def _folder_identity(found: os.stat_result) -> tuple[int, ...]:
    # We keep no descriptor of it, so a link or a folder of another user can get its inode number.
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid

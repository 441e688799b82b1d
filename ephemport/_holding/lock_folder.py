"""A folder of lock files: which process of which worker has a port of a fixed range."""

import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ephemport._errors import EphemportError


class LockFile:
    """An flock()ed file that says whose a number is. The kernel unlocks it when its owner dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def close(self) -> None:
        # Unlinked while still locked: nobody else can have locked this very file in between.
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)

    def abandon(self) -> None:
        # The lock belongs to the open file, which the parent process still has (man 2 flock).
        os.close(self._descriptor)


class LockFolder:
    """The user's own folder of lock files.

    `path` defaults to the environment's EPHEMPORT_LOCK_DIR, then to a folder of this user below
    the temporary folder. Raises EphemportError unless the folder is the user's own.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        chosen = path or os.environ.get("EPHEMPORT_LOCK_DIR")
        default = Path(tempfile.gettempdir(), f"ephemport-{os.geteuid()}")
        self.path = Path(chosen) if chosen else default
        self._make()
        self.sweep()

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            found = self.path.lstat()
        except OSError as error:
            raise EphemportError(
                f"cannot make the lock folder {self.path}: {error.strerror}; {_CHOOSE}"
            ) from error
        wrong = _what_is_wrong(found)
        if wrong:
            raise EphemportError(f"refusing the lock folder {self.path}: it {wrong}; {_CHOOSE}")

    def try_lock(self, port: int, worker_id: str) -> LockFile | None:
        """Lock `port`, or None when a living process has locked it."""
        path = self.path / f"{port}.lock"
        locked = self._try_flock(path, os.O_CREAT)
        if locked is None:
            return None
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        text = f"worker {worker_id}\npid {os.getpid()}\ntime {since}\n"
        # Not cut to 0 first: ext4 takes that for a file being replaced, and makes the close() wait
        # for the disk (auto_da_alloc in ext4(5)).
        os.ftruncate(locked, os.write(locked, text.encode()))
        return LockFile(path, locked)

    def owner(self, port: int) -> str | None:
        """What the lock file of `port` says, in one line, or None when there is none."""
        try:
            return ", ".join((self.path / f"{port}.lock").read_text().split("\n")).strip(", ")
        except OSError:
            return None

    def sweep(self) -> None:
        """Remove the files whose processes are gone, however old."""
        for path in self.path.glob("*.lock"):
            stale = self._try_flock(path, 0)
            if stale is not None:
                LockFile(path, stale).close()

    def _try_flock(self, path: Path, flags: int) -> int | None:
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise EphemportError(
                    f"refusing the lock file {path}: {error.strerror}; remove it, or {_CHOOSE}"
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            if _is_file_at(path, descriptor):
                return descriptor
            # Its owner unlinked it between our open and our lock.
            os.close(descriptor)


_CHOOSE = "choose another with lock_dir= or EPHEMPORT_LOCK_DIR"


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


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False

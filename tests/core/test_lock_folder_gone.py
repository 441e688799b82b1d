"""Mode "fixed" whose folder is removed, replaced, or cannot be written, while it is in use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ephemport import EphemportError, PortUnavailable
from ephemport._holding.lock_folder import LockFolder
from ephemport._holding.request import Request
from ephemport._holding.sources.fixed import Fixed
from ephemport._reservation import reserve_from
from tests.conftest import ROOT, InNamespace
from tests.core.helpers import become_nobody, in_child, open_descriptors

UNWRITABLE = """
import os, sys
from pathlib import Path
from ephemport import EphemportError, PortsExhausted
from ephemport._holding.lock_folder import LockFolder
before = os.listdir("/proc/self/fd")
try:
    LockFolder(sys.argv[1]).lock(10000, "gw0")
except EphemportError as error:
    assert not isinstance(error, PortsExhausted)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    print(error)
"""
WITHOUT_PROC = """
import os, signal, sys
from ephemport._holding.lock_folder import LockFolder, PortLocked
folder = LockFolder(sys.argv[1])
locked = folder.lock(10000, "gw0")
assert not os.path.exists("/proc/self")
try:
    LockFolder(sys.argv[1]).lock(10000, "gw0")
except PortLocked as error:
    print(error)
locked.close()
assert os.listdir(sys.argv[1]) == []
if os.fork() == 0:
    left = folder.lock(10001, "gw0")
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
assert os.listdir(sys.argv[1]) == ["10001.lock"]
folder.sweep()
assert os.listdir(sys.argv[1]) == []
# Killed in between, it would leave this.
open(sys.argv[1] + "/10002.lock", "w").close()
folder.sweep()
assert os.listdir(sys.argv[1]) == ["10002.lock"]
"""


def in_mounts_of_its_own(commands: str, source: str, *arguments: str) -> str:
    """What Python source text writes, with filesystems that these shell commands have mounted."""
    if os.getuid() != 0:
        pytest.skip("needs root to mount filesystems")
    script = f'set -e; {commands}; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", source, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("chosen", ["default", "made"])
def test_a_folder_of_ours_that_was_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("EPHEMPORT_LOCK_DIR", raising=False)
    made = tmp_path / "a" / "b"
    if chosen == "default":
        LockFolder()  # the folder was there before this one came
    locks = LockFolder(None if chosen == "default" else made)
    first = locks.lock(10000, "gw0")
    shutil.rmtree(locks.path.parent)
    second = locks.lock(10001, "gw0")
    assert locks.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in locks.path.iterdir()] == ["10001.lock"]
    first.close()
    second.close()
    assert list(locks.path.iterdir()) == []


def test_a_folder_of_the_users_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    locks, below = LockFolder(theirs), LockFolder(theirs / "below")
    descriptors = open_descriptors()
    shutil.rmtree(theirs)
    for one in (locks, below):
        with pytest.raises(EphemportError, match="is gone") as caught:
            one.lock(10000, "gw0")
        assert f"the lock folder {one.path} " in str(caught.value)
        assert "make it, or choose another with lock_dir=" in str(caught.value)
        assert not isinstance(caught.value, PortUnavailable)
    assert not theirs.exists()
    assert open_descriptors() == descriptors
    theirs.mkdir(mode=0o700)
    locks.lock(10000, "gw0").close()
    below.lock(10000, "gw0").close()


def test_a_folder_that_was_replaced_is_checked_again(tmp_path: Path) -> None:
    locks = LockFolder(tmp_path / "locks")
    victim = tmp_path / "victim"
    victim.mkdir()
    locks.path.rmdir()
    locks.path.symlink_to(victim)
    with pytest.raises(EphemportError, match="it is a symbolic link"):
        locks.lock(10000, "gw0")
    locks.path.unlink()
    locks.path.mkdir()
    locks.path.chmod(0o777)
    with pytest.raises(EphemportError, match="can be written by others"):
        locks.lock(10000, "gw0")
    locks.path.rmdir()
    locks.path.write_text("precious")
    with pytest.raises(EphemportError, match="is no folder"):
        locks.lock(10000, "gw0")
    assert locks.path.read_text() == "precious"
    assert list(victim.iterdir()) == []


def _says_what_is_wrong(folder: str) -> None:
    os.mkdir(folder, 0o700)
    given = Fixed(range(10000, 10010), LockFolder(folder), "gw0")
    os.rmdir(folder)
    for request in (Request(), Request(port=10000), Request(port=[10000, 0])):
        with pytest.raises(EphemportError, match=f"the lock folder {folder} is gone"):
            reserve_from(given, request)


def test_a_reservation_says_that_the_folder_is_gone(
    in_namespace: InNamespace, tmp_path: Path
) -> None:
    in_namespace(_says_what_is_wrong, str(tmp_path / "locks"))


def test_a_relative_folder_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    locks = LockFolder("locks")
    locked = locks.lock(10000, "gw0")
    monkeypatch.chdir("/")
    locked.close()
    assert list((tmp_path / "locks").iterdir()) == []
    locks.lock(10001, "gw0").close()


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    locks = LockFolder(tmp_path / "locks")
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)
    tmp_path.chmod(0o755)
    os.chown(locks.path, 65534, 65534)

    def work() -> None:
        become_nobody()
        mine = LockFolder(locks.path)
        held = mine.lock(10000, "gw0")
        locks.path.chmod(0o500)
        with pytest.raises(EphemportError, match="cannot be made: Permission denied"):
            mine.lock(10001, "gw0")
        held.close()  # it cannot be removed, and that is no error
        assert [path.name for path in locks.path.iterdir()] == ["10000.lock"]
        mine.sweep()
        locks.path.chmod(0o700)
        mine.sweep()
        assert list(locks.path.iterdir()) == []

    in_child(work)


def test_a_folder_on_a_read_only_disk_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o700)
    said = in_mounts_of_its_own(
        f"mount -t tmpfs -o ro,mode=700 none {folder}", UNWRITABLE, str(folder)
    )
    assert f"{folder}/10000.lock cannot be made: Read-only file system; choose another" in said


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o700)
    said = in_mounts_of_its_own(
        f"mount -t tmpfs -o size=4k,mode=700 none {folder}; echo full >{folder}/full",
        UNWRITABLE + "print(os.listdir(sys.argv[1]))",
        str(folder),
    )
    assert "10000.lock cannot be made: No space left on device" in said
    assert said.endswith("['full']\n")


def test_without_nameless_files_it_locks_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    said = in_mounts_of_its_own("mount -t tmpfs none /proc", WITHOUT_PROC, str(folder))
    assert "port 10000 is locked (worker gw0, pid " in said

"""Mode "fixed": ports of a range in order, a lock file for each, and a hold as well."""

import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ephemport import EphemportError, PortsExhausted, PortUnavailable, Reservation
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._holding.lock_folder import LockFolder
from ephemport._holding.request import Request
from ephemport._holding.sources.fixed import Fixed
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._reservation import reserve_from, reserve_many_from
from tests.conftest import InNamespace
from tests.core.helpers import bound, child, finish, in_child, may_bind, open_descriptors

PORTS = range(10000, 10010)


def source(folder: str | Path, worker: str = "gw0", ports: range = PORTS) -> Fixed:
    return Fixed(ports, LockFolder(folder), worker)


def take(given: Fixed, request: Request | None = None) -> Reservation:
    return reserve_from(given, request or Request())


def locks(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _order(folder: str) -> None:
    fixed = source(folder)
    first, second, third = (take(fixed) for _ in range(3))
    assert [int(first), int(second), int(third)] == [10000, 10001, 10002]
    first.release()
    second.release()
    # Not the lowest free one: its last user may still be closing connections.
    with take(fixed) as fourth:
        assert fourth.port == 10003
    with bound(10004), reserve_many_from(fixed, Request(exclude=[10005]), 4) as group:
        assert group.ports == [10006, 10007, 10008, 10009]
        with take(fixed) as around:
            assert around.port == 10000
    with take(fixed, Request(port=10008)) as asked:
        assert asked.port == 10008
    with reserve_many_from(fixed, Request(), 4, contiguous=True) as row:
        assert row.ports == list(range(row.ports[0], row.ports[0] + 4))
    third.release()
    assert locks(folder) == []


def test_ports_are_given_in_order_behind_the_last(
    in_namespace: InNamespace, tmp_path: Path
) -> None:
    in_namespace(_order, str(tmp_path / "locks"))


def _lock_file(folder: str) -> None:
    fixed = source(folder, "gw3")
    before = int(time.time())
    with take(fixed) as r:
        path = Path(folder, f"{r.port}.lock")
        said = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        assert (said["worker"], said["pid"]) == ("gw3", str(os.getpid()))
        then = time.mktime(time.strptime(said["time"][:19], "%Y-%m-%dT%H:%M:%S"))
        assert before <= then <= time.time()
        assert path.stat().st_mode & 0o777 == 0o600
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        assert not may_bind(r.port, "::")
        assert locks(folder) == [f"{r.port}.lock"]
        with pytest.raises(PortUnavailable, match=r"worker gw3, pid \d+, time") as caught:
            take(source(folder, "gw4"), Request(port=r.port))
        assert folder in str(caught.value)
    assert locks(folder) == []


def test_the_lock_file_says_whose_the_port_is(in_namespace: InNamespace, tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    in_namespace(_lock_file, str(tmp_path / "deep" / "locks"))


def _outside(folder: str) -> None:
    before = open_descriptors()
    fixed = source(folder)
    for port in (9999, 10010, 1):
        with pytest.raises(PortUnavailable, match="outside the range 10000-10009"):
            take(fixed, Request(port=port))
    with take(fixed, Request(port=[9999, 0])) as r:
        assert r.port == 10000
    by = "this process" if can_see_bound_inactive() else HOLDERS_UNSEEN
    with bound(10003) as stranger, pytest.raises(PortUnavailable, match=by):
        take(fixed, Request(port=stranger.getsockname()[1]))
    assert locks(folder) == []
    held = [take(fixed, Request(protocol="both")) for _ in range(10)]
    with pytest.raises(PortsExhausted) as caught:
        take(fixed)
    assert "a port for TCP in the fixed range 10000-10009 of worker 'gw0'" in str(caught.value)
    assert "of its 10 ports 10 are locked" in str(caught.value)
    assert folder in str(caught.value)
    for r in held:
        r.release()
    with pytest.raises(PortsExhausted):
        reserve_many_from(fixed, Request(), 11)
    with pytest.raises(PortsExhausted):
        reserve_many_from(fixed, Request(), 11, contiguous=True)
    assert locks(folder) == []
    assert open_descriptors() == before


def test_it_gives_no_other_ports(in_namespace: InNamespace, tmp_path: Path) -> None:
    in_namespace(_outside, str(tmp_path))


def test_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("EPHEMPORT_LOCK_DIR", raising=False)
    assert LockFolder().path == tmp_path / f"ephemport-{os.geteuid()}"
    monkeypatch.setenv("EPHEMPORT_LOCK_DIR", str(tmp_path / "mine"))
    assert LockFolder().path == tmp_path / "mine"
    assert LockFolder(tmp_path / "other").path == tmp_path / "other"


def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(EphemportError, match="symbolic link"):
        LockFolder(link)
    for mode in (0o777, 0o770, 0o702, 0o1777):
        real.chmod(mode)
        with pytest.raises(EphemportError, match="can be written by others") as caught:
            LockFolder(real)
        assert f"{mode:04o}" in str(caught.value)
        assert "EPHEMPORT_LOCK_DIR" in str(caught.value)
    real.chmod(0o755)
    assert LockFolder(real).path == real
    (tmp_path / "file").touch()
    with pytest.raises(EphemportError, match="is no folder"):
        LockFolder(tmp_path / "file")
    with pytest.raises(EphemportError, match="cannot make the lock folder"):
        LockFolder(tmp_path / "file" / "below")


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to give a folder away")
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(EphemportError, match=r"belongs to another user \(uid 65534\)"):
        LockFolder(theirs)


def _killed(folder: str) -> None:
    readable, writable = os.pipe()

    def holder() -> None:
        held = [take(source(folder, "gw7")) for _ in range(2)]
        os.write(writable, b"%d" % len(held))
        signal.pause()

    with child(holder) as pid:
        assert os.read(readable, 9) == b"2"
        with take(source(folder)) as beside:
            assert beside.port == 10002
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert locks(folder) == ["10000.lock", "10001.lock"]
    with take(source(folder)) as r:  # swept with the making of the folder
        assert locks(folder) == ["10000.lock"]
        assert r.port == 10000


def test_locks_of_the_dead_are_swept(in_namespace: InNamespace, tmp_path: Path) -> None:
    in_namespace(_killed, str(tmp_path))


@pytest.mark.parametrize("folders", [1, 2])
def test_two_processes_with_one_range_never_collide(
    in_namespace: InNamespace, tmp_path: Path, folders: int
) -> None:
    in_namespace(_two_processes, [str(tmp_path / str(n % folders)) for n in range(3)])


def _two_processes(folders: list[str]) -> None:
    readable, writable = os.pipe()
    end, please_end = os.pipe()

    def worker(folder: str) -> None:
        os.close(please_end)
        fixed = source(folder)
        for _ in range(20):
            with take(fixed), take(fixed):
                pass
        held = [take(fixed) for _ in range(3)]
        os.write(writable, "".join(f"{r.port} " for r in held).encode())
        os.read(end, 1)
        for r in held:
            r.release()

    with ExitStack() as stack:
        workers = [
            stack.enter_context(child(lambda folder=folder: worker(folder)))  # type: ignore[misc]
            for folder in folders
        ]
        said = b""
        while len(said.split()) < 9 or not said.endswith(b" "):
            said += os.read(readable, 100)
        assert len(set(said.split())) == 9
        os.close(please_end)
        for pid in workers:
            finish(pid)


def _fork(folder: str) -> None:
    fixed = source(folder)
    with take(fixed) as r:

        def work() -> None:
            assert r.released
            r.release()  # must not take the parent's lock file away
            again = source(folder)
            with pytest.raises(PortUnavailable, match=re.escape(f"pid {os.getppid()}")):
                take(again, Request(port=10000))
            with take(fixed) as own:
                assert own.port == 10001

        in_child(work)
        assert locks(folder) == ["10000.lock"]
        assert not may_bind(10000, "::")
    assert locks(folder) == []


def test_a_forked_child_leaves_the_locks_alone(in_namespace: InNamespace, tmp_path: Path) -> None:
    in_namespace(_fork, str(tmp_path))


def _outlived(folder: str) -> None:
    readable, writable = os.pipe()

    def parent() -> None:
        r = take(source(folder))
        if os.fork() == 0:
            # The grandchild reports it after it has closed the descriptors that it inherited.
            os.write(writable, b"%d" % os.getpid())
        else:
            assert not r.released
        signal.pause()

    with child(parent) as pid:
        grandchild = int(os.read(readable, 20))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with take(source(folder), Request(port=10000)) as r:
            assert not r.released
        os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_keeps_no_lock_alive(in_namespace: InNamespace, tmp_path: Path) -> None:
    in_namespace(_outlived, str(tmp_path))

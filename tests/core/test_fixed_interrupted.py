"""Mode "fixed": exceptions of signal handlers and unusable files leave nothing behind."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ephemport import PortUnavailable
from ephemport._holding.lock_folder import LockFolder, UnusableFile
from ephemport._holding.request import Request
from ephemport._holding.sources.fixed import Fixed
from ephemport._kernel.fork import lock
from ephemport._reservation import reserve_from
from ephemport.compat import PortAllocator
from tests.conftest import InNamespace
from tests.core.helpers import open_descriptors
from tests.core.test_interrupted import (
    Interrupted,
    interrupt_at,
    lines_of,
    nothing_left_behind,
)

IGNORED = ("ignore:unreleased:ResourceWarning", "ignore:unclosed:ResourceWarning")


def one_port(allocator: PortAllocator) -> None:
    with allocator.port_context() as port:
        assert port


def two_ports(allocator: PortAllocator) -> None:
    with allocator.port_range_context(2) as ports:
        assert len(ports) == 2


@pytest.fixture
def lock_given_back() -> Iterator[None]:
    """A trace function can raise between the end of `with lock:` and its release; no signal can."""
    yield
    while lock._is_owned():  # type: ignore[attr-defined]
        lock.release()


@pytest.mark.parametrize("mode", ["fixed", "ephemeral"])
@pytest.mark.parametrize("way", [one_port, two_ports], ids=lambda way: way.__name__)
@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.usefixtures("lock_given_back")
def test_a_block_interrupted_at_every_line_leaves_no_port(
    way: Callable[[PortAllocator], None], mode: str, tmp_path: Path
) -> None:
    allocator = PortAllocator(mode, lock_dir=tmp_path)
    way(allocator)
    before = open_descriptors()
    for line in range(lines_of(lambda: way(allocator))):
        with suppress(Interrupted):
            interrupt_at(line, lambda: way(allocator))
        assert allocator.allocated_ports == [], line
        assert list(tmp_path.iterdir()) == [], line
        assert open_descriptors() == before, line


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.usefixtures("lock_given_back")
def test_a_release_interrupted_at_every_line_can_be_called_again(tmp_path: Path) -> None:
    allocator = PortAllocator("fixed", lock_dir=tmp_path)
    before = open_descriptors()
    line, interrupted = 0, True
    while interrupted:
        port = allocator.allocate_port()
        interrupted = False
        try:
            interrupt_at(line, lambda: allocator.release_port(port))  # noqa: B023
        except Interrupted:
            interrupted = True
        allocator.release_port(port)
        assert list(tmp_path.iterdir()) == [], line
        assert open_descriptors() == before, line
        line += 1
    assert line > 10


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.usefixtures("lock_given_back")
def test_a_release_interrupted_at_every_line_may_be_forgotten(tmp_path: Path) -> None:
    fixed = Fixed(range(13000, 13050), LockFolder(tmp_path), "gw0")
    before = open_descriptors()
    line, interrupted = 0, True
    while interrupted:
        reservation = reserve_from(fixed, Request())
        interrupted = False
        try:
            interrupt_at(line, reservation.release)
        except Interrupted:
            interrupted = True
        del reservation
        assert list(tmp_path.iterdir()) == [], line
        assert open_descriptors() == before, line
        line += 1
    assert line > 10


@pytest.mark.filterwarnings(*IGNORED)
def test_signals_at_random_leave_no_descriptor_and_no_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    allocator = PortAllocator("fixed", lock_dir=tmp_path)
    one_port(allocator)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with nothing_left_behind(capsys):
            for turn in range(1000):
                # If one is lost, the next one ends the loop.
                with suppress(Interrupted):
                    signal.setitimer(signal.ITIMER_REAL, 2e-5 + turn % 40 * 1e-5, 0.05)
                    try:
                        while True:
                            one_port(allocator)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert allocator.allocated_ports == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["append", "overwrite"])
def test_a_lock_that_somebody_wrote_to_is_unlocked_and_left(tmp_path: Path, change: str) -> None:
    locks = LockFolder(tmp_path)
    before = open_descriptors()
    locked = locks.lock(10000, "gw0")
    path = tmp_path / "10000.lock"
    with path.open("a" if change == "append" else "w") as file:
        file.write("note\n")
    text = path.read_bytes()
    locked.close()
    assert open_descriptors() == before
    assert path.read_bytes() == text
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _leased(folder: str) -> None:
    fixed = Fixed(range(10000, 10010), LockFolder(folder), "gw0")
    path = Path(folder, "10000.lock")
    path.write_text("theirs")
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("rb+") as leased:
        # Whoever opens the file now must wait until the lease is given up.
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with reserve_from(fixed, Request()) as r:
            assert r.port == 10001
        with pytest.raises(UnusableFile, match=r"10000\.lock cannot be opened or removed") as said:
            reserve_from(fixed, Request(port=10000))
        assert isinstance(said.value, PortUnavailable)
    assert path.read_text() == "theirs"
    assert os.listdir(folder) == ["10000.lock"]


def test_a_file_that_cannot_be_opened_is_passed_over(
    in_namespace: InNamespace, tmp_path: Path
) -> None:
    in_namespace(_leased, str(tmp_path))

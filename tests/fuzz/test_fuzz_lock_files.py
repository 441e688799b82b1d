"""A lock folder full of other things: they stay as they are, and nothing is waited for.

Of what stands there only two kinds are ephemport's: locks of the living, which stay, and locks of
the dead, which are removed.
"""

import fcntl
import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemport import PortsExhausted
from ephemport.compat import PortAllocator
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples
from tests.fuzz.watch import Watch

# Those that a worker asks for first.
RANGE = range(13000, 13100)
FOLDER, OUTSIDE = "locks", "outside"
_SPARSE = 1 << 40


class Entry(NamedTuple):
    """Something that stands in the folder."""

    name: str
    kind: str
    text: bytes


def lock_text(port: int, pid: str = "4194305") -> bytes:
    return (
        f"ephemport lock, format 1\nport {port}\nworker gw0\npid {pid}\n"
        f"time 2026-01-01T00:00:00+0000\nid 0123456789abcdef\n"
    ).encode()


ports = st.sampled_from([13000, 13001, 13002, 13050, 13099, 10000, 1, 65535])
names = st.one_of(
    ports.map(lambda port: f"{port}.lock"),
    st.sampled_from(
        [
            *("0.lock", "65536.lock", "99999.lock", "013000.lock", "13000.lock.bak", "13000.LOCK"),
            *("Cargo.lock", ".lock", "lock", "+13000.lock", " 13000.lock", "13000.lock\n"),
            *("\udcff.lock", "١٣٠٠٠.lock", "-1.lock", "9" * 200 + ".lock", "13000"),
        ]
    ),
)
_WHOLE = lock_text(13000)
texts = st.one_of(
    st.sampled_from(
        [
            *[_WHOLE] * 5,
            *(b"", b"\0", b"\n", b"worker gw0\npid 1\n", _WHOLE + b"\n", b"\n" + _WHOLE),
            *(_WHOLE[:-1], _WHOLE.replace(b"\n", b"\r\n"), _WHOLE.replace(b"1\n", b"2\n", 1)),
            *(_WHOLE.replace(b"gw0", b""), _WHOLE.replace(b"gw0", b"\xff" * 2000)),
            *(_WHOLE.replace(b"4194305", b"9" * 5000), _WHOLE.replace(b"4194305", b"-1")),
            *(_WHOLE * 2, b"x" * 5000, _WHOLE.replace(b"13000", b"013000")),
        ]
    ),
    st.integers(0, len(_WHOLE)).map(lambda end: _WHOLE[:end]),
    st.binary(max_size=200),
)
others = st.builds(
    Entry,
    names,
    st.sampled_from(
        [
            *("file", "file", "file", "locked file", "sparse", "folder", "full folder", "fifo"),
            *("socket", "link", "dangling link", "loop", "link to a device", "hard link"),
        ]
    ),
    texts,
)


def ours(kind: str) -> st.SearchStrategy[Entry]:
    pids = st.sampled_from(["4194305", "1", "0", "9" * 1000])
    return st.builds(
        lambda port, pid: Entry(f"{port}.lock", kind, lock_text(port, pid)), ports, pids
    )


entries = st.lists(
    st.one_of(others, others, ours("dead"), ours("living")),
    max_size=6,
    unique_by=lambda entry: entry.name,
)


def make(entry: Entry, opened: ExitStack) -> None:
    path = Path(FOLDER, entry.name)
    kind = entry.kind
    if kind in ("file", "locked file", "dead", "living"):
        path.write_bytes(entry.text)
        if kind in ("locked file", "living"):
            file = opened.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX)
    elif kind == "sparse":
        path.write_bytes(entry.text)
        os.truncate(path, _SPARSE)
    elif kind in ("folder", "full folder"):
        path.mkdir()
        if kind == "full folder":
            (path / "13000.lock").write_bytes(_WHOLE)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # Bound where it has a short name: a Unix address has 108 bytes.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket")
        os.rename("socket", path)
    elif kind == "hard link":
        os.link(f"{OUTSIDE}/13000.lock", path)
    else:
        targets = {"link": f"../{OUTSIDE}/13000.lock", "link to a device": "/dev/zero"}
        path.symlink_to(targets.get(kind, entry.name if kind == "loop" else "nothing"))


def look(folder: str) -> dict[str, tuple[object, ...]]:
    """What stands in a folder: what each entry is, and what it says or leads to."""
    found: dict[str, tuple[object, ...]] = {}
    for name in os.listdir(folder):
        path = Path(folder, name)
        status = path.lstat()
        said: object = None
        if path.is_symlink():
            said = os.readlink(path)
        elif path.is_dir():
            said = sorted(os.listdir(path))
        elif path.is_file() and status.st_size < _SPARSE:
            said = path.read_bytes()
        # Reading changes the times of access alone.
        found[name] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, said)
    return found


def is_hard_link_to_a_lock(entry: Entry) -> bool:
    """A hard link to a lock file of ours that nobody has locked is a lock file of ours too."""
    return entry.kind == "hard link" and entry.name == "13000.lock"


def use(allocator: PortAllocator, wanted: int, taken: set[int]) -> None:
    """Some ports, by name and not: none whose name is taken."""
    some = [allocator.allocate_port(), allocator.allocate_port("testing", wanted)]
    some += allocator.allocate_port_range(3)
    assert len(set(some)) == len(some)
    assert not taken & set(some)
    assert {f"{port}.lock" for port in some} <= set(os.listdir(FOLDER))
    allocator.release_port(some[0])
    assert f"{some[0]}.lock" not in os.listdir(FOLDER)


def fuzz_lock_files() -> None:
    watch = Watch()

    @given(entries, st.sampled_from([13000, 13001, 13050]), st.sampled_from([True, *[False] * 9]))
    @examples(90)
    def one_folder(some: list[Entry], wanted: int, to_the_end: bool) -> None:
        for folder in (FOLDER, OUTSIDE):
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder, 0o700)
        Path(OUTSIDE, "13000.lock").write_bytes(_WHOLE)
        with ExitStack() as opened:
            for entry in some:
                make(entry, opened)
            before = look(FOLDER)
            outside = look(OUTSIDE)
            dead = {one.name for one in some if one.kind == "dead"}
            dead |= {one.name for one in some if is_whole(one) or is_hard_link_to_a_lock(one)}
            stays = {name: what for name, what in before.items() if name not in dead}
            named = {f"{port}.lock": port for port in RANGE}
            taken = {named[name] for name in stays if name in named}
            with PortAllocator("fixed", "gw0", FOLDER) as allocator:
                assert look(FOLDER) == stays
                use(allocator, wanted, taken)
                if to_the_end:
                    use_everything(allocator, len(RANGE) - len(taken))
            assert look(FOLDER) == stays
            assert look(OUTSIDE) == outside
        watch.check()

    one_folder()
    watch.check_lock()


def is_whole(entry: Entry) -> bool:
    """Whether a file that was made up happens to be a lock, and nobody has locked it."""
    return (
        entry.kind == "file"
        and entry.name == "13000.lock"
        and entry.text
        in (
            _WHOLE,
            _WHOLE.replace(b"gw0", b""),
            _WHOLE.replace(b"gw0", b"\xff" * 2000),
        )
    )


def use_everything(allocator: PortAllocator, free: int) -> None:
    """All that are left, and one more: the error counts what stands in the way."""
    left = free - len(allocator.allocated_ports)
    allocator.allocate_port_range(left)
    with pytest.raises(PortsExhausted, match=r"of its 100 ports \d+ are locked by ephemport"):
        allocator.allocate_port()


def test_lock_files(fuzz: Fuzz) -> None:
    fuzz(fuzz_lock_files)

"""The mark of every process that has held ports. The kernel shows it to those who may look.

The kernel does not say who made a socket, and a hold is a socket like any other. A mark on each
socket would cost a system call for each reservation. So the process is marked instead, once, with
its first hold. The mark is a piece of memory of an unusual size. It is shared memory, so the kernel
lists it separately in /proc/PID/maps (proc_pid_maps(5)). It needs no descriptor, goes where holds
go (fork() inherits it, exec() drops it) and ends with the process. Only one page of it is used: it
begins with our name, and names the worker and the test that runs.
"""

import mmap
import os
import re
from contextlib import suppress
from typing import NamedTuple

from ephemport._kernel.processes import mappings, read_memory

# In bytes. Pages that are not touched take no memory: only the first one does.
_SIZE = 0x3A7000
_MAGIC = b"ephemport mark\n\0"
_WORKER_BYTES = 48
_TEST_BYTES = 448
# How the kernel lists shared memory without a file (mm/shmem.c, shmem_zero_setup).
_SHOWN = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-s 00000000 \S+ \d+ +/dev/zero \(deleted\)$", re.MULTILINE
)

_memory: mmap.mmap | None = None
# The test to show as soon as there is a mark.
_test = ""


class Mark(NamedTuple):
    """What a process shows: its name as a pytest-xdist worker and the test that runs, or None."""

    worker: str | None
    test: str | None


def mark_this_process() -> None:
    """Mark this process if it has no mark. Without one its holds are hard to recognise."""
    global _memory
    if _memory is None:
        with suppress(OSError, ValueError):
            _memory = mmap.mmap(-1, _SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
            # pytest-xdist sets this in a worker before it loads plugins, after the worker's exec().
            worker = os.environ.get("PYTEST_XDIST_WORKER", "")
            _memory[: len(_MAGIC)] = _MAGIC
            _write(len(_MAGIC), _WORKER_BYTES, worker)
            # pytest sets this variable, with the phase at its end: "test_it.py::test_a (setup)".
            running = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            show_test(_test or running)


def show_test(test: str) -> None:
    """Show which test runs in this process, "" for none. No system call."""
    global _test
    _test = test
    if _memory is not None:
        _write(len(_MAGIC) + _WORKER_BYTES, _TEST_BYTES, test)


def mark_of(pid: int) -> Mark | None:
    """Return the mark of process `pid`, None if it has none.

    Raises PermissionError if it may not be read, LookupError if there is no such process.
    """
    text = mappings(pid)
    if text is None:
        if os.path.exists(f"/proc/{pid}"):
            raise PermissionError(f"the memory map of process {pid} may not be read")
        raise LookupError(f"no process {pid}")
    for begin, end in _SHOWN.findall(text):
        if int(end, 16) - int(begin, 16) == _SIZE:
            said = read_memory(pid, int(begin, 16), len(_MAGIC) + _WORKER_BYTES + _TEST_BYTES)
            if said is None:
                return Mark(None, None)  # Only children may be traced here (yama).
            if said.startswith(_MAGIC):
                said = said.removeprefix(_MAGIC)
                return Mark(_text(said[:_WORKER_BYTES]), _text(said[_WORKER_BYTES:]))
    return None


def _write(offset: int, size: int, text: str) -> None:
    assert _memory is not None
    data = text.encode("utf-8", "backslashreplace")[: size - 1]
    _memory[offset : offset + size] = data.ljust(size, b"\0")


def _text(data: bytes) -> str | None:
    # The text may be cut in the middle of a character.
    return data.rstrip(b"\0").decode("utf-8", "ignore") or None

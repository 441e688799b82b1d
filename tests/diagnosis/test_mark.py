"""The mark: what it costs, what it shows, where it goes."""

import os
import re
import subprocess
import sys

import pytest

from ephemport._looking import mark as _mark
from tests.conftest import ROOT, run_python
from tests.core.helpers import eventually, in_child


def test_a_process_is_marked_with_its_first_hold() -> None:
    done = run_python(
        """
import os
import ephemport
from ephemport._looking.mark import mark_of
ephemport.reserve, ephemport.listeners, ephemport.diagnose
assert mark_of(os.getpid()) is None
with ephemport.reserve():
    assert mark_of(os.getpid()) is not None
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def marked() -> None:
    _mark.mark_this_process()


def test_no_descriptor_and_a_page() -> None:
    done = run_python(
        """
import os, resource
def size():
    return int(open("/proc/self/statm").read().split()[2])  # shared pages
def opened():
    return set(os.listdir("/proc/self/fd"))
import ephemport._kernel.processes
import mmap, re, contextlib
before, files = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, opened()
from ephemport._looking import mark as _mark
_mark._memory = None
_mark.mark_this_process()
assert opened() == files
rollup = [line for line in open("/proc/self/smaps").read().split("/dev/zero (deleted)")[1:]]
assert all("Rss:                   4 kB" in one for one in rollup), rollup
"""
    )
    assert done.returncode == 0, done.stderr


def test_a_stranger_has_none() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert _mark.mark_of(process.pid) is None
        process.kill()
    with pytest.raises(LookupError):
        eventually(lambda: _mark.mark_of(process.pid))


def test_memory_that_only_looks_like_it() -> None:
    done = run_python(
        """
import mmap, os
import ephemport._looking.mark as mark
mark._memory = None  # ours goes with it
import gc; gc.collect()
assert mark.mark_of(os.getpid()) is None
memory = mmap.mmap(-1, mark._SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
assert mark.mark_of(os.getpid()) is None
mark.mark_this_process()
assert mark.mark_of(os.getpid()) is not None
"""
    )
    assert done.returncode == 0, done.stderr


def test_fork_inherits_it_and_a_long_test_is_cut(marked: None) -> None:
    def work() -> None:
        assert _mark.mark_of(os.getpid()) is not None
        _mark.show_test("ü" * 1000)
        mark = _mark.mark_of(os.getppid())
        assert mark is not None
        assert mark.test == "ü" * 223

    try:
        in_child(work)
    finally:
        _mark.show_test("")
    mark = _mark.mark_of(os.getpid())
    assert mark is not None
    assert mark.test is None


def test_nothing_but_what_is_displayed_depends_on_the_mark() -> None:
    package = ROOT / "ephemport"
    # What asks for a mark, for what is concluded from it, and for the answer.
    allowed = {
        r"\bmark_of\b": {"_looking/mark.py", "_looking/recognition.py"},
        r"\bRecognizer\b": {"_looking/recognition.py", "_looking/diagnosis.py"},
        r"\.ephemport\b(?! import)": {
            "_findings.py",
            "_looking/time_wait.py",
            "_serving/hints.py",
            "cli/ls.py",
        },
    }
    for pattern, files in allowed.items():
        asking = {
            str(path.relative_to(package))
            for path in package.rglob("*.py")
            if re.search(pattern, re.sub(r"^ *(from|import) .*", "", path.read_text(), flags=re.M))
        }
        assert asking <= files, pattern

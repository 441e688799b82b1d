"""Processes that we start, looked at from outside."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemport._kernel import processes
from ephemport._kernel.processes import (
    command_line,
    descendants,
    is_running,
    owners,
    thread_group,
    user_of,
    was_told,
)

NOBODY = 65534
WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"


class Child(subprocess.Popen[str]):
    """A process that reports its start, and ends when we say so or when we end."""

    def __init__(self, args: list[str | bytes], **kwargs: Any) -> None:
        pipe = subprocess.PIPE
        super().__init__(args, stdin=pipe, stdout=pipe, text=True, **kwargs)
        assert self.stdout
        self.first_line = self.stdout.readline().strip()


def python(script: str, *arguments: str | bytes, **kwargs: Any) -> Child:
    return Child([sys.executable, "-c", script, *arguments], **kwargs)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_owners(listener: socket.socket) -> None:
    me, number = os.getpid(), inode(listener)
    assert owners([number]) == {number: [me]}
    with python(WAIT, pass_fds=[listener.fileno()]) as child:
        assert owners([number]) == {number: sorted([me, child.pid])}
        assert owners([number], within=[child.pid]) == {number: [child.pid]}
        assert owners([number], within=[]) == {}
        child.communicate()
    assert owners([number], within=[me, child.pid]) == {number: [me]}


def test_owners_of_several_and_of_none(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second, second.dup():
        numbers = [inode(listener), inode(second), 0]
        assert owners(numbers) == {n: [os.getpid()] for n in numbers[:2]}
        gone = inode(second)
    assert owners([gone, 0]) == owners([]) == {}


def test_owners_passes_over_other_users_processes(
    listener: socket.socket, ask: Callable[..., Any], as_root: None
) -> None:
    question = "answer(processes.owners([int(sys.argv[1])]))"
    number = inode(listener)
    assert ask(question, number) == {str(number): [os.getpid()]}
    assert ask("become_nobody();" + question, number) == {}


@pytest.mark.parametrize("children_files", [True, False])
def test_descendants_of_three_levels(monkeypatch: pytest.MonkeyPatch, children_files: bool) -> None:
    if children_files and not processes._has_children_files():
        pytest.skip("CONFIG_PROC_CHILDREN")
    monkeypatch.setattr(processes, "_has_children_files", lambda: children_files)
    nested = """
import os, subprocess, sys
os.write(int(sys.argv[2]), b"%d\\n" % os.getpid())
if sys.argv[1] != "0":
    subprocess.Popen([sys.executable, "-c", sys.argv[3], str(int(sys.argv[1]) - 1), *sys.argv[2:]],
                     pass_fds=[int(sys.argv[2])])
else:
    print("ready", flush=True)
sys.stdin.read()
"""
    reader, writer = os.pipe()
    with open(reader) as pids, python(nested, "2", str(writer), nested, pass_fds=[writer]) as top:
        os.close(writer)
        tree = [int(pids.readline()) for _ in range(3)]
        assert tree[0] == top.pid
        assert descendants(top.pid) == tree
        assert descendants(tree[1]) == tree[1:]
        assert descendants(tree[2]) == tree[2:]
        assert set(tree) < set(descendants(os.getpid()))
        top.communicate()
    assert descendants(top.pid) == []


def test_descendants_started_by_another_thread() -> None:
    started, done = threading.Event(), threading.Event()
    found: list[int] = []

    def start() -> None:
        with python(WAIT) as child:
            found.append(child.pid)
            started.set()
            done.wait(20)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert started.wait(20)
        assert found[0] in descendants(os.getpid())
    finally:
        done.set()
        thread.join()


def test_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert is_running(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.pid}")
    assert not is_running(child.pid)
    assert descendants(child.pid) == []
    assert child.pid not in descendants(os.getpid())
    name = Path(f"/proc/{child.pid}/comm").read_text().strip()
    assert (user_of(child.pid), command_line(child.pid)) == (os.getuid(), f"[{name}]")
    child.wait()
    assert not is_running(child.pid)
    assert command_line(child.pid) is None
    assert command_line(child.pid) is None
    assert user_of(child.pid) is None
    assert thread_group(child.pid) is None


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="syscall numbers")
def test_a_process_whose_first_thread_ended_is_running(eventually: Callable[..., Any]) -> None:
    script = """
import ctypes, os, sys, threading
threading.Thread(target=lambda: (print("ready", flush=True), sys.stdin.read(), os._exit(0))).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""
    with python(script) as child:
        eventually(lambda: processes._stat_fields(child.pid)[0] == b"Z")  # type: ignore[index]
        assert is_running(child.pid)
        child.communicate()


def test_a_name_made_to_confuse() -> None:
    script = "open('/proc/self/comm', 'w').write('a) Z 1 (b');" + WAIT
    with python(script) as child:
        assert Path(f"/proc/{child.pid}/comm").read_text() == "a) Z 1 (b\n"
        assert is_running(child.pid)
        assert child.pid in processes._child_map()[os.getpid()]
        child.communicate()


def test_command_line() -> None:
    with python(WAIT, "two words", "it's", b"\xff") as child:
        text = command_line(child.pid)
        assert text == shlex.join([sys.executable, "-c", WAIT, "two words", "it's", "\\xff"])
        assert (user_of(child.pid), command_line(child.pid)) == (os.getuid(), text)
        child.communicate()


def test_a_title_that_a_program_set_itself() -> None:
    # prctl(PR_SET_MM) needs privilege; overwriting the arguments in place is what others do.
    script = """
import os, re
start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[45])
size = len(open("/proc/self/cmdline", "rb").read())
with open("/proc/self/mem", "r+b") as memory:
    memory.seek(start)
    memory.write(b"worker" + bytes(size - 6))
"""
    with python(script + WAIT) as child:
        assert command_line(child.pid) == "worker"
        child.communicate()


def test_a_long_command_line() -> None:
    with python(WAIT, "x" * 100_000) as child:
        text = command_line(child.pid)
        assert text is not None
        assert text.endswith(" " + "x" * 100_000)
        child.communicate()


def test_user_of(as_root: None) -> None:
    with python(WAIT) as child:
        assert user_of(child.pid) == os.getuid()
        child.communicate()
    with python(f"import os, sys; os.setresuid({NOBODY}, 0, 0);" + WAIT) as child:
        assert user_of(child.pid) == NOBODY
        child.communicate()


def test_thread_group() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(20,))
    thread.start()
    try:
        assert thread.native_id is not None
        assert thread.native_id != os.getpid()
        assert thread_group(thread.native_id) == thread_group(os.getpid()) == os.getpid()
    finally:
        done.set()
        thread.join()


def test_a_process_that_has_just_been_started_was_told() -> None:
    """Popen() may return before the kernel shows the arguments: often, on a busy machine."""
    for _ in range(200):
        with subprocess.Popen(["sleep", "43210"]) as process:
            try:
                told = was_told(process.pid, "43210")
            finally:
                process.kill()
        assert told
        assert not was_told(process.pid, "43210")

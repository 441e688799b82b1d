"""What an assisted start leaves behind: nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ephemport._kernel import other_process as _caller
from ephemport._serving.assist import start_assisted
from ephemport._serving.assist import supervisor as _supervisor
from tests.assist.conftest import NewHold, Start

# Waits for a line, binds, and reports the result.
BIND_ON_DEMAND = """
import socket
print("ready", flush=True)
input()
try:
    socket.socket().bind(("127.0.0.1", 0))
    print("bound", flush=True)
except OSError as error:
    print(error.errno, flush=True)
"""


def supervisors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ephemport")]


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def under_a_filter(task: str) -> bool:
    try:
        return "Seccomp:\t0" not in Path(f"/proc/self/task/{task}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_supervisors() -> None:
    for thread in supervisors():
        thread.join(20)
    assert supervisors() == []


@pytest.fixture(autouse=True)
def nobody_is_left() -> None:
    wait_for_supervisors()


def test_thread_and_listener_end_with_the_last_process_below(
    start: Start, new_hold: NewHold
) -> None:
    held = new_hold()
    before = descriptors()
    server = start(["sh", "-c", "echo up; read _"], [held])
    assert server.line() == "up"
    assert len(supervisors()) == 1
    assert sum("seccomp" in link for link in descriptors().values()) == 1
    server.end()
    wait_for_supervisors()
    assert descriptors() == before


def test_a_grandchild_keeps_its_supervisor(
    start: Start, start_python: Start, new_hold: NewHold
) -> None:
    held = new_hold()
    program = f"""
import os, socket
if os.fork():
    os._exit(0)
print("forked", flush=True)
input()
sock = socket.socket()
sock.bind(("127.0.0.1", {held.port}))
sock.listen()
print("listening", flush=True)
input()
"""
    server = start_python(program, [held])
    assert server.line() == "forked"
    server.process.wait()
    server.say()
    assert server.line() == "listening"
    assert len(supervisors()) == 1
    server.say()
    wait_for_supervisors()


def test_an_error_of_start_is_the_callers_and_leaks_nothing(new_hold: NewHold) -> None:
    held = new_hold()
    before = descriptors()
    for _ in range(20):
        with pytest.raises(FileNotFoundError, match="/no/such/program"):
            start_assisted(lambda: subprocess.Popen(["/no/such/program"]), [held])
    wait_for_supervisors()
    assert descriptors() == before


def test_many_starts_leak_nothing(new_hold: NewHold) -> None:
    held = new_hold()
    before = descriptors()
    for _ in range(200):
        start_assisted(lambda: subprocess.Popen(["/bin/true"]), [held]).wait()
    wait_for_supervisors()
    assert descriptors() == before


def test_the_filter_is_on_nobody_but_the_child() -> None:
    child = start_assisted(lambda: subprocess.Popen(["cat"], stdin=-1), ())
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    deadline = time.monotonic() + 20
    while any(under_a_filter(task) for task in os.listdir("/proc/self/task")):
        # Thread.join() returns before the kernel's thread is gone.
        assert time.monotonic() < deadline
    child.communicate()


def test_threads_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's would put the filter on the caller, for life."""

    class Inline(threading.Thread):
        def start(self) -> None:
            if self.name == "ephemport-start":
                self.run()
            else:
                super().start()

        def join(self, timeout: float | None = None) -> None:
            if self.name != "ephemport-start":
                super().join(timeout)

    monkeypatch.setattr(threading, "Thread", Inline)
    with pytest.raises(RuntimeError, match="gevent"):
        start_assisted(lambda: None, ())
    monkeypatch.undo()
    assert "Seccomp:\t0" in Path("/proc/thread-self/status").read_text()


def test_no_more_threads_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in ("ephemport-assist", "ephemport-start"):

        class Refused(threading.Thread):
            def start(self, refused: str = refused) -> None:
                if self.name == refused:
                    raise RuntimeError("can't start new thread")
                super().start()

        monkeypatch.setattr(threading, "Thread", Refused)
        with pytest.raises(RuntimeError, match="new thread"):
            start_assisted(lambda: None, ())
        monkeypatch.undo()
        wait_for_supervisors()


@pytest.mark.parametrize("forks", [False, True], ids=["", "with a forked child that lives on"])
def test_binds_fail_once_the_supervisor_is_gone(start_python: Start, forks: bool) -> None:
    program = f"""
import os, subprocess, sys
from ephemport._serving.assist import start_assisted
child = start_assisted(
    lambda: subprocess.Popen([sys.executable, "-c", {BIND_ON_DEMAND!r}]), ()
)
if {forks} and os.fork() == 0:
    os.read(FD, 1)
    os._exit(0)
print(child.pid, flush=True)
child.wait()
"""
    read, write = os.pipe()
    parent = start_python(program.replace("FD", str(read)), pass_fds=[read])
    os.close(read)
    said = {parent.line(), parent.line()}
    assert "ready" in said
    parent.process.kill()
    parent.process.wait()
    parent.say()
    assert parent.line() == str(errno.ENOSYS)
    os.close(write)


def test_under_churn(start_python: Start) -> None:
    """Starts from many threads, beside threads that fork and threads that compute."""
    program = """
import os, subprocess, sys, threading, time
from ephemport._serving.assist import start_assisted
from ephemport._holding.acquire import hold

SERVER = '''
import socket, sys
sock = socket.socket(type=int(sys.argv[2]))
sock.bind(("127.0.0.1", int(sys.argv[1])))
if sys.argv[2] == "1":
    sock.listen()
print("up", flush=True)
'''
stop = threading.Event()
failed = []

def compute():
    while not stop.is_set():
        sum(range(1000))

def fork():
    while not stop.is_set():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

def start(turn):
    try:
        for count in range(15):
            held = hold(0, "both")
            held.open()
            kind = 1 + (turn + count) % 2
            args = [sys.executable, "-S", "-E", "-c", SERVER, str(held.port), str(kind)]
            child = start_assisted(lambda: subprocess.Popen(args, stdout=-1), [held])
            if child.communicate()[0] != b"up\\n":
                failed.append(child.returncode)
            held.close()
    except BaseException as error:
        failed.append(repr(error))

others = [threading.Thread(target=target, daemon=True) for target in (compute, fork, fork)]
starters = [threading.Thread(target=start, args=(turn,)) for turn in range(6)]
for thread in others + starters:
    thread.start()
for thread in starters:
    thread.join()
stop.set()
for thread in others:
    thread.join()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(10)
print("failed:", failed, "threads:", threading.active_count(), flush=True)
"""
    server = start_python(program, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert server.line() == "failed: [] threads: 1"


def test_a_signal_does_not_interrupt_a_bind_that_is_being_answered(
    start_python: Start, new_hold: NewHold
) -> None:
    """Without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV a restarted UDP bind would be a second one."""
    held = new_hold("udp")
    program = f"""
import signal, socket
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
failed = set()
for _ in range(2000):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", {held.port}))
        except OSError as error:
            failed.add(error.strerror)
print(failed, flush=True)
"""
    assert start_python(program, [held]).line() == "set()"


def test_a_killed_caller_leaves_the_supervisor_working(
    start_python: Start, new_hold: NewHold
) -> None:
    held = new_hold()
    program = f"""
import os, signal, socket, time
for delay in range(100):
    pid = os.fork()
    if pid == 0:
        while True:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", {held.port}))
    time.sleep(0.0001 * (delay % 20))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
sock = socket.socket()
sock.bind(("127.0.0.1", {held.port}))
sock.listen()
print("listening", flush=True)
"""
    assert start_python(program, [held]).line() == "listening"


@pytest.mark.parametrize("when", ["_NOTIF_RECV", "_NOTIF_ID_VALID", "_NOTIF_SEND"])
def test_a_caller_killed_at_a_bad_moment(
    start_python: Start, new_hold: NewHold, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    held = new_hold()
    program = f"""
import os, socket
def serve():
    sock = socket.socket()
    sock.bind(("127.0.0.1", {held.port}))
    sock.listen()
    print("listening", flush=True)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    input()
    serve()
    os._exit(0)
os.wait()
input()
serve()
"""
    victims: list[int] = []
    answers: SimpleQueue[int | None] = SimpleQueue()
    changed: list[int] = []
    ioctl = fcntl.ioctl
    change = _caller.set_reuse_address

    def deadly(fd: int, request: int, *arguments: Any) -> object:
        if request == getattr(_supervisor, when) and victims:
            victim = victims.pop()
            os.kill(victim, signal.SIGKILL)
            while Path(f"/proc/{victim}").exists():
                time.sleep(0.001)
            try:
                return ioctl(fd, request, *arguments)
            except OSError as error:
                answers.put(error.errno)
                raise
        return ioctl(fd, request, *arguments)

    def recorded(fd: int, value: int) -> None:
        changed.append(fd)
        change(fd, value)

    monkeypatch.setattr(fcntl, "ioctl", deadly)
    monkeypatch.setattr(_supervisor, "set_reuse_address", recorded)
    server = start_python(program, [held])
    victims.append(int(server.line()))
    server.say()
    assert answers.get(timeout=20) == errno.ENOENT
    server.say()
    assert server.line() == "listening"
    # A caller that ended before the check must not be mistaken for another one.
    assert len(changed) == (2 if when == "_NOTIF_SEND" else 1)


@pytest.mark.parametrize(
    ("module", "function", "kind"),
    [
        ("ephemport._serving.assist", "install_filter", "seccomp"),
        ("ephemport._serving.assist.supervisor", "socket_option", "socket"),
    ],
)
def test_a_fork_in_between_carries_nothing_away(
    start_python: Start, module: str, function: str, kind: str
) -> None:
    program = f"""
import importlib, os, subprocess, sys, threading
from ephemport._serving.assist import start_assisted
from ephemport._holding.acquire import hold

module = importlib.import_module({module!r})
original = module.{function}
reached, forked = threading.Event(), threading.Event()
read, write = os.pipe()

def stop_here(*arguments):
    result = original(*arguments)
    if not reached.is_set():
        reached.set()
        forked.wait(0.5)  # as long as the lock is held it cannot be
    return result

def descriptors():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + name))
        except FileNotFoundError:
            pass
    return sum({kind!r} in link for link in links)

def fork():
    reached.wait()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(descriptors()).encode())
        os._exit(0)
    forked.set()
    os.waitpid(pid, 0)

thread = threading.Thread(target=fork)
thread.start()
held = hold(0, "tcp")
held.open()
module.{function} = stop_here
serve = "import socket; s = socket.socket(); s.bind(('127.0.0.1', %d)); input()" % held.port
child = start_assisted(
    lambda: subprocess.Popen([sys.executable, "-c", serve], stdin=-1, close_fds=True), [held]
)
thread.join()
child.communicate(b"\\n")
print(os.read(read, 10).decode(), flush=True)
"""
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    assert start_python(program, env=env).line() == "0"


def test_a_living_child_does_not_keep_the_program(start_python: Start) -> None:
    program = """
import subprocess
from ephemport._serving.assist import start_assisted
child = start_assisted(lambda: subprocess.Popen(["cat"], stdout=2), ())
print("end", flush=True)
"""
    parent = start_python(program, stderr=subprocess.DEVNULL)
    assert parent.line() == "end"
    parent.process.wait(20)


def test_an_error_in_here_is_no_error_of_the_server(
    start_python: Start, new_hold: NewHold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(_supervisor, "_in_the_way", fail)
    held = new_hold()
    program = f"""
import socket
for port in ({held.port}, 0):
    try:
        socket.socket().bind(("127.0.0.1", port))
        print("bound", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    server = start_python(program, [held])
    assert [server.line(), server.line()] == ["Address already in use", "bound"]


def test_importing_is_light(start_python: Start) -> None:
    program = """
import sys
before = set(sys.modules)
import ephemport._serving.assist
print({"ctypes", "subprocess"} & set(sys.modules), flush=True)
"""
    assert start_python(program).line() == "set()"


def test_the_time_it_takes(start_python: Start, new_hold: NewHold) -> None:
    """A bind of a held port is too fast to notice, also on a busy machine."""
    held = new_hold()
    program = f"""
import socket, time
took = []
for _ in range(200):
    with socket.socket() as sock:
        began = time.perf_counter()
        sock.bind(("127.0.0.1", {held.port}))
        took.append(time.perf_counter() - began)
print(sorted(took)[100], flush=True)
"""
    assert float(start_python(program, [held]).line()) < 0.01

"""When a process has ended: with a pidfd, without one, and without /proc."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from ephemport._kernel import process_end
from ephemport._kernel.process_end import ProcessEnd
from tests.core.helpers import eventually, in_child
from tests.sandbox.refusing import call_named, refuse

# How the kernel, or what stands before it, answers pidfd_open(). None: it does what it should.
ANSWERS = (None, errno.ENOSYS, errno.EPERM, errno.EINVAL)


def under(answer: int | None, work: Callable[[], None]) -> None:
    """Do the work in a forked child, under a filter that answers pidfd_open() so."""

    def filtered() -> None:
        if answer is not None:
            refuse(call_named("pidfd_open"), error=answer)
        work()

    in_child(filtered)


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"])


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_child(answer: int | None) -> None:
    def work() -> None:
        child = sleeper()
        end = ProcessEnd(child.pid)
        assert bool(end.descriptors) == (answer is None)
        assert not end.has_come
        assert end.status() is None
        child.send_signal(signal.SIGKILL)
        eventually(lambda: end.has_come)
        assert end.status() == -signal.SIGKILL
        assert child.wait() == -signal.SIGKILL
        assert end.has_come
        with pytest.raises(ChildProcessError):
            end.status()
        end.close()

    under(answer, work)


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_child(answer: int | None) -> None:
    def work() -> None:
        shell = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!"], stdout=subprocess.PIPE)
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.wait()
        end = ProcessEnd(pid)
        assert not end.has_come
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: end.has_come)

    under(answer, work)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_sleep_ends_with_the_process_where_there_is_a_pidfd(answer: int | None) -> None:
    def work() -> None:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        assert child.stdin is not None
        end = ProcessEnd(child.pid)
        threading.Timer(0.05, child.stdin.close).start()
        began = time.monotonic()
        end.sleep(0.2 if answer else 600)
        slept = time.monotonic() - began
        # Without a pidfd all of it is slept, and with one no process is that slow.
        assert slept >= 0.2 if answer else slept < 300
        eventually(lambda: end.has_come)

    under(answer, work)


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_process(answer: int | None) -> None:
    def work() -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        with pytest.raises(ProcessLookupError):
            ProcessEnd(gone.pid)
        ids: list[int] = []
        ready, over = threading.Event(), threading.Event()

        def run() -> None:
            ids.append(threading.get_native_id())
            ready.set()
            over.wait(60)

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait(60)
        with pytest.raises(OSError) as caught:
            ProcessEnd(ids[0])
        # Linux 6.15 says ENOENT.
        assert caught.value.errno in (errno.EINVAL, errno.ENOENT)
        over.set()
        thread.join()

    under(answer, work)


def test_python_without_pidfd_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with sleeper() as child:
        end = ProcessEnd(child.pid)
        assert end.descriptors == ()
        assert not end.has_come
        child.kill()
        eventually(lambda: end.has_come)
        assert end.status() == -signal.SIGKILL


def test_another_process_that_has_got_the_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with sleeper() as child:
        end = ProcessEnd(child.pid)
        assert not end.has_come
        # A pid is reused after some 4 million others: here its start time differs at once.
        monkeypatch.setattr(process_end, "started", lambda pid: 1)
        assert end.has_come
        child.kill()


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_where_proc_shows_nothing(answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_end, "started", lambda pid: None)

    def work() -> None:
        child = sleeper()
        end = ProcessEnd(child.pid)
        assert not end.has_come
        child.kill()
        eventually(lambda: end.has_come)
        child.wait()
        assert end.has_come
        # Only whether its id is in use is known of one that is no child.
        other = ProcessEnd(os.getppid())
        assert not other.has_come

    under(answer, work)


def test_without_a_descriptor_it_says_so() -> None:
    def work() -> None:
        refuse(call_named("pidfd_open"), error=errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            ProcessEnd(os.getppid())

    in_child(work)


@pytest.mark.parametrize("refused", ["poll", "waitid", "P_PIDFD"])
def test_another_call_is_refused_as_well(refused: str) -> None:
    # poll() is ppoll() on arm64. On Linux 5.3 waitid() does not know P_PIDFD.
    def work() -> None:
        refuse(call_named(refused), call_named("ppoll"), error=errno.EINVAL)
        child = sleeper()
        end = ProcessEnd(child.pid)
        assert not end.has_come
        end.sleep(0.001)
        child.kill()
        eventually(lambda: end.has_come)
        if refused == "waitid":
            with pytest.raises(OSError, match="Invalid"):
                end.status()
        else:
            assert end.status() == -signal.SIGKILL
        child.wait()

    in_child(work)

"""Assisted take-over: servers that set neither SO_REUSEADDR nor SO_REUSEPORT bind a held port.

The child is started below a seccomp filter that does one thing: it reports each bind() call of the
child here (seccomp_unotify(2)). If the call asks for a held port, we set SO_REUSEADDR on the
caller's own socket, through a duplicate (pidfd_getfd(2)), and the call goes on. The server may be
written in any language, any process below the child may make the call, and it may make it often:
the hold stays.

A UDP socket is bound from here instead, because a UDP hold must not stay open. The hold opens for
that one call. The server's socket then has the same options as before.

The price for the child and everything below it, for life, because a filter cannot be removed:

- no_new_privs (PR_SET_NO_NEW_PRIVS(2const)): setuid programs such as sudo gain no rights any more.
- If this process ends before them, all their bind() calls fail with ENOSYS, for every port.
- The kernel refuses them a seccomp listener of their own (EBUSY, seccomp(2)): there is no
  assistance inside of assistance.
- A bind() takes 0.01 ms longer, of a held port 0.03 ms. It waits for the interpreter lock of this
  process, at times tens of milliseconds beside threads that compute. No other system call is
  reported; the kernel knows from a bitmap that it passes (kernel/seccomp.c,
  seccomp_cache_check_allow).

While one of them lives, this process has one more thread and one more descriptor for each start.
os.fork() warns of any such thread from Python 3.12 on.

These are not assisted, and meet the hold as without assistance: a bind through io_uring (Linux
6.11), programs of another architecture (i386's socketcall() on x86-64, x32), and processes that
this one may not look into (ptrace(2), "Ptrace access mode checking"): those with another user id,
or daemonised where kernel.yama.ptrace_scope is 1. A signal handler without SA_RESTART can interrupt
a bind() with EINTR until its report is read here, and before Linux 5.19 until it is answered. Then
a handler with SA_RESTART also makes a UDP bind() fail with EINVAL, because the bind is made twice.

Linux 5.9 is the first that reports when no process is left below a filter. Without that report the
thread that waits for bind() calls would never end.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable
from functools import cache
from queue import SimpleQueue
from typing import TypeVar

from ephemport._holding.hold import Hold
from ephemport._kernel.descriptors import Descriptor
from ephemport._kernel.fork import lock
from ephemport._kernel.libc import syscall
from ephemport._kernel.other_process import duplicate, open_process, read_memory
from ephemport._serving.assist.filter import (
    cannot_look_into_a_child,
    impossible,
    install_filter,
    refused,
    this_machine,
)
from ephemport._serving.assist.supervisor import listeners, supervise

__all__ = ["check_assist", "start_assisted"]

T = TypeVar("T")


@cache
def check_assist() -> None:
    """Find out whether assisted take-over works here: try it with a shell that waits.

    A success is remembered, a failure is not.

    Raises EphemportError, which says what stands in the way and what else can be done.
    """
    import subprocess

    def wait_for_end_of_input() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    try:
        child = start_assisted(wait_for_end_of_input, ())
    except FileNotFoundError:
        return  # There is no shell, but the filter was accepted, and that was the question.
    with child:
        # Only another process can show it: a process may always look into itself.
        try:
            os.close(open_process(child.pid))
        except OSError as error:
            raise refused("pidfd_open()", error.errno or 0) from None
        try:
            with duplicate(child.pid, 0):
                pass
        except OSError as error:
            raise cannot_look_into_a_child("pidfd_getfd()", error) from None
        try:
            read_memory(child.pid, 1, 1)
        except OSError as error:
            if error.errno != errno.EFAULT:  # the answer for such an address
                raise cannot_look_into_a_child("process_vm_readv()", error) from None


def start_assisted(start: Callable[[], T], holds: Iterable[Hold]) -> T:
    """Call `start`, which starts a child process, and assist the child with binding `holds`.

    Every process below the child is assisted too, as long as it and this process live. Assistance
    ignores a hold that is closed. TCP holds must be open (`Hold.open()`); an exclusive one still
    refuses the server's listen().

    `start` runs in a thread of its own, which ends before this returns. It should only start the
    child: threads that it starts in this process would keep the filter, and a child with
    PR_SET_PDEATHSIG set (by a preexec_fn) dies with the thread that started it.

    Returns what `start` returns and raises what it raises. Raises EphemportError if the filter is
    refused (see `check_assist`); `start` is not called then. Do not call it under the fork lock.
    """
    inbox: SimpleQueue[Descriptor | None] = SimpleQueue()
    returned: list[T] = []
    raised: list[BaseException] = []
    # From the kernel, because gevent also replaces threading.get_native_id().
    gettid = this_machine().gettid
    caller = syscall(gettid)

    def run() -> None:
        try:
            if syscall(gettid) == caller:
                raise impossible("threads are emulated in this program (gevent, eventlet)")
            # Only this thread and what it starts have the filter and no_new_privs.
            with lock:
                listener = Descriptor(install_filter())
                listeners.add(listener)
            inbox.put(listener)
            returned.append(start())
        except BaseException as error:
            raised.append(error)
        finally:
            inbox.put(None)

    # Started here: a thread that the other thread starts would be under the filter itself.
    supervisor = threading.Thread(
        target=supervise, args=(inbox, tuple(holds)), name="ephemport-assist", daemon=True
    )
    starter = threading.Thread(target=run, name="ephemport-start")
    try:
        supervisor.start()
        starter.start()
    except BaseException as error:
        inbox.put(None)
        if isinstance(error, RuntimeError):  # what threading raises
            raise impossible(f"it needs two threads: {error}") from error
        raise
    starter.join()
    if raised:
        raise raised.pop()
    return returned.pop()


def _after_fork_in_child() -> None:
    # The threads that read them are not in this process. With a copy kept open, the callers would
    # wait for an answer that never comes when the parent has ended.
    for listener in listeners:
        listener.close()
    listeners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

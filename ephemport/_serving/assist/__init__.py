"""Assisted take-over: servers that set neither SO_REUSEADDR nor SO_REUSEPORT bind a held number.

The child is started below a seccomp filter that does nothing but report each of its bind() calls
here (seccomp_unotify(2)). If the call asks for a number that is held, SO_REUSEADDR is set on the
caller's own socket, through a duplicate (pidfd_getfd(2)), and the call goes on. Whatever language
the server is written in, whoever below the child makes the call, and however often, the hold stays.

A server's UDP socket is bound from here instead, because a UDP hold must not stay open: it is ajar
for that one call, and the socket has the options it had when the server gets it back.

What it costs the child and everything below it, for life, since a filter cannot be taken off:

- no_new_privs (PR_SET_NO_NEW_PRIVS(2const)): setuid programs such as sudo gain nothing any more.
- If this process ends before them, their bind() calls fail with ENOSYS. All of them, of any number.
- A seccomp listener of their own is refused to them (EBUSY, seccomp(2)): no assistance inside of
  assistance.
- A bind() takes 0.01 ms longer, of a held number 0.03 ms, and waits its turn for the interpreter
  lock of this process: tens of milliseconds at times beside threads that compute. No other system
  call is reported; the kernel knows from a bitmap that it passes (kernel/seccomp.c,
  seccomp_cache_check_allow).

As long as one of them lives, this process has one thread and one descriptor more for each start.
os.fork() warns of any such thread from Python 3.12 on.

What passes it by, and meets the hold as without assistance: a bind through io_uring (Linux 6.11),
programs of another architecture (i386's socketcall() on x86-64, x32), and processes that this one
may not look into (ptrace(2), "Ptrace access mode checking"): with another user id, or daemonised
where kernel.yama.ptrace_scope is 1. A signal handler without SA_RESTART can interrupt a bind() with
EINTR until its report is read here; before Linux 5.19 until it is answered, and a handler with
SA_RESTART then makes a UDP bind() fail with EINVAL, because it is made twice.

Linux 5.9 is the first that says when nobody is left below a filter. Without that word the thread
that waits for reports would never end.
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
from ephemport._kernel.other_process import duplicate, read_memory
from ephemport._serving.assist.filter import (
    cannot_look_into_a_child,
    impossible,
    install_filter,
    this_machine,
)
from ephemport._serving.assist.supervisor import listeners, supervise

__all__ = ["check_assist", "start_assisted"]

T = TypeVar("T")


@cache
def check_assist() -> None:
    """Find out whether assisted take-over can be had here, by trying it with a shell that waits.

    A yes is remembered, a no is not.

    Raises EphemportError, which says what stands in the way and what is left to do.
    """
    import subprocess

    def wait_for_end_of_input() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    try:
        child = start_assisted(wait_for_end_of_input, ())
    except FileNotFoundError:
        return  # No shell, but the filter was accepted, and a shell is not what was asked about.
    with child:
        # Only another process can tell: a process may always look into itself.
        try:
            with duplicate(child.pid, 0):
                pass
        except OSError as error:
            raise cannot_look_into_a_child("pidfd_getfd()", error) from None
        try:
            read_memory(child.pid, 1, 1)
        except OSError as error:
            if error.errno != errno.EFAULT:  # what a look at such an address gives
                raise cannot_look_into_a_child("process_vm_readv()", error) from None


def start_assisted(start: Callable[[], T], holds: Iterable[Hold]) -> T:
    """Call `start`, which starts a child process, and assist the child with binding `holds`.

    Everything below the child is assisted too, for as long as it lives and this process does. A
    hold that is closed is left to itself from then on. TCP holds must be open (`Hold.open()`);
    an exclusive one refuses the server's listen() all the same.

    `start` runs in a thread of its own, which ends before this returns. It should do nothing but
    start the child: threads that it starts in this process would keep the filter, and a child
    with PR_SET_PDEATHSIG set (by a preexec_fn) dies with the thread that started it.

    Returns what `start` returns and raises what it raises. Raises EphemportError if the filter is
    refused (see `check_assist`); `start` is not called then. Not to be called under the fork lock.
    """
    inbox: SimpleQueue[Descriptor | None] = SimpleQueue()
    returned: list[T] = []
    raised: list[BaseException] = []
    # What the kernel says: gevent replaces threading.get_native_id() too.
    gettid = this_machine().gettid
    caller = syscall(gettid)

    def run() -> None:
        try:
            if syscall(gettid) == caller:
                raise impossible("threads are emulated in this program (gevent, eventlet)")
            # Filter and no_new_privs are this thread's alone, and inherited by what it starts.
            with lock:
                listener = Descriptor(install_filter())
                listeners.add(listener)
            inbox.put(listener)
            returned.append(start())
        except BaseException as error:
            raised.append(error)
        finally:
            inbox.put(None)

    # Started from here: a thread of the other thread's making would be under the filter itself.
    supervisor = threading.Thread(
        target=supervise, args=(inbox, tuple(holds)), name="ephemport-assist", daemon=True
    )
    starter = threading.Thread(target=run, name="ephemport-start")
    supervisor.start()
    try:
        starter.start()
    except BaseException:
        inbox.put(None)
        raise
    starter.join()
    if raised:
        raise raised.pop()
    return returned.pop()


def _after_fork_in_child() -> None:
    # The threads that read them are not in this process. A copy kept open would let the callers
    # wait for an answer that never comes, once the parent is gone.
    for listener in listeners:
        listener.close()
    listeners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

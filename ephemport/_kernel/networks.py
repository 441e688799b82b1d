"""The other network namespaces of this machine, as far as this process may look into them.

Root enters one for a moment, in a separate thread (setns(2) moves the calling thread). An ordinary
user reads /proc/PID/net of a process of their own there. That needs no privilege, and shows all but
TCP sockets that are bound and do not listen.
"""

import os
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ephemport._kernel.processes import pids

__all__ = ["Network", "inside", "network_of", "other_networks"]

_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


class Network(NamedTuple):
    """A network namespace: the inode of its nsfs file, and a process that is in it."""

    inode: int
    pid: int


def network_of(pid: int | str) -> int | None:
    """Return the inode of a process's network namespace; None where it may not be read."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def other_networks() -> list[Network]:
    """Return the network namespaces of the processes that we may look into, without our own."""
    own = network_of("thread-self")
    found: dict[int, int] = {}
    for pid in pids():
        inode = network_of(pid)
        if inode is not None and inode != own:
            found.setdefault(inode, pid)
    return [Network(inode, pid) for inode, pid in found.items()]


def inside(network: Network, look: Callable[[], T]) -> T:
    """Return what `look` returns in a thread that is in that network. Raises OSError: refused."""
    descriptor = os.open(f"/proc/{network.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino != network.inode:
            raise ProcessLookupError(f"process {network.pid} is not in that network any more")
        returned: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                _enter(descriptor)
                returned.append(look())
            except BaseException as error:
                raised.append(error)

        # The thread ends with its look: it must do nothing else in that network.
        thread = threading.Thread(target=run, name="ephemport-look")
        thread.start()
        thread.join()
    finally:
        os.close(descriptor)
    if raised:
        raise raised.pop()
    return returned.pop()


def _enter(descriptor: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)  # Python has os.setns() only from 3.12 on.
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns(): {os.strerror(number)}")

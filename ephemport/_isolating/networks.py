"""The networks of other processes: which one a process is in, and ending what is left in one."""

import os
from contextlib import suppress

from ephemport._kernel.descriptors import Descriptor


def network_of(pid: int | None = None) -> str | None:
    """Return the network of a process, or of the calling thread; None if it cannot be seen."""
    whose = "thread-self" if pid is None else str(pid)
    try:
        return os.readlink(f"/proc/{whose}/ns/net")
    except OSError:
        return None


class PinnedNetwork:
    """The network namespace of a process, kept alive so that its name stays its own.

    The name is an inode number, and the kernel soon gives those of ended namespaces to new ones.
    Raises OSError for a process that is gone, or may not be looked into.
    """

    def __init__(self, pid: int) -> None:
        self._pin = Descriptor(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        self.name = os.readlink(f"/proc/self/fd/{self._pin.number}")

    def close(self) -> None:
        """Stop keeping it alive: it ends with its last process."""
        self._pin.close()

    def is_for_its_own(self) -> bool:
        """Whether the name is surely this network's, and not this process's or init's."""
        return self._pin.is_open() and self.name not in (network_of(), network_of(1))


def end_processes_in(network: PinnedNetwork, patience: float = 1.0) -> None:
    """End the processes of a network whose owner is gone: SIGTERM, and after `patience` SIGKILL.

    network: one that was made for a process below this one. In any other, such as this process's
    own, no process is ended. patience: in seconds. Other users' processes stay, unless this is
    root.
    """
    import select
    import signal

    if not network.is_for_its_own():
        return
    pidfds = _pidfds_in(network.name)
    try:
        for pidfd in pidfds:
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        waiting = select.poll()
        for pidfd in pidfds:
            waiting.register(pidfd, select.POLLIN)
        left = set(pidfds)
        while left and (ended := waiting.poll(patience * 1000)):
            for pidfd, _ in ended:
                waiting.unregister(pidfd)
                left.discard(pidfd)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
    # Look once more: an ending process may have started others.
    for pidfd in _pidfds_in(network.name):
        with suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def _pidfds_in(network: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and network_of(int(name)) == network:
            try:
                pidfd = os.pidfd_open(int(name))
            except (OSError, AttributeError):
                continue  # gone; or a sandbox, or PyPy, has no pidfds: then nobody is ended
            # Asked again with the process pinned: its pid may have become another process's.
            if network_of(int(name)) == network:
                found.append(pidfd)
            else:
                os.close(pidfd)
    return found

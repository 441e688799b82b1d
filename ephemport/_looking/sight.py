"""What this process cannot see of the machine, in the words of messages."""

import os

from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel.processes import pids
from ephemport._kernel.sockets import State, can_see_bound_inactive, read_netlink


def unseen_holders(port: int | None = None) -> str | None:
    """Return why holders of TCP ports are not shown, as a sentence; None where they are."""
    try:
        if can_see_bound_inactive():
            return None
    except OSError:
        return None  # The question needs a bound socket, and there is none: assume it does.
    try:
        read_netlink("tcp", {State.LISTEN}, port=port or 1)
        why = f"Linux {os.uname().release} does not show them, Linux 6.8 does"
    except OSError as error:
        why = f"netlink (sock_diag) is refused: {os.strerror(error.errno or 0)}"
    return f"{HOLDERS_UNSEEN}: {why}"


def unseen(port: int | None = None) -> list[str]:
    """Return what this process cannot see of the machine, one sentence each."""
    holders = unseen_holders(port)
    said = [holders] if holders is not None else []
    seen = pids()
    if not seen:
        said.append("/proc is not mounted: no process can be named")
    elif os.getuid() != 0 and 1 not in seen:
        said.append("/proc hides the processes of other users (hidepid), or this is a sandbox")
    return said


def in_use_in_words(count: int, protocol: str) -> str:
    """Return how many ports of a protocol are in use, as far as the kernel shows it."""
    hidden = unseen_holders() if protocol == "tcp" else None
    return f"{count:,}" if hidden is None else f"at least {count:,}"

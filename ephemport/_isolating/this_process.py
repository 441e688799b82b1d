"""`isolate()`: a network of its own for this process, from within.

What starts a process can have it isolated from the beginning (`wrapper`). A worker that was forked,
or a suite that somebody else starts, isolates itself.
"""

import os
import sys
import threading

from ephemport._errors import EphemportError
from ephemport._isolating.enter import enter, not_on_this_system
from ephemport._isolating.movers import movers
from ephemport._isolating.networks import network_of
from ephemport._kernel.namespaces import may_enter_without_user_namespace
from ephemport._kernel.processes import thread_count

# The process that has isolated itself, and the network that it is in.
_isolated: tuple[int, str | None] | None = None


def isolate() -> None:
    """Move this process, and what it starts from now on, into a network of its own.

    There every port is free, so each worker of a pool may have its own port 9001:

        multiprocessing.Pool(4, initializer=ephemport.isolate)

    The new network has the loopback (127.0.0.1 and ::1) and the machine's own addresses. No other
    host can be reached, and no server outside, not even one on this machine's 127.0.0.1. Unix
    sockets with a path, open connections and files work as before. `port_map` comes along: its
    ports, and in a forked worker those of its parent, stay the same and are held in the new
    network. The network ends with its last process. A second call in the same process changes
    nothing; in a child it makes another network.

    It works as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, and for other users where the system
    allows user namespaces. Only the calling thread can move, so call it before others are started.

    Raises:
        EphemportError: This process cannot be isolated, and nothing has changed: other threads run
            (their names are in the message), it holds ports (its sockets would stay in the old
            network), the system refuses (the message has the setting), or it is not Linux.
    """
    global _isolated
    if _isolated == (os.getpid(), network_of()):
        return
    if (reason := not_on_this_system() or _threads() or _holds()) is not None:
        raise EphemportError(f"cannot isolate: {reason}")
    enter()
    _isolated = os.getpid(), network_of()
    for mover in movers:
        mover.move()


def _threads() -> str | None:
    """Why other threads are in the way; None if they are not.

    Root may leave a thread behind that the threading module does not know: such threads of
    libraries, and the one that reads a pipe for an xdist worker, open no sockets for the program.
    """
    this = threading.current_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not this]
    others = thread_count() - 1
    if not names and (others == 0 or may_enter_without_user_namespace()):
        return None
    if others > len(names):
        names.append(f"{others - len(names)} without a name")
    return (
        f"other threads run in this process ({', '.join(names)}), and only the thread that calls "
        "can move to another network. Call isolate() before they start, or start this process "
        "isolated: ephemport run --isolate, or pytest --ephemport-isolate"
    )


def _holds() -> str | None:
    """Why held ports are in the way; None if there are none."""
    if "ephemport._holding.hold" not in sys.modules:
        return None
    from ephemport._holding.held import held_now

    moving = {hold for mover in movers for hold in mover.holds()}
    holds = [hold for hold in held_now() if hold not in moving]
    ports = sorted({hold.port for hold in holds})
    if not ports:
        return None
    one = len(ports) == 1
    listed = ", ".join(map(str, ports[:5])) + (", ..." if len(ports) > 5 else "")
    return (
        f"this process holds {'port' if one else f'{len(ports)} ports:'} {listed}, and the "
        f"{'socket that holds it' if one else 'sockets that hold them'} would stay in the old "
        "network. Call isolate() before reserve(), or release first"
    )

"""Ports that no process has: the kernel keeps them for connections that were closed.

For 60 s (TCP_TIMEWAIT_LEN) such a connection takes part in the kernel's look for conflicts, with
the options of the socket that it was accepted by. So a server that sets SO_REUSEADDR gets the port
if the one before it had set the option as well. Otherwise no server gets it on that address.
"""

from collections.abc import Sequence

from ephemport import _spelling
from ephemport._findings import CLOSING, TIME_WAIT, Found
from ephemport._looking.trial import try_binds

_LEFT = "No process has these connections any more"


def is_left_over(found: Sequence[Found]) -> bool:
    """Whether only connections have the port that no process has open."""
    return bool(found) and all(one.state in (TIME_WAIT, CLOSING) for one in found)


def is_left_over_beside_holds(found: Sequence[Found]) -> bool:
    """Whether nothing but ephemport's holds and such connections has the port."""
    return is_left_over([one for one in found if not one.ephemport])


def what_helps(port: int) -> str:
    """What to do about a port that is left over. The last sentence has no full stop."""
    how = (
        "allow_reuse_address = True in socketserver and http.server; for any server: reserve the "
        f"port, and {_spelling.ASSIST}{_spelling.IN_THIS_PROCESS}"
    )
    trials = try_binds(port, "tcp")
    if trials.reuseaddr is not None and len(trials.reuseaddr) == len(trials.addresses):
        return f"{_LEFT}. A server that sets SO_REUSEADDR gets the port now ({how})"
    return (
        f"{_LEFT}. The program that closed them had not set SO_REUSEADDR, so the kernel lets in "
        "nobody before it has forgotten them. A server that sets the option spares the next one "
        f"this wait ({how}). Wait"
    )

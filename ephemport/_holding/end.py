"""How a hold ended, and what its user can do about it."""

from enum import Enum, auto
from typing import NamedTuple

from ephemport._kernel.processes import is_running, pids


class How(Enum):
    """How a hold ended."""

    RELEASED = auto()
    FORKED = auto()
    ADOPTED = auto()
    CLOSED = auto()


class End(NamedTuple):
    """The end of a hold: how, and the pid that kept it (FORKED) or has it now (ADOPTED)."""

    how: How
    pid: int | None = None


def state_of(end: End | None) -> str:
    """How a hold ended, in a few words."""
    if end is None or end.how is How.RELEASED:
        return "released"
    if end.how is How.CLOSED:
        return "lost: its descriptor was closed"
    if end.how is How.ADOPTED:
        return f"released here, adopted by pid {end.pid}"
    return f"released here, kept by pid {end.pid}{_has_ended(end.pid)}"


def why_not_held(end: End | None) -> str:
    """How a hold ended and what to do about it, as the text of errors."""
    if end is None or end.how is How.RELEASED:
        return "its reservation was released; reserve() another"
    if end.how is How.CLOSED:
        return (
            "code of this process closed the descriptor that held it, as os.closerange() and "
            "daemonizing libraries do, and nothing holds it now; call reserve() after that"
        )
    if end.how is How.ADOPTED:
        return (
            f"it was adopted by pid {end.pid}; reserve() here, or adopt() what that process shares"
        )
    if _has_ended(end.pid):
        return (
            f"it was kept by pid {end.pid}, which this process was forked from and which has "
            "ended, so that nothing holds it now; a daemon calls reserve() when it has become one"
        )
    return (
        f"it was kept by pid {end.pid}, which this process was forked from; reserve() here, or "
        "adopt() what that process shares"
    )


def _has_ended(pid: int | None) -> str:
    # Without /proc no process is seen, and whether it has ended is unknown.
    return "" if pid is not None and (is_running(pid) or not pids()) else ", which has ended"

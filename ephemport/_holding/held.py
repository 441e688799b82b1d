"""Which holds this process has."""

from ephemport._holding.hold import Hold
from ephemport._holding.live import left_to_parent, live


def holds_of(port: int) -> list[Hold]:
    """The holds of a port: this process's own, and those that its parent had when it forked."""
    holds = (reference() for reference in (*list(live), *list(left_to_parent)))
    return [held for held in holds if held is not None and held.port == port]


def held_now() -> list[Hold]:
    """The holds that this process has."""
    holds = (reference() for reference in list(live))
    return [held for held in holds if held is not None and held.port and not held.closed]

"""The mode: which source the ports come from. A pytest run or the environment chooses it."""

import os

from ephemport._arguments import shown
from ephemport._holding.sources import modes

_chosen: str | None = None


def choose_mode(mode: str | None) -> str | None:
    """Choose the mode of this process. None: the environment chooses it again.

    Returns the previous choice.
    """
    global _chosen
    before, _chosen = _chosen, mode
    return before


def mode_named(mode: str | None = None) -> str:
    """The mode in force: `mode`, else the chosen one, else EPHEMPORT_MODE, else "ephemeral".

    "portserver:ADDRESS" names the portserver as well. Raises ValueError for an unknown mode.
    """
    given = mode if mode is not None else _chosen
    asked = given if given is not None else os.environ.get("EPHEMPORT_MODE") or "ephemeral"
    if not isinstance(asked, str):
        raise TypeError(f"mode must be a string, not {shown(asked)}")
    name, colon, _ = asked.partition(":")
    if name not in modes() or (colon and name != "portserver"):
        origin = " (from the environment's EPHEMPORT_MODE)" if given is None else ""
        raise ValueError(f"unknown mode {shown(asked)}{origin}; known are {', '.join(modes())}")
    return asked

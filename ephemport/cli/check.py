"""One line of `ephemport doctor`."""

from typing import NamedTuple

OK, NOTE, BROKEN = "ok", "note", "NO"


class Check(NamedTuple):
    """One line: what was checked, "ok", "note" or "NO", why, and what to do ("" for nothing)."""

    name: str
    state: str
    reason: str
    remedy: str = ""

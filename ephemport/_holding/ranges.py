"""The documented table: which ports a category has on which worker slot."""

import os
import re
import zlib
from typing import NamedTuple

from ephemport._arguments import shown

PORTS_PER_SLOT = 100
# A category has 1,000 ports. From gw10 on workers share slots, and the holds keep them apart.
SLOTS = 10


class Category(NamedTuple):
    """A kind of server or client with a range of its own, which begins at `start`."""

    start: int
    description: str


CATEGORIES: dict[str, Category] = {
    "servers": Category(10000, "servers under test"),
    "clients": Category(11000, "clients that listen themselves"),
    "federation": Category(12000, "links between servers"),
    "testing": Category(13000, "everything else"),
}


def worker_range(category: str, worker_id: str | None = None) -> range:
    """The documented ports of a category for a worker, as in `worker_range("servers", "gw2")`.

    Args:
        category: "servers", "clients", "federation" or "testing".
        worker_id: The id of an xdist worker, such as "gw0". None takes this process's.

    Returns:
        100 ports, as a range.

    Raises:
        TypeError: `worker_id` is not a string.
        ValueError: The category is unknown.
    """
    start = category_named(category).start + worker_slot(worker_id) * PORTS_PER_SLOT
    return range(start, start + PORTS_PER_SLOT)


def worker_slot(worker_id: str | None = None) -> int:
    """The slot of a worker, 0 to 9: gw0 and a run without workers have slot 0, gw1 has slot 1.

    For an id that is not of xdist's form the slot is computed from the id.
    """
    worker = current_worker(worker_id)
    if worker == "master":
        return 0
    numbered = re.fullmatch(r"gw(\d{1,9})", worker)
    number = int(numbered[1]) if numbered else zlib.crc32(worker.encode())
    return number % SLOTS


def current_worker(worker_id: str | None = None) -> str:
    """`worker_id` if given, else this process's id as an xdist worker, else "master"."""
    if worker_id is not None and not isinstance(worker_id, str):
        raise TypeError(f"worker_id must be a string such as 'gw0', not {shown(worker_id)}")
    return worker_id or os.environ.get("PYTEST_XDIST_WORKER") or "master"


def category_named(category: str) -> Category:
    """The category of that name. Raises ValueError, which lists the known ones."""
    found = CATEGORIES.get(category) if isinstance(category, str) else None
    if found is None:
        raise ValueError(f"unknown category {shown(category)}; known are {', '.join(CATEGORIES)}")
    return found

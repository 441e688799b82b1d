"""A random order for a search: processes that search at once then do not all try the same port."""

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import repeat

# In a crowded range a few random ports find a free one sooner than a walk along the crowd.
_TRIES = 64


def random_some(ports: Sequence[int], exclude: Collection[int]) -> Iterator[int]:
    """Up to 64 random ones of `ports`."""
    # No generator: it would end in a finalizer, where what a signal handler raises is lost.
    picks = map(_one, repeat(ports, min(_TRIES, len(ports))))
    return filter(lambda port: port not in exclude, picks)


def all_from_somewhere(ports: Sequence[int], exclude: Collection[int]) -> list[int]:
    """All of `ports`, in order, from a random one around to the one before it."""
    left = [port for port in ports if port not in exclude]
    begin = _random_below(len(left))
    return left[begin:] + left[:begin]


def _one(ports: Sequence[int]) -> int:
    return ports[_random_below(len(ports))]


def _random_below(limit: int) -> int:
    # Not the random module: tests seed it, and then all workers would try the same ports.
    return int.from_bytes(os.urandom(4), "little") % max(limit, 1)

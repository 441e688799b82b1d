"""port-for's helpers for ranges."""

from collections.abc import Iterable, Iterator

from ephemport._arguments import PORTS, at_most


def ranges_to_set(lst: Iterable[tuple[int, int]]) -> set[int]:
    """The ints of some ranges.

    Args:
        lst: Ranges, each a pair of its first and its last int.

    Returns:
        The ints from 0 to 65535 that are in any of the ranges.

    Raises:
        ValueError: `lst` has more than 65,536 items.
    """
    found: set[int] = set()
    for first, last in at_most(lst, PORTS, "lst"):
        found.update(range(max(first, 0), min(last + 1, PORTS)))
    return found


def to_ranges(lst: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The ranges that some ints make up.

    Args:
        lst: Ints in ascending order.

    Yields:
        Pairs of the first and the last int of a range.

    Raises:
        ValueError: `lst` has more than 65,536 items.
    """
    first = last = None
    for one in at_most(lst, PORTS, "lst"):
        if first is None or last is None or one != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = one
        last = one
    if first is not None and last is not None:
        yield first, last

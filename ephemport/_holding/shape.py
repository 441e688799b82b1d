"""How the ports of a group lie: anywhere, in a row, or at fixed distances from the first one."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, SupportsIndex

from ephemport import _spelling
from ephemport._arguments import PORTS, at_most, checked_count, shown, whole

_HIGHEST = PORTS - 1
# A message shows this many offsets.
_SHOWN = 5


class Shape(NamedTuple):
    """How many ports, and how they lie.

    length: how many. offsets: the distance of each port from the first one, in the order of the
    group; one of them is 0. A range is a row. None: the ports lie anywhere. multiple_of: the first
    port can be divided by it.
    """

    length: int
    offsets: Sequence[int] | None = None
    multiple_of: int = 1

    @property
    def is_row(self) -> bool:
        """Whether the ports are P, P+1, P+2, ..., where P can be any port."""
        return isinstance(self.offsets, range) and self.multiple_of == 1

    @property
    def firsts(self) -> range:
        """The ports that can be the first: then all others are ports as well, 1 to 65535."""
        offsets = self.offsets or (0,)
        low, step = 1 - min(offsets), self.multiple_of
        return range(-(-low // step) * step, PORTS - max(offsets), step)

    def ports(self, first: int) -> list[int]:
        """The ports of the group whose first port is `first`."""
        return [first + offset for offset in self.offsets or ()]

    def room(self, ports: Collection[int], barred: Collection[int]) -> int:
        """How much room for such a group there is: enough from `length` up.

        ports: those that the source gives. barred: those that cannot be had. For ports that lie
        anywhere it is how many are left, for a row how long the longest one is. For offsets it is
        `length`, or 0 if there is no place.
        """
        if self.offsets is None:
            return len(set(ports).difference(barred))
        if self.is_row:
            return _longest_row(set(ports).difference(barred))
        return self.length if any(self.places(ports, barred)) else 0

    def places(self, ports: Iterable[int], barred: Collection[int] = ()) -> Iterator[int]:
        """The ports among `ports` that can be the first of a group without a barred port."""
        firsts = self.firsts
        for first in ports:
            if first in firsts and not any(port in barred for port in self.ports(first)):
                yield first

    def __str__(self) -> str:
        what = "a port" if self.length == 1 else f"{self.length} ports"
        if self.offsets is not None and self.length > 1:
            what += " in a row" if isinstance(self.offsets, range) else f" at {self._distances}"
        if self.multiple_of == 1:
            return what
        first = "that is" if self.length == 1 else "whose first is"
        return f"{what} {first} a multiple of {self.multiple_of}"

    @property
    def _distances(self) -> str:
        some = list(self.offsets or ())
        more = f", ... ({len(some)})" if len(some) > _SHOWN else ""
        return f"the offsets {', '.join(map(str, some[:_SHOWN]))}{more}"


ONE = Shape(1)


def shape_of(
    count: SupportsIndex | None,
    contiguous: bool = False,
    offsets: Iterable[SupportsIndex] | None = None,
    multiple_of: SupportsIndex = 1,
) -> Shape:
    """The shape that these arguments of `reserve_many()` describe, checked.

    Raises TypeError or ValueError if they make no sense.
    """
    step = _multiple_of(multiple_of)
    if offsets is not None:
        distances = _offsets(offsets)
        if contiguous:
            raise ValueError(
                f"{_spelling.CONTIGUOUS} and {_spelling.OFFSETS} both say how the ports lie: "
                "pass one of them"
            )
        number = len(distances) if count is None else checked_count(count)
        if number != len(distances):
            raise ValueError(
                f"{_spelling.OFFSETS} has {len(distances)} ports, but {number} "
                f"{'is' if number == 1 else 'are'} asked for"
            )
        shape = Shape(len(distances), distances, step)
    else:
        number = _count(count)
        row = number > 0 and (contiguous or (step > 1 and number == 1))
        shape = Shape(number, range(number) if row else None, step)
        if step > 1 and not row and number > 1:
            raise ValueError(
                f"{_spelling.MULTIPLE_OF} is about the first port of a group: pass "
                f"{_spelling.OFFSETS} or {_spelling.CONTIGUOUS} as well"
            )
    if not shape.firsts:
        raise ValueError(f"there are no {shape}: ports are 1 to {_HIGHEST}")
    return shape


def _count(count: SupportsIndex | None) -> int:
    if count is None:
        raise TypeError(f"count must be an int, not None, unless {_spelling.OFFSETS} is given")
    return checked_count(count)


def _multiple_of(value: SupportsIndex) -> int:
    step = whole(value, f"{_spelling.MULTIPLE_OF} takes an int")
    if not 0 < step < PORTS:
        raise ValueError(
            f"{_spelling.MULTIPLE_OF} takes an int from 1 to {_HIGHEST}, not {shown(step)}"
        )
    return step


def _offsets(values: Iterable[SupportsIndex]) -> tuple[int, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{_spelling.OFFSETS} takes an iterable of ints, not {shown(values)}")
    name = str(_spelling.OFFSETS)
    found = tuple(whole(one, f"{name} takes ints") for one in at_most(values, PORTS, name))
    if 0 not in found:
        raise ValueError(
            f"{name} must contain 0, the first port itself: the others are counted from it"
        )
    for one in found:
        if not -PORTS < one < PORTS:
            raise ValueError(f"{name} takes distances below {PORTS}, not {shown(one)}")
    if len(set(found)) < len(found):
        twice = next(one for one in found if found.count(one) > 1)
        raise ValueError(f"{name} has {twice} twice: two ports cannot be the same")
    return found


def _longest_row(ports: Collection[int]) -> int:
    longest = row = 0
    for port in range(PORTS):
        row = row + 1 if port in ports else 0
        longest = max(longest, row)
    return longest

"""Who comes along when this process isolates itself: what has held ports, and can hold them again.

In the new network every port is free. So whoever registers here gets its ports there as well.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ephemport._holding.hold import Hold


class Mover(NamedTuple):
    """holds: returns the holds that can move. move: holds the ports in the new network."""

    holds: "Callable[[], Iterable[Hold]]"
    move: Callable[[], None]


movers: list[Mover] = []

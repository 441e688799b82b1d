"""How the ports of a source are taken, counted: the facts in the errors for a lack of ports."""

from collections.abc import Collection, Iterator, Sequence

from ephemport._holding.shape import Shape
from ephemport._kernel.port_range import ports_in_use
from ephemport._kernel.protocols import PARTS
from ephemport._looking.sight import in_use_in_words, unseen_holders


def usage(ports: Sequence[int], protocol: str) -> tuple[list[str], set[int]]:
    """How many of `ports` are in use, a clause for each protocol, and all ports in use."""
    size, in_use = f"{len(ports):,}", set[int]()
    facts: list[str] = []
    try:
        for kind in PARTS[protocol]:
            used = ports_in_use(kind)
            number = in_use_in_words(len(used & set(ports)), kind)
            facts.append(f"{number} of its {size} ports are in use ({kind})")
            in_use |= used
    except OSError as error:
        facts.append(f"how many of its {size} ports are in use is unknown ({error})")
    return facts, in_use


def barred(ports: Sequence[int], *groups: tuple[Collection[int], str]) -> Iterator[str]:
    """How many of `ports` may not be had, a clause for each group of such ports and its reason."""
    for these, why in groups:
        if these:
            number = len(set(these) & set(ports))
            yield f"{number:,} {'is' if number == 1 else 'are'} excluded ({why})"


def room(
    ports: Sequence[int],
    taken: Collection[int],
    shape: Shape,
    protocol: str,
    never: Collection[int] = (),
) -> Iterator[str]:
    """How much room for ports of this shape there is, as a clause; none for a single port.

    never: ports that cannot be in the group even if they are free. They are in `taken`, too. What
    the kernel does not show is said last.
    """
    hidden = unseen_holders() if "tcp" in PARTS[protocol] else None
    most = "" if hidden is None else "at most "
    if shape.offsets is not None and not shape.is_row:
        possible = sum(1 for _ in shape.places(ports, never))
        left = sum(1 for _ in shape.places(ports, taken))
        yield f"{possible:,} can be the first port, and {most}{left:,} of them with all others"
    elif shape.length > 1:
        left = shape.room(ports, taken)
        yield (
            f"the longest row left has {most}{left:,}"
            if shape.is_row
            else f"{most}{left:,} are left"
        )
    if hidden is not None:
        yield hidden


def not_enough(protocol: str, shape: Shape) -> str:
    """The beginning of the error of a source that has no such ports."""
    what = {"tcp": "TCP", "udp": "UDP"}.get(protocol, "TCP and UDP")
    lack = "no port left" if shape.length == 1 else "not enough ports left"
    return f"{lack}: looked for {shape} for {what}"

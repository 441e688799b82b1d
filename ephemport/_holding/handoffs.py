"""The hand-offs: the ways for a server to get a held port. To add one, add an entry here.

A new hold is exclusive and covers every address. A hand-off changes it before the reservation is
returned. `lets_in()` describes which servers the hold lets in after that.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ephemport import _spelling
from ephemport._arguments import shown
from ephemport._holding.hold import Hold
from ephemport._holding.host import Endpoint, endpoint
from ephemport._holding.shadow import shadow_addresses
from ephemport._looking.recognition import HoldKind

# The addresses of the shadows of a hold, by kind of socket (SOCK_STREAM, SOCK_DGRAM).
Shadows = dict[int, Endpoint]


class Handoff(NamedTuple):
    """One way for a server to get a held port.

    name: the value of `handoff=`. shadows: the addresses of the shadows for a host and a protocol.
    It is called before anything is bound, and raises ValueError if there is no such address. ready:
    makes a new hold ready for its server; raises OSError. servers_bind: whether a server binds the
    port itself. kinds: the kind of the hold after that, for "tcp" and for "udp".
    """

    name: str
    shadows: Callable[[str, str], Shadows]
    ready: Callable[[Hold, Shadows], None]
    servers_bind: bool
    kinds: Mapping[str, HoldKind]


def _no_shadows(host: str, protocol: str) -> Shadows:
    return {}


def _all_shadows(host: str, protocol: str) -> Shadows:
    return shadow_addresses(host, endpoint(host), protocol)


def _udp_shadows(host: str, protocol: str) -> Shadows:
    return shadow_addresses(host, endpoint(host), "udp")


def _open(hold: Hold, shadows: Shadows) -> None:
    hold.open()


def _move(hold: Hold, shadows: Shadows) -> None:
    hold.move_to_shadow(shadows)


def _open_and_move(hold: Hold, shadows: Shadows) -> None:
    hold.open()
    hold.move_to_shadow(shadows)


def _seal(hold: Hold, shadows: Shadows) -> None:
    # A hold is exclusive from the start. This keeps out the servers of this process as well.
    hold.sealed = True


_OPEN = {"tcp": HoldKind.OPEN, "udp": HoldKind.EXCLUSIVE}
_SHADOW = {"tcp": HoldKind.SHADOW, "udp": HoldKind.SHADOW}
_EXCLUSIVE = {"tcp": HoldKind.EXCLUSIVE, "udp": HoldKind.EXCLUSIVE}

TAKEOVER = Handoff("takeover", _no_shadows, _open, True, _OPEN)
SHADOW = Handoff("shadow", _all_shadows, _move, True, _SHADOW)
FD = Handoff("fd", _no_shadows, _seal, False, _EXCLUSIVE)
# A take-over whose UDP side lets servers in as a shadow does. `handoff=` has no name for it.
TAKEOVER_SHADOWING_UDP = TAKEOVER._replace(
    shadows=_udp_shadows, ready=_open_and_move, kinds={**_OPEN, "udp": HoldKind.SHADOW}
)

HANDOFFS = {one.name: one for one in (TAKEOVER, SHADOW, FD)}


def handoff_named(name: str) -> Handoff:
    """The hand-off of that name. Raises ValueError, which lists the known ones."""
    found = HANDOFFS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"unknown handoff {shown(name)}; known are {', '.join(HANDOFFS)}")
    return found


def lets_in(kind: HoldKind, protocol: str) -> str:
    """Which servers a hold of this kind lets in, as a condition, and what the others can do.

    protocol: "tcp" or "udp". It describes no single server: the options of that may be unknown.
    """
    if kind is HoldKind.SHADOW:
        return (
            f"the hold lets in a {protocol.upper()} server on the host that was reserved, whatever "
            f"it sets. For a server on another address, reserve with that {_spelling.HOST}"
        )
    if kind is HoldKind.EXCLUSIVE and protocol == "udp":
        return (
            "the hold lets in no UDP server, whatever it sets: reserve with "
            f"{_spelling.SHADOW}, or start it with {_spelling.ASSIST}, or with {_spelling.ACTIVATE}"
            f"{_spelling.IN_THIS_PROCESS}"
        )
    if kind is HoldKind.EXCLUSIVE:
        return (
            "the hold lets in no server, whatever it sets (handoff='fd'): start it with "
            f"{_spelling.ACTIVATE}, or reserve with {_spelling.TAKEOVER}"
        )
    return (
        "the hold lets in a TCP server that sets SO_REUSEADDR, or as the same user SO_REUSEPORT, "
        f"before its bind(), and no other. For one that sets neither: {_spelling.ASSIST}"
        f"{_spelling.IN_THIS_PROCESS}; where somebody else starts it: {_spelling.SHADOW} (not for "
        "a server on '::')"
    )

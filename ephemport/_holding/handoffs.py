"""The hand-offs: the ways for a server to get a held port. To add one, add an entry here.

A fresh hold is exclusive and stands on every address. A hand-off says what becomes of it before the
reservation is returned, and what a server is advised that found its port in use all the same.
"""

from collections.abc import Callable
from typing import NamedTuple

from ephemport._holding.hold import Hold, shadow_addresses
from ephemport._holding.host import Endpoint, endpoint

# Where the shadows of a hold go, by kind of socket (SOCK_STREAM, SOCK_DGRAM).
Shadows = dict[int, Endpoint]


class Handoff(NamedTuple):
    """One way for a server to get a held port.

    name: what `handoff=` takes. shadows: where the shadows for a host and a protocol go, asked
    before anything is bound; raises ValueError where there is no such place. ready: makes a fresh
    hold ready for its server, raises OSError. servers_bind: whether a server binds the port itself.
    advice: what helps a server that reports the port in use.
    """

    name: str
    shadows: Callable[[str, str], Shadows]
    ready: Callable[[Hold, Shadows], None]
    servers_bind: bool
    advice: str


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


def _leave(hold: Hold, shadows: Shadows) -> None:
    """Exclusive is what a hold is from the start."""


_WANTS_REUSEADDR = (
    "it sets neither SO_REUSEADDR nor SO_REUSEPORT: start it with popen(..., assist=True) or "
    "'ephemport run --assist', or, where somebody else starts it, reserve with handoff='shadow' "
    "(which no server on '::' gets over)"
)
_EXCLUSIVE = (
    "the number is reserved with handoff='fd', and no server can bind it: start it with "
    "popen(..., activate=True), or reserve with handoff='takeover'"
)

TAKEOVER = Handoff("takeover", _no_shadows, _open, True, _WANTS_REUSEADDR)
SHADOW = Handoff("shadow", _all_shadows, _move, True, _WANTS_REUSEADDR)
FD = Handoff("fd", _no_shadows, _leave, False, _EXCLUSIVE)
# A take-over whose UDP side lets servers in as a shadow does: not asked for by a name of its own.
TAKEOVER_SHADOWING_UDP = TAKEOVER._replace(shadows=_udp_shadows, ready=_open_and_move)

HANDOFFS = {one.name: one for one in (TAKEOVER, SHADOW, FD)}


def handoff_named(name: str) -> Handoff:
    """The hand-off of that name. Raises ValueError, with the known ones, where there is none."""
    found = HANDOFFS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"unknown handoff {name!r}; known are {', '.join(HANDOFFS)}")
    return found

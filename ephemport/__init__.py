"""Port reservations: the operating system assigns a number, a socket holds it for its server."""

from typing import TYPE_CHECKING

from ephemport._errors import (
    EphemportError,
    LeakedServerWarning,
    PortsExhausted,
    PortUnavailable,
    ReservationReleased,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
)
from ephemport._listeners import Holder, Listener, holders, listeners
from ephemport._reservation import Reservation, ReservationGroup, adopt, reserve, reserve_many
from ephemport._takeover import wait_listening

if TYPE_CHECKING:
    from ephemport._diagnosis import Diagnosis, Found, diagnose

__version__ = "0.1.0"

__all__ = [
    "Diagnosis",
    "EphemportError",
    "Found",
    "Holder",
    "LeakedServerWarning",
    "Listener",
    "PortUnavailable",
    "PortsExhausted",
    "Reservation",
    "ReservationGroup",
    "ReservationReleased",
    "ServerExited",
    "TakeoverTimeout",
    "WrongListener",
    "adopt",
    "diagnose",
    "holders",
    "listeners",
    "reserve",
    "reserve_many",
    "wait_listening",
]

# Imported when they are first asked for: errors and people want them, most programs never do.
_LATER = {
    "Diagnosis": "ephemport._diagnosis",
    "Found": "ephemport._diagnosis",
    "diagnose": "ephemport._diagnosis",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)

"""Port reservations: the operating system assigns a number, a socket holds it for its server."""

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

__version__ = "0.1.0"

__all__ = [
    "EphemportError",
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
    "holders",
    "listeners",
    "reserve",
    "reserve_many",
    "wait_listening",
]

"""Port reservations: the operating system assigns a port, a socket holds it for its server."""

from typing import TYPE_CHECKING

from ephemport._errors import (
    CallRefused,
    EphemportError,
    LeakedServerWarning,
    NodeLost,
    NodeUnreachable,
    NoShadow,
    PortsExhausted,
    PortUnavailable,
    ReservationReleased,
    ServerExited,
    StillListening,
    TakeoverTimeout,
    WrongListener,
)
from ephemport._later import later

if TYPE_CHECKING:
    from ephemport._findings import Diagnosis, Found
    from ephemport._isolating.this_process import isolate
    from ephemport._looking.diagnosis import diagnose
    from ephemport._looking.listeners import Holder, Listener, holders, listeners
    from ephemport._nodes.everywhere import reserve_everywhere
    from ephemport._nodes.node import Node, NodeReservation, NodeReservationGroup
    from ephemport._nodes.opening import on
    from ephemport._port_map import port_map
    from ephemport._reservation import (
        Reservation,
        ReservationGroup,
        adopt,
        reserve,
        reserve_many,
    )
    from ephemport._serving.inside import assisted
    from ephemport._serving.wait import wait_listening, wait_listening_async
    from ephemport._serving.wait_not_listening import wait_not_listening, wait_not_listening_async

__version__ = "0.1.0"

__all__ = [
    "CallRefused",
    "Diagnosis",
    "EphemportError",
    "Found",
    "Holder",
    "LeakedServerWarning",
    "Listener",
    "NoShadow",
    "Node",
    "NodeLost",
    "NodeReservation",
    "NodeReservationGroup",
    "NodeUnreachable",
    "PortUnavailable",
    "PortsExhausted",
    "Reservation",
    "ReservationGroup",
    "ReservationReleased",
    "ServerExited",
    "StillListening",
    "TakeoverTimeout",
    "WrongListener",
    "adopt",
    "assisted",
    "diagnose",
    "holders",
    "isolate",
    "listeners",
    "on",
    "port_map",
    "reserve",
    "reserve_everywhere",
    "reserve_many",
    "wait_listening",
    "wait_listening_async",
    "wait_not_listening",
    "wait_not_listening_async",
]

__getattr__, __dir__ = later(
    __name__,
    {
        "_isolating.this_process": ("isolate",),
        "_findings": ("Diagnosis", "Found"),
        "_looking.diagnosis": ("diagnose",),
        "_looking.listeners": ("Holder", "Listener", "holders", "listeners"),
        "_nodes.everywhere": ("reserve_everywhere",),
        "_nodes.node": ("Node", "NodeReservation", "NodeReservationGroup"),
        "_nodes.opening": ("on",),
        "_port_map": ("port_map",),
        "_reservation": ("Reservation", "ReservationGroup", "adopt", "reserve", "reserve_many"),
        "_serving.inside": ("assisted",),
        "_serving.wait": ("wait_listening", "wait_listening_async"),
        "_serving.wait_not_listening": ("wait_not_listening", "wait_not_listening_async"),
    },
)

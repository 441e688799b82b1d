"""`import ephemport.dropin.port_for as port_for`: its functions for choosing a port, held.

Its ports are chosen as port-for chooses them: at random, outside the ephemeral port range. Then
they are held until the process ends. The well-known ports are read from this machine's
/etc/services; port-for has a copy of IANA's list. The modules have the names of port-for's.
"""

from ephemport.dropin.port_for.api import (
    PortType,
    available_good_ports,
    available_ports,
    get_port,
    good_port_ranges,
    is_available,
    port_is_used,
    select_random,
)
from ephemport.dropin.port_for.exceptions import PortForException
from ephemport.dropin.port_for.store import PortStore

__all__ = (
    "UNASSIGNED_RANGES",
    "PortForException",
    "PortStore",
    "PortType",
    "available_good_ports",
    "available_ports",
    "get_port",
    "good_port_ranges",
    "is_available",
    "port_is_used",
    "select_random",
)

# The release of port-for whose names these are.
__version__ = "1.1.1"

UNASSIGNED_RANGES: list[tuple[int, int]]


def __getattr__(name: str) -> object:
    # Made when it is asked for: /etc/services is a file to read.
    if name == "UNASSIGNED_RANGES":
        from ephemport.dropin.port_for.api import unassigned_ranges

        return unassigned_ranges()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Which sockets a packet to an address reaches. It decides what "up" means for a host."""

import socket
from typing import NamedTuple

from ephemport._kernel.sockets import SocketRecord

_V4, _V6 = int(socket.AF_INET), int(socket.AF_INET6)
_WILDCARDS = ("0.0.0.0", "::")
_MAPPED = "::ffff:"  # RFC 4291, section 2.5.5.2
# What a machine sends to itself comes in by the loopback interface, which is the first one of
# every network namespace (LOOPBACK_IFINDEX in include/linux/netdevice.h).
LOOPBACK_INTERFACE = 1


class Target(NamedTuple):
    """An address that a client sends to.

    family: socket.AF_INET or AF_INET6. address: as the kernel writes it. interface: the index of
    the interface of a link-local address (its scope id), else 0.
    """

    family: int
    address: str
    interface: int = 0

    @property
    def is_wildcard(self) -> bool:
        """Whether this is 0.0.0.0 or ::."""
        return self.address in _WILDCARDS


def target_of(family: int, address: str, interface: int = 0) -> Target:
    """Return the target. An IPv4-mapped address is an IPv4 address: its packets are IPv4."""
    return Target(*_unmapped(family, address), interface)


def reaches(target: Target, record: SocketRecord) -> bool:
    """Whether a packet to `target` may be given to the socket.

    That is a socket bound to the address itself or to the wildcard of its family. For IPv4 it is
    also one on ``::`` without IPV6_V6ONLY; where the option cannot be seen (/proc/net), it counts
    as off, which is the kernel's default. All of 127.0.0.0/8 are addresses of their own. To be
    reached by a packet to a wildcard means to receive what comes to any address, so there only a
    socket on the wildcard counts.

    A socket that is bound to an interface (SO_BINDTODEVICE, or a link-local address) gets only the
    packets of that interface.
    """
    family, address = _unmapped(record.family, record.address)
    return _is_let_in(target, record.interface) and (
        (family, address) == target[:2]
        or (family == target.family and address in _WILDCARDS)
        or (target.family == _V4 and address == "::" and not record.v6only)
    )


def _is_let_in(target: Target, interface: int) -> bool:
    if not interface:
        return True
    if target.interface:
        return interface == target.interface
    is_ours = target.is_wildcard or target.address == "::1" or target.address.startswith("127.")
    # To another address of this machine packets come from outside, too, by any interface.
    return not is_ours or interface == LOOPBACK_INTERFACE


def _unmapped(family: int, address: str) -> tuple[int, str]:
    if family == _V6 and address.startswith(_MAPPED) and "." in address:
        return _V4, address.removeprefix(_MAPPED)
    return int(family), address

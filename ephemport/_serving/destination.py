"""What is waited on: a port, its protocols, and the addresses by which a client reaches it."""

import socket
from collections.abc import Iterable
from typing import NamedTuple, SupportsIndex

from ephemport._arguments import checked_port
from ephemport._findings import place
from ephemport._holding.host import bracketed, targets
from ephemport._kernel.protocols import PARTS
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.reach import LOOPBACK_INTERFACE, Target, reaches

_LOOPBACKS = {int(socket.AF_INET): "127.0.0.1", int(socket.AF_INET6): "::1"}


class Destination(NamedTuple):
    """A port as its clients see it.

    port: the port. protocol: "tcp", "udp" or "both". host: that of the reservation, None for a
    plain int, which stands for any address. targets: the addresses of the host, in the order of a
    client; empty for any. given: the argument of the wait.
    """

    port: int
    protocol: str
    host: str | None
    targets: tuple[Target, ...]
    given: SupportsIndex

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocol, or both of them."""
        return PARTS[self.protocol]

    def reached(self, records: Iterable[SocketRecord]) -> list[SocketRecord]:
        """Return those of the sockets that a client may reach; what it tries first comes first."""
        if not self.targets:
            return list(records)
        found = [
            (rank, record.address != target.address, record)
            for record in records
            for rank, target in enumerate(self.targets)
            if reaches(target, record)
        ]
        # The kernel prefers a socket on the address itself to one on the wildcard.
        found.sort(key=lambda one: one[:2])
        return list(dict.fromkeys(record for _, _, record in found))

    def likely(self) -> list[tuple[int, str, int]]:
        """Return addresses, each with its interface: a packet to one of them reaches a server.

        For any address these are only the likely ones.
        """
        if not self.targets:
            return [(family, one, LOOPBACK_INTERFACE) for family, one in _LOOPBACKS.items()]
        return [
            (
                one.family,
                _LOOPBACKS[one.family] if one.is_wildcard else one.address,
                one.interface or LOOPBACK_INTERFACE,
            )
            for one in self.targets
        ]

    def __str__(self) -> str:
        return f"port {self.port}" if self.host is None else place(self.host, self.port)

    @property
    def host_in_words(self) -> str:
        """The host as messages write it: "127.0.0.1", "[::1]", "localhost (127.0.0.1, [::1])"."""
        addresses = [bracketed(one.address) for one in self.targets]
        host = bracketed(self.host or "")
        return host if addresses == [host] else f"{host} ({', '.join(addresses)})"


def destination_of(port: SupportsIndex) -> Destination:
    """Return the destination of a wait's first argument, an int or a Reservation."""
    checked = checked_port(port)
    host: str | None = getattr(port, "host", None)
    reached = () if host is None else targets(host)
    return Destination(checked, getattr(port, "protocol", "tcp"), host, reached, port)

"""The soak's servers: real sockets that bind and listen on a held port, and their clients."""

import random
import socket
import struct
from typing import NamedTuple

from ephemport import Reservation

_ADDRESSES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::"),
)
_OPTIONS = (
    (socket.SO_REUSEADDR,),
    (socket.SO_REUSEADDR,),
    (socket.SO_REUSEPORT,),
    (socket.SO_REUSEADDR, socket.SO_REUSEPORT),
)
_BACKLOG = 4
_PATIENCE = 30.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Server(NamedTuple):
    """A server that knows nothing of ephemport: where it binds, and what it sets before."""

    family: socket.AddressFamily
    address: str
    options: tuple[int, ...]

    def start(self, port: int, protocol: str) -> socket.socket:
        """Bind, and listen if that is what the protocol does. Raises OSError."""
        tcp = protocol == "tcp"
        sock = socket.socket(self.family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        try:
            for option in self.options:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            sock.bind((self.address, port))
            if tcp:
                sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock


def any_server(chance: random.Random) -> Server:
    """One that a held port is open to."""
    return Server(*chance.choice(_ADDRESSES), chance.choice(_OPTIONS))


def start_server(reservation: Reservation, chance: random.Random) -> socket.socket:
    """A server on a held port, in one of the ways that its handoff is for.

    Raises OSError, and what `Reservation.listen()` raises, when the port is not there for it.
    """
    protocol = "udp" if reservation.protocol == "udp" else "tcp"
    if reservation.handoff == "shadow":
        server = Server(socket.AF_INET, reservation.host, ())
    elif reservation.handoff == "fd" or protocol == "udp" or chance.random() < 0.2:
        return reservation.listen()
    else:
        server = any_server(chance)
    return server.start(reservation.port, protocol)


def reached(server: socket.socket) -> str | None:
    """Connect to where a server listens; what is wrong with the answer, or None."""
    address, port = server.getsockname()[:2]
    family = server.family
    with socket.socket(family, socket.SOCK_STREAM) as client:
        _reset_on_close(client)
        client.settimeout(_PATIENCE)
        client.connect((_LOOPBACK.get(address, address), port))
        mine = client.getsockname()[:2]
        server.settimeout(_PATIENCE)
        try:
            accepted, peer = server.accept()
        except TimeoutError:
            return f"a connection to {address} port {port} reached somebody else"
        with accepted:
            _reset_on_close(accepted)
        if peer[:2] != mine:
            return f"{address} port {port} was reached from {peer[:2]} instead of {mine}"
    return None


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _reset_on_close(sock: socket.socket) -> None:
    # Connections that end in TIME_WAIT would use up 200 ports in no time.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

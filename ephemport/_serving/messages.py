"""The Unix sockets of sharing: messages over abstract names. Both ends use them.

They are of the C type. What socket.socket adds in Python can be interrupted half-way.
"""

import json
import secrets
import socket
import struct
from contextlib import suppress
from socket import MSG_DONTWAIT, SOCK_SEQPACKET, SocketType

PREFIX = "ephemport-share"


def address(name: str) -> str:
    """Return the abstract address (unix(7)) at which the token with this name is served."""
    return f"\0{PREFIX}-{name}"


def peer(connection: SocketType) -> tuple[int, int]:
    """Return pid and effective uid of the other end, as of its connect() or listen()."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def bound(kind: int, name: str) -> SocketType:
    """A Unix socket with this name."""
    sock = SocketType(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        sock.bind(address(name))
    except BaseException:
        sock.close()
        raise
    return sock


def abstract_socket() -> SocketType:
    """A Unix socket with a name that nobody else has, as a token is served by."""
    return bound(SOCK_SEQPACKET, secrets.token_hex(16))


def knock(name: str) -> None:
    """Wake a thread whose poll() has the last reference to a listener that other code closed."""
    with suppress(OSError):
        sock = SocketType(socket.AF_UNIX, SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(address(name))
        finally:
            sock.close()


def accepted(listener: SocketType) -> SocketType:
    descriptor, _ = listener._accept()  # type: ignore[attr-defined]
    connection = SocketType(socket.AF_UNIX, SOCK_SEQPACKET, 0, descriptor)
    connection.setblocking(False)
    return connection


def send_away(connection: SocketType, reason: str) -> None:
    refuse(connection, reason)
    connection.close()


def refuse(connection: SocketType, reason: str) -> None:
    # What it sent is read first: closing a connection with unread data resets it, and the refusal
    # would be lost.
    with suppress(OSError):
        connection.recv(256, MSG_DONTWAIT)
    with suppress(OSError):
        connection.send(json.dumps({"refused": reason}).encode(), MSG_DONTWAIT)

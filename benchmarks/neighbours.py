"""The other programs of a machine: they bind to port 0, connect, and do not care who else does."""

import random
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from typing import NoReturn

# How many sockets of each kind one neighbour has at a time.
_KEPT = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def disturb(rest: float) -> NoReturn:
    """Bind, connect, and close the oldest of each, forever; `rest` is the mean pause in seconds."""
    kept: deque[tuple[socket.socket, ...]] = deque()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        service.listen(_KEPT)
        while True:
            with suppress(OSError):
                kept.append((_bound(),))
            with suppress(OSError):
                kept.append(_connected(service))
            while len(kept) > 2 * _KEPT:
                for sock in kept.popleft():
                    sock.close()
            if rest:
                time.sleep(random.expovariate(1 / rest))


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def _connected(service: socket.socket) -> tuple[socket.socket, ...]:
    client = socket.socket()
    # A reset leaves no TIME_WAIT: it is the neighbours that must fight, not their remains.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    try:
        client.connect(service.getsockname())
        served, _ = service.accept()
    except BaseException:
        client.close()
        raise
    # The client is closed first and its reset ends the other side; until then it keeps its port.
    return client, served

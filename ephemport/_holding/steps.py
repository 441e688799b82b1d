"""The system calls of a hold, one by one: after a refusal they say which of them is refused."""

from collections.abc import Iterator
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_STREAM,
    SOL_SOCKET,
    SocketType,
)

from ephemport._kernel.protocols import KINDS, NO_SUCH_FAMILY


def refused_step(protocol: str | None) -> tuple[str, int] | None:
    """Return the first call that is refused now, and its errno; None if none is."""
    made: list[str] = []
    try:
        for kind in KINDS[protocol or "tcp"]:
            made.extend(_steps(kind))
    except OSError as error:
        return made[-1], error.errno or 0
    return None


def _steps(kind: int) -> Iterator[str]:
    """Name each step of a hold before it is made."""
    yield "socket(AF_INET)"
    try:
        sock, family = SocketType(AF_INET6, kind), AF_INET6
    except OSError as error:
        if error.errno not in NO_SUCH_FAMILY:
            raise
        sock, family = SocketType(AF_INET, kind), AF_INET
    try:
        if family == AF_INET6:
            yield "setsockopt(IPV6_V6ONLY)"
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        yield "bind()"
        sock.bind(("", 0))
        yield "getsockname()"
        sock.getsockname()
        if kind == SOCK_STREAM:
            yield "setsockopt(SO_REUSEADDR)"
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            yield "setsockopt(SO_REUSEPORT)"
            sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    finally:
        sock.close()

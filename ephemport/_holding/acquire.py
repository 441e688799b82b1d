"""How to get a hold: of any port, a given one, the first free one, or another process's sockets."""

import errno
from collections.abc import Iterable, Sequence
from socket import (
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    SocketType,
)

from ephemport._holding.hold import TAKEN, Hold, new_socket
from ephemport._holding.identity import cookie_of, identity_of
from ephemport._kernel.fork import forks
from ephemport._kernel.protocols import KINDS
from ephemport._kernel.sockets import State, read_sockets

# For the usual hold, where each look-up of a name has a measurable cost.
_V6, _TCP, _IPV6, _V6ONLY = int(AF_INET6), int(SOCK_STREAM), int(IPPROTO_IPV6), int(IPV6_V6ONLY)
_SOL, _REUSEADDR, _REUSEPORT = int(SOL_SOCKET), int(SO_REUSEADDR), int(SO_REUSEPORT)
_ANY = ("::", 0)


def hold(port: int, protocol: str) -> Hold:
    """Hold `port` exclusively on every address. 0: the operating system assigns one.

    Raises OSError: EADDRINUSE if the port (or, for 0, every port) is taken.
    """
    held = Hold()
    try:
        for kind in KINDS[protocol]:
            held.bind(kind, held.port or port)
        return held
    except BaseException:
        held.close()
        raise


def opened(held: Hold) -> Hold:
    """Open the hold and return it. Raises OSError, and then the hold is closed."""
    try:
        held.open()
    except BaseException:
        held.close()
        raise
    return held


def hold_usual() -> Hold:
    """`hold(0, "tcp")` and `open()`, written out: the calls would cost a fifth of the whole."""
    held = Hold()
    sock = None
    try:
        try:
            sock = new_socket(_V6, _TCP)
            held.parts = ((sock, cookie_of(sock)),)
        except OSError:
            if sock is not None:
                sock.close()
                sock = None
        if sock is None or held.forks != forks[0]:
            # No IPv6, no cookies, no descriptor left, or a fork: the long way handles them.
            held.close()
            return opened(hold(0, "tcp"))
        sock.setsockopt(_IPV6, _V6ONLY, 0)
        sock.bind(_ANY)
        sock.setsockopt(_SOL, _REUSEADDR, 1)
        sock.setsockopt(_SOL, _REUSEPORT, 1)
        held.port = sock.getsockname()[1]
        return held
    except BaseException:
        held.close()
        raise


def hold_first(ports: Iterable[int], protocol: str) -> Hold | None:
    """Hold the first of `ports` that is free, exclusively. None: none is free."""
    if protocol == "both":
        for port in ports:
            try:
                return hold(port, protocol)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
        return None
    held = Hold()
    try:
        if held.bind_first(KINDS[protocol][0], ports):
            return held
    except BaseException:
        held.close()
        raise
    held.close()
    return None


def hold_any(ports: Sequence[int], protocol: str) -> Hold | None:
    """As `hold_first()`, and a port with nothing but connections in TIME_WAIT is free as well."""
    held = hold_first(ports, protocol)
    if held is not None or protocol == "udp":
        return held
    try:
        waiting = {record.port for record in read_sockets("tcp", {State.TIME_WAIT})}
    except OSError:  # a sandbox without netlink
        return None
    for port in filter(waiting.__contains__, ports):
        try:
            return hold_port(port, protocol)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
    return None


def hold_port(port: int, protocol: str) -> Hold:
    """As `hold()`, for a requested port: connections in TIME_WAIT are not in the way."""
    try:
        return hold(port, protocol)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or protocol == "udp":
            raise
        held = Hold()
        try:
            held.bind_past_time_wait(port, error)
            if protocol == "both":
                held.bind(SOCK_DGRAM, port)
            return held
        except BaseException:
            held.close()
            raise


def adopt_sockets(port: int, sockets: tuple[SocketType, ...]) -> Hold:
    """A hold made of sockets that another process bound."""
    held = Hold()
    held.parts = tuple((sock, identity_of(sock)) for sock in sockets)
    held.port = port
    return held

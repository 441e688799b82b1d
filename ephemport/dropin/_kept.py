"""The ports that the drop-ins of this process have returned, and the reservations that hold them.

These libraries return plain ints, so no program reports when it is done with a port. Each port is
held until it is returned, its fixture's test ends, or the process ends. If a process asks for very
many, only the latest are held: a fourth of the descriptors that the process may have open.

TCP ports are open to servers that set SO_REUSEADDR or SO_REUSEPORT ("takeover"). UDP ports are open
to any server on 127.0.0.1 (a shadow; on a machine with IPv6 alone, to this process only). Tests
often bind such a port themselves, with a plain `socket.bind()`. So a socket of this process gets
in, whatever it sets: importing this module wraps `bind()` and `listen()` of its sockets, and for a
port of ours they do what the option would do. A server in another process that sets neither option
does not get a TCP port.
EPHEMPORT_DROPIN_HANDOFF=shadow (ini `ephemport_dropin_handoff`) lets such a server in, on IPv4
addresses only. That hold is weaker: the kernel may assign the port to another program's
`bind(("127.0.0.1", 0))`.
"""

import atexit
import errno
import os
import resource
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ephemport._arguments import port_or_any
from ephemport._errors import NoShadow
from ephemport._holding.acquire import hold_port
from ephemport._holding.end import How
from ephemport._holding.handoffs import TAKEOVER, TAKEOVER_SHADOWING_UDP, handoff_named
from ephemport._holding.hold import Hold
from ephemport._holding.host import endpoint
from ephemport._holding.request import Request
from ephemport._holding.shadow import shadow_addresses
from ephemport._holding.sources.ephemeral import EPHEMERAL
from ephemport._kernel.fork import lock
from ephemport._kernel.protocols import KINDS
from ephemport._reservation import Reservation, reserve_from

HANDOFFS = ("takeover", "shadow")
_VARIABLE = "EPHEMPORT_DROPIN_HANDOFF"

_INTERNET = (socket.AF_INET, socket.AF_INET6)

_kept: OrderedDict[tuple[int, int], Reservation] = OrderedDict()

# Kept here before a test puts a mock in its place.
_Socket = socket.socket
_plain_bind: Callable[..., None] = _Socket.bind
_plain_listen: Callable[..., None] = _Socket.listen


def tcp_handoff(chosen: str | None = None) -> str:
    """The hand-off for TCP servers: `chosen`, else the environment's, else "takeover"."""
    asked = chosen or os.environ.get(_VARIABLE) or "takeover"
    if asked not in HANDOFFS:
        raise ValueError(
            f"unknown handoff {asked!r} for drop-ins ({_VARIABLE}, ini ephemport_dropin_handoff); "
            f"known are {', '.join(HANDOFFS)}"
        )
    return asked


def new_port(protocol: str, *, chosen: str | None = None, **request: Any) -> int:
    """A port that is held from now on. `request` has the other arguments of `Request`."""
    return new_reservation(protocol, chosen=chosen, **request).port


def new_reservation(protocol: str, *, chosen: str | None = None, **request: Any) -> Reservation:
    """As `new_port()`, but the reservation, for a caller that releases it."""
    handoff = "shadow" if protocol == "udp" else tcp_handoff(chosen)
    way = handoff_named(handoff)
    if protocol == "both" and way is TAKEOVER:
        way = TAKEOVER_SHADOWING_UDP
    try:
        return _keep(reserve_from(EPHEMERAL, Request(protocol=protocol, handoff=way, **request)))
    except NoShadow:
        if protocol == "tcp":
            raise
        # Without an IPv4 loopback. The sockets of this process get in all the same.
        asked = Request(protocol=protocol, handoff=TAKEOVER, **request)
        return _keep(reserve_from(EPHEMERAL, asked))


def _is_kept(port: int, protocol: str) -> bool:
    return any((kind, port) in _kept for kind in KINDS[protocol])


def try_to_keep(port: int, protocol: str) -> bool:
    """Hold a port that another program chose. False: it is taken."""
    with lock:
        if _is_kept(port, protocol):
            return True
        try:
            hold = hold_port(port, protocol)
        except OSError:
            return False
        try:
            hold.open()
            if protocol != "tcp":
                _shadow_udp(hold)
        except OSError:
            hold.close()
            return False
        _keep(Reservation(hold, "127.0.0.1", protocol, "takeover"))
        return True


def _shadow_udp(hold: Hold) -> None:
    try:
        hold.move_to_shadow(shadow_addresses("127.0.0.1", endpoint("127.0.0.1"), "udp"))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # Without an IPv4 loopback the hold stays exclusive, as in `new_reservation()`.


def give_back(port: int, protocol: str = "both") -> None:
    """Let a port go. A port that is not held is left alone."""
    for kind in KINDS[protocol]:
        reservation = _kept.get((kind, port))
        if reservation is not None:
            let_go(reservation)


def let_go(reservation: Reservation) -> None:
    """Release a reservation. If very many are kept, another one may have its port by now."""
    with lock:
        _forget(reservation)
        reservation.release()


def _forget(reservation: Reservation) -> None:
    for kind in KINDS[reservation.protocol]:
        if _kept.get((kind, reservation.port)) is reservation:
            del _kept[kind, reservation.port]


def share(port: int) -> str:
    """A token with which another process can adopt the reservation of `port`."""
    with lock:
        return _kept[socket.SOCK_STREAM, port].share()


@contextmanager
def held_port(protocol: str, **how: Any) -> Iterator[int]:
    """A port that is held for the length of a `with` block."""
    reservation = new_reservation(protocol, **how)
    try:
        yield reservation.port
    finally:
        let_go(reservation)


def is_free(port: int, kind: int, families: tuple[int, ...] = _INTERNET) -> bool:
    """Whether a server with SO_REUSEADDR could bind the port on every address, if we let it in."""
    return any_bound(port, kind, families) is not None


def any_bound(port: int, kind: int, families: tuple[int, ...] = _INTERNET) -> int | None:
    """Bind on every address, as portpicker does, and return the port; None if that fails."""
    port = port_or_any(port, "port")
    supported = False
    for family in families:
        try:
            sock = socket.socket(family, kind)
        except (OSError, OverflowError):  # no kind of socket
            continue
        supported = True
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            port = sock.getsockname()[1]
        except OSError:
            return None
        finally:
            sock.close()
    return port if supported else None


def _keep(reservation: Reservation) -> Reservation:
    with lock:
        for kind in KINDS[reservation.protocol]:
            _kept[kind, reservation.port] = reservation
        while len(_kept) > _limit():
            _, oldest = _kept.popitem(last=False)
            oldest.release()
    return reservation


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 16384 if soft == resource.RLIM_INFINITY else max(16, soft // 4)


def _reservation_of(sock: socket.socket, address: Any) -> Reservation | None:
    if sock.family not in _INTERNET or not isinstance(address, tuple) or len(address) < 2:
        return None
    found = _kept.get((sock.type, address[1])) if isinstance(address[1], int) else None
    if found is None or (found.released and not _is_with_parent(found)):
        return None
    # In a forked child the parent holds it, and it is enough to set the option on this socket.
    return found


def _is_with_parent(reservation: Reservation) -> bool:
    end = reservation._hold.end
    return end is not None and end.how is How.FORKED


@contextmanager
def _let_in(sock: socket.socket, reservation: Reservation) -> Iterator[None]:
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    with lock, ExitStack() as stack:
        stack.enter_context(reservation._hold.ajar(sock.type))
        if not before:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Off again afterwards: with the option on, others could bind beside this socket.
            stack.callback(sock.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield


def _bind(self: socket.socket, address: Any, /) -> None:
    reservation = _reservation_of(self, address)
    if reservation is None:
        return _plain_bind(self, address)
    with _let_in(self, reservation):
        return _plain_bind(self, address)


def _listen(self: socket.socket, *backlog: int) -> None:
    # The kernel looks for conflicts once more (inet_csk_listen_start).
    address = self.getsockname() if _kept and self.family in _INTERNET else None
    reservation = _reservation_of(self, address)
    if reservation is None:
        return _plain_listen(self, *backlog)
    with _let_in(self, reservation):
        return _plain_listen(self, *backlog)


def _let_all_go() -> None:
    with lock:
        for reservation in _kept.values():
            reservation.release()
        _kept.clear()


_bind.__doc__, _listen.__doc__ = _plain_bind.__doc__, _plain_listen.__doc__
# On import, not with the first port: `sock.bind((host, pick()))` looks bind up before it picks.
_Socket.bind = _bind  # type: ignore[method-assign, assignment]
_Socket.listen = _listen  # type: ignore[method-assign, assignment]
atexit.register(_let_all_go)

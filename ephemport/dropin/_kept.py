"""The numbers that the drop-ins of this process have handed out, and what keeps them.

These libraries hand out bare numbers, so nobody ever says that one is done with. Each number is
held until it is given back, the test ends whose fixture it is, or the process ends. Only the latest
are held where a process asks for very many: a fourth of the descriptors that it may have open.

TCP numbers are open to servers that set SO_REUSEADDR or SO_REUSEPORT ("takeover"), UDP numbers to
any server on 127.0.0.1 (a shadow). Tests often bind such a number themselves, with a bare
`socket.bind()`. A socket of this very process is therefore let in whatever it sets: `bind()` and
`listen()` of Python's sockets are wrapped by importing this, and do for a number of ours what
setting the option would. What stays out of a TCP number is a server in another process that
sets neither option; EPHEMPORT_DROPIN_HANDOFF=shadow (ini `ephemport_dropin_handoff`) lets those in,
on IPv4 addresses only, at the price of a weaker hold that a stranger's `bind(("127.0.0.1", 0))`
may get past.
"""

import atexit
import os
import resource
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ephemport._arguments import port_or_any
from ephemport._holding.handoffs import TAKEOVER, TAKEOVER_SHADOWING_UDP, handoff_named
from ephemport._holding.hold import How, hold_port
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

# Kept from before any test puts a mock in its place.
_Socket = socket.socket
_plain_bind: Callable[..., None] = _Socket.bind
_plain_listen: Callable[..., None] = _Socket.listen


def tcp_handoff(chosen: str | None = None) -> str:
    """How TCP servers are let in: `chosen`, else the environment's, else "takeover"."""
    asked = chosen or os.environ.get(_VARIABLE) or "takeover"
    if asked not in HANDOFFS:
        raise ValueError(
            f"unknown handoff {asked!r} for drop-ins ({_VARIABLE}, ini ephemport_dropin_handoff); "
            f"known are {', '.join(HANDOFFS)}"
        )
    return asked


def new_port(protocol: str, *, chosen: str | None = None, **request: Any) -> int:
    """A number that is held from now on. `request` is what `Request` takes besides."""
    return new_reservation(protocol, chosen=chosen, **request).port


def new_reservation(protocol: str, *, chosen: str | None = None, **request: Any) -> Reservation:
    """The same, for those who will let it go again."""
    handoff = "shadow" if protocol == "udp" else tcp_handoff(chosen)
    way = handoff_named(handoff)
    if protocol == "both" and way is TAKEOVER:
        way = TAKEOVER_SHADOWING_UDP
    asked = Request(protocol=protocol, handoff=way, **request)
    return _keep(reserve_from(EPHEMERAL, asked))


def try_to_keep(port: int, protocol: str) -> bool:
    """Hold a number that somebody else chose, if it can be had."""
    with lock:
        if any((kind, port) in _kept for kind in KINDS[protocol]):
            return True
        try:
            hold = hold_port(port, protocol)
        except OSError:
            return False
        try:
            hold.open()
            if protocol != "tcp":
                hold.move_to_shadow(shadow_addresses("127.0.0.1", endpoint("127.0.0.1"), "udp"))
        except OSError:
            hold.close()
            return False
        _keep(Reservation(hold, "127.0.0.1", protocol, "takeover"))
        return True


def give_back(port: int, protocol: str = "both") -> None:
    """Let a number go; of no effect for one that is not held."""
    with lock:
        for kind in KINDS[protocol]:
            reservation = _kept.get((kind, port))
            if reservation is not None:
                let_go(reservation)


def let_go(reservation: Reservation) -> None:
    """The same for a reservation; its number may be another's by now, where very many are kept."""
    with lock:
        for kind in KINDS[reservation.protocol]:
            if _kept.get((kind, reservation.port)) is reservation:
                del _kept[kind, reservation.port]
        reservation.release()


def share(port: int) -> str:
    """A token with which another process can adopt the number."""
    with lock:
        return _kept[socket.SOCK_STREAM, port].share()


@contextmanager
def held_port(protocol: str, **how: Any) -> Iterator[int]:
    """A number that is held for the length of a `with` block."""
    reservation = new_reservation(protocol, **how)
    try:
        yield reservation.port
    finally:
        let_go(reservation)


def is_free(port: int, kind: int, families: tuple[int, ...] = _INTERNET) -> bool:
    """Whether a server with SO_REUSEADDR could bind the number on every address, ours included."""
    return any_bound(port, kind, families) is not None


def any_bound(port: int, kind: int, families: tuple[int, ...] = _INTERNET) -> int | None:
    """Bind on every address, as portpicker does, and return the number; None if that fails."""
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
    # In a forked child the parent holds it: there it is enough to set the option here.
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
            # Off again behind it: with the option on, others could bind beside this socket.
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
# On import, not with the first number: `sock.bind((host, pick()))` looks bind up before it picks.
_Socket.bind = _bind  # type: ignore[method-assign, assignment]
_Socket.listen = _listen  # type: ignore[method-assign, assignment]
atexit.register(_let_all_go)

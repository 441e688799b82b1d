"""Which servers can bind a port now. A trial finds out: it binds for a moment and never listens.

A TCP socket that is bound and does not listen gets no connection, so the trial takes none from a
server. A UDP socket would get datagrams: see `try_binds`. A trial is bound for some 5 microseconds,
and in that time it is in the way of servers itself.
"""

import errno
import os
import socket
from collections.abc import Collection
from typing import NamedTuple

from ephemport._kernel.fork import lock
from ephemport._kernel.protocols import NO_SUCH_FAMILY

# Kept at import: tests patch socket.socket, and a trial must still bind.
_Socket = socket.socket
_bind = socket.SocketType.bind

V4, V6 = socket.AF_INET, socket.AF_INET6

# Where servers bind. One on "::" means both families, unless it says otherwise.
ADDRESSES = ((V4, "127.0.0.1"), (V4, "0.0.0.0"), (V6, "::1"), (V6, "::"))

# What they set before they bind.
PLAIN: tuple[str, ...] = ()
REUSEADDR = ("SO_REUSEADDR",)
REUSEPORT = ("SO_REUSEPORT",)

# These say that there is no IPv6, or that it is switched off.
_NOT_HERE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_NOT_TRIED = "SO_REUSEADDR was not tried, so that no datagram is lost"


class Trials(NamedTuple):
    """On which addresses servers of this user can bind, by the options that they set.

    `addresses` are all that were tried. `plain` are those without an option; `reuseaddr` and
    `reuseport` those with that option, None if it was not tried. `refused` is an errno other than
    EADDRINUSE that kept every server out, such as EACCES.
    """

    addresses: tuple[str, ...]
    plain: frozenset[str]
    reuseaddr: frozenset[str] | None
    reuseport: frozenset[str] | None
    refused: int | None = None

    @property
    def free(self) -> bool:
        """Whether every server can bind the port, on every address and with any option."""
        return len(self.plain) == len(self.addresses)


def try_binds(port: int, protocol: str, *, share: bool = True) -> Trials:
    """Bind `port` on each of ADDRESSES as servers do, and close at once.

    With `share` also with SO_REUSEADDR and with SO_REUSEPORT. Do not use `share` for a UDP port on
    which a server receives: the trial would get a datagram that arrives in that moment.
    """
    works: dict[tuple[str, ...], set[str]] = {}
    tried: list[str] = []
    refused: int | None = None
    for family, address in ADDRESSES:
        answers: dict[tuple[str, ...], int] = {}
        # In this order, because SO_REUSEPORT leaves a trace. Where others stay bound, the kernel
        # remembers that it let in such a socket, and lets in the next one on a wildcard without
        # a check (tb->fastreuseport, inet_csk_update_fastreuse in inet_connection_sock.c). A bind
        # without the option clears that.
        for options in (REUSEPORT, REUSEADDR, PLAIN) if share else (PLAIN,):
            answers[options] = _try(family, address, port, protocol, options)
        if _NOT_HERE & set(answers.values()):
            continue
        tried.append(address)
        for options, answer in answers.items():
            works.setdefault(options, set())
            if answer == 0:
                works[options].add(address)
            elif answer != errno.EADDRINUSE:
                refused = answer
    return Trials(
        tuple(tried),
        frozenset(works.get(PLAIN, ())),
        frozenset(works.get(REUSEADDR, ())) if share else None,
        frozenset(works.get(REUSEPORT, ())) if share else None,
        refused,
    )


def _try(family: int, address: str, port: int, protocol: str, options: Collection[str]) -> int:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        sock = _Socket(family, kind)
    except OSError as error:
        return errno.EAFNOSUPPORT if error.errno in NO_SUCH_FAMILY else error.errno or errno.EIO
    try:
        # A child that is forked meanwhile would keep the port.
        with lock, sock:
            if family == V6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
            for option in options:
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            # Not sock.bind(): other code may have replaced it, as `assisted()` does.
            _bind(sock, (address, port))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def in_words(trials: Trials, until: str) -> str:
    """Return one clause on who can bind the port; `until` says how long others cannot."""
    if trials.refused == errno.EACCES:
        return (
            "only root (CAP_NET_BIND_SERVICE) can bind ports below "
            "net.ipv4.ip_unprivileged_port_start, so it could not be tried"
        )
    if trials.refused is not None:
        return f"it is unknown whether a server can bind it ({os.strerror(trials.refused)})"
    if not trials.addresses:
        return "it is unknown whether a server can bind it: there is no address here"
    if trials.free:
        return "any server can bind it"
    every = frozenset(trials.addresses)
    plain = trials.plain
    anywhere = f"any server can bind it on {_listed(plain, trials)}" if plain else ""
    if trials.reuseaddr is None or trials.reuseport is None:
        place = _on(every - plain, trials)
        cannot = f"a server that sets no option cannot bind it{place}{until}"
        return "; ".join(filter(None, (anywhere, cannot, _NOT_TRIED)))
    reuseaddr, reuseport = trials.reuseaddr - plain, trials.reuseport - plain
    both, either = reuseaddr & reuseport, reuseaddr | reuseport
    sharing = [
        (options, where)
        for options, where in (
            ("SO_REUSEADDR or SO_REUSEPORT", both),
            ("SO_REUSEADDR", reuseaddr - both),
            ("SO_REUSEPORT", reuseport - both),
        )
        if where
    ]
    exception = ""
    if plain and any(where | plain == every for _, where in sharing):
        # Then the server for which the address makes no difference comes first.
        anywhere, exception = "", f" (except on {_listed(plain, trials)})"
    clauses = [anywhere]
    for options, where in sharing:
        place = "" if exception and where | plain == every else _on(where, trials)
        clauses.append(f"a server that sets {options} can bind it{place}")
    if either:
        which = "sets neither" if both else "does not set it"
        clauses.append(f"one that {which} cannot{until}{exception}")
    nobody = every - plain - either
    if nobody:
        clauses.append(f"no server can bind it{_on(nobody, trials)}{until}")
    return "; ".join(filter(None, clauses))


def _on(where: frozenset[str], trials: Trials) -> str:
    return "" if len(where) == len(trials.addresses) else f" on {_listed(where, trials)}"


def _listed(where: frozenset[str], trials: Trials) -> str:
    names = [f"[{one}]" if ":" in one else one for one in trials.addresses if one in where]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))

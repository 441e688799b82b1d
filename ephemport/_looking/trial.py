"""Who could bind a number now, found out by binding: for a moment, and never listening.

A socket that is bound and does not listen gets no connections, so that nothing of anybody's is
swallowed (a UDP socket would get datagrams: see `try_binds`). While a trial is bound, some 5
microseconds each, it stands in the way itself as any server would.
"""

import errno
import os
import socket
from collections.abc import Collection
from typing import NamedTuple

from ephemport._kernel.fork import lock

# Kept from the start: tests patch socket.socket, and want their numbers all the same.
_Socket = socket.socket

V4, V6 = socket.AF_INET, socket.AF_INET6

# Where servers bind. One on "::" means both families, unless it says otherwise.
ADDRESSES = ((V4, "127.0.0.1"), (V4, "0.0.0.0"), (V6, "::1"), (V6, "::"))

# What they set before they bind.
PLAIN: tuple[str, ...] = ()
REUSEADDR = ("SO_REUSEADDR",)
REUSEPORT = ("SO_REUSEPORT",)

# Without IPv6, or with it switched off.
_NOT_HERE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_NOT_TRIED = "whether one that sets SO_REUSEADDR can is not tried, so that no datagram is lost"


class Trials(NamedTuple):
    """Where servers of this user could bind, by the options that they set.

    `addresses` are all that were tried; a kind of server that was not tried is None. `refused` is
    an errno other than EADDRINUSE that kept everybody out, such as EACCES.
    """

    addresses: tuple[str, ...]
    plain: frozenset[str]
    reuseaddr: frozenset[str] | None
    reuseport: frozenset[str] | None
    refused: int | None = None

    @property
    def free(self) -> bool:
        """Whether a server can bind the number anywhere, whatever it sets."""
        return len(self.plain) == len(self.addresses)


def try_binds(port: int, protocol: str, *, share: bool = True) -> Trials:
    """Bind `port` on each of ADDRESSES as servers do, and close at once.

    With `share` also with SO_REUSEADDR and with SO_REUSEPORT. Not to be asked for UDP numbers on
    which somebody receives: a datagram that comes in that moment would be the trial's.
    """
    works: dict[tuple[str, ...], set[str]] = {}
    tried: list[str] = []
    refused: int | None = None
    for family, address in ADDRESSES:
        answers: dict[tuple[str, ...], int] = {}
        # In this order, because SO_REUSEPORT leaves a trace: where others stay bound, the kernel
        # remembers that such a socket was let in, and lets in the next of them on a wildcard
        # unasked (tb->fastreuseport, inet_csk_update_fastreuse in inet_connection_sock.c). A
        # socket without it makes the kernel forget that.
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
        # A child forked meanwhile would keep the number.
        with lock, _Socket(family, kind) as sock:
            if family == V6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
            for option in options:
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            sock.bind((address, port))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def in_words(trials: Trials, until: str) -> str:
    """One clause on who can bind the number; `until` says how long others cannot."""
    if trials.refused == errno.EACCES:
        return (
            "only root (CAP_NET_BIND_SERVICE) can bind numbers below "
            "net.ipv4.ip_unprivileged_port_start, so that it could not be tried"
        )
    if trials.refused is not None:
        return f"whether a server can bind it cannot be told ({os.strerror(trials.refused)})"
    if not trials.addresses:
        return "whether a server can bind it cannot be told: there is no address here"
    if trials.free:
        return "any server can bind it"
    every = frozenset(trials.addresses)
    plain = trials.plain
    gladly = f"any server can bind it on {_listed(plain, trials)}" if plain else ""
    if trials.reuseaddr is None or trials.reuseport is None:
        place = _on(every - plain, trials)
        cannot = f"a server that sets no option cannot bind it{place}{until}"
        return "; ".join(filter(None, (gladly, cannot, _NOT_TRIED)))
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
        # Then that server is told of first, for which the address makes no difference.
        gladly, exception = "", f" (except on {_listed(plain, trials)})"
    clauses = [gladly]
    for options, where in sharing:
        place = "" if exception and where | plain == every else _on(where, trials)
        clauses.append(f"a server that sets {options} can bind it{place}")
    if either:
        which = "one that sets neither" if both else "one that does not"
        clauses.append(f"{which}, cannot{until}{exception}")
    nobody = every - plain - either
    if nobody:
        clauses.append(f"no server can bind it{_on(nobody, trials)}{until}")
    return "; ".join(filter(None, clauses))


def _on(where: frozenset[str], trials: Trials) -> str:
    return "" if len(where) == len(trials.addresses) else f" on {_listed(where, trials)}"


def _listed(where: frozenset[str], trials: Trials) -> str:
    names = [f"[{one}]" if ":" in one else one for one in trials.addresses if one in where]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))

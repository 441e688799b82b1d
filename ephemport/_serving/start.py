"""Handing over: start a server with its ports, or give it the listening sockets."""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ephemport import _spelling
from ephemport._arguments import at_most, shown, whole
from ephemport._errors import EphemportError, PortUnavailable
from ephemport._findings import place
from ephemport._holding.hold import Hold
from ephemport._holding.host import Endpoint, endpoint, make_url
from ephemport._holding.refusal import unavailable
from ephemport._later import importing
from ephemport._serving.activation import (
    Argument,
    Text,
    activated,
    are_passed_by_this_thread,
    on_their_way,
)
from ephemport._serving.placeholders import fill

if TYPE_CHECKING:
    import subprocess


# Far more than the kernel takes (E2BIG in execve(2)).
_MOST_ARGUMENTS = 1_000_000


class Handed(NamedTuple):
    """What a server is given: a hold, its host, its protocol, and its name in LISTEN_FDNAMES."""

    hold: Hold
    host: str
    protocol: str
    name: str


def listening_sockets(handed: Handed, backlog: int | None = None) -> list[socket.socket]:
    """Return sockets on (host, port) under the hold: listening for TCP, receiving for UDP.

    Raises PortUnavailable when something listens there already.
    """
    if backlog is not None:
        # The kernel has a limit of its own, and refuses only what is no C int.
        backlog = min(max(whole(backlog, "backlog must be an int or None"), 0), 2**31 - 1)
    where = endpoint(handed.host)
    try:
        return _sockets_on(where, handed, backlog)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise unavailable(handed.hold.port, handed.protocol, error, "listen on") from error
        if handed.host != "localhost":
            raise _no_such_address(where, handed) from error
    # A machine with IPv6 alone.
    where = Endpoint(socket.AF_INET6, "::1")
    try:
        return _sockets_on(where, handed, backlog)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _no_such_address(where, handed) from error
        raise unavailable(handed.hold.port, handed.protocol, error, "listen on") from error


def _sockets_on(where: Endpoint, handed: Handed, backlog: int | None) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        if handed.protocol != "udp":
            sockets.append(handed.hold.listener(where, backlog))
        if handed.protocol != "tcp":
            sockets.append(handed.hold.receiver(where))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _no_such_address(where: Endpoint, handed: Handed) -> PortUnavailable:
    return PortUnavailable(
        f"cannot listen on {place(where.address, handed.hold.port)} ({handed.protocol}): this "
        f"machine has no address {where.address}. 'ip address' lists those that it has: reserve "
        f"with one of them ({_spelling.HOST}), such as ::1",
        port=handed.hold.port,
        protocol=handed.protocol,
    )


def placeholders(handed: Sequence[Handed]) -> dict[str, str]:
    """Return values for `{port}`, `{host}`, `{url}` (the first) and `{port0}`, ... (each)."""
    values: dict[str, str] = {}
    for position, one in enumerate(handed):
        each = {
            "port": str(one.hold.port),
            "host": one.host,
            "url": make_url("http", one.host, one.hold.port),
        }
        values |= {f"{name}{position}": value for name, value in each.items()}
        if position == 0:
            values |= each
    return values


def start(
    handed: Sequence[Handed],
    command: Text | Sequence[Text],
    *,
    activate: bool,
    assist: bool,
    **kwargs: Any,
) -> "subprocess.Popen[Any]":
    """`subprocess.Popen(command, **kwargs)`, with its sockets or with assistance."""
    with importing("start a server"):
        import subprocess

        if assist:
            from ephemport._serving.assist import check_assist, start_assisted

    if assist:
        check_assist()
    with ExitStack() as sockets:
        wanted: Any = command
        passed: list[socket.socket] = []
        if activate:
            for one in handed:
                made = on_their_way(len(handed), partial(listening_sockets, one))
                passed += sockets.enter_context(made)
            names = [name for one in handed for name in _names(one)]
            command, kwargs = activated(command, passed, names, kwargs)

        def popen() -> "subprocess.Popen[Any]":
            are_passed_by_this_thread(passed)
            process = subprocess.Popen(command, **kwargs)
            # The command that the caller gave, not the program in between.
            process.args = wanted
            return process

        try:
            return start_assisted(popen, [one.hold for one in handed]) if assist else popen()
        except PermissionError as error:
            if not activate or error.filename != sys.executable:
                raise
            raise EphemportError(
                f"cannot start the server with activate=True: the sockets are put in place by "
                f"this interpreter, {sys.executable}, which the user of the server may not "
                "execute. Install it where that user may, or pass listen()'s socket by pass_fds=",
                port=handed[0].hold.port,
                protocol=handed[0].protocol,
            ) from error


def filled(args: Text | Iterable[Argument], values: Mapping[str, str]) -> Text | list[Text]:
    """Return the arguments of a command with placeholders filled in, and ints as text.

    Raises TypeError and ValueError for what is no command, before anything is started.
    """
    if isinstance(args, (str, bytes, os.PathLike)):
        return _filled_one(args, values)
    if not isinstance(args, Iterable):
        raise TypeError(f"args must be a sequence of strings, not {shown(args)}")
    command = [_filled_one(one, values) for one in at_most(args, _MOST_ARGUMENTS, "args")]
    if not command:
        raise ValueError("args is empty: its first item is the program to start")
    return command


def _filled_one(argument: Argument, values: Mapping[str, str]) -> Text:
    if isinstance(argument, str):
        return fill(argument, values)
    if isinstance(argument, (bytes, os.PathLike)):
        return argument
    number = whole(argument, "each of args must be a string, bytes, a path or an int")
    if abs(number) >= 2**64:
        raise ValueError(f"an int of args is longer than 64 bits: {shown(number)}; write a string")
    return str(number)


def _names(handed: Handed) -> Iterable[str]:
    if handed.protocol != "both":
        return [handed.name]
    return [f"{handed.name}-tcp", f"{handed.name}-udp"]

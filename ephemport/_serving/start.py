"""Handing over: starting a server with its numbers, or giving it the listening sockets."""

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from ephemport._errors import EphemportError
from ephemport._holding.hold import Hold
from ephemport._holding.host import endpoint, make_url
from ephemport._holding.request import unavailable
from ephemport._serving.activation import Argument, activated, out_of_the_way
from ephemport._serving.placeholders import fill

if TYPE_CHECKING:
    import subprocess


class Handed(NamedTuple):
    """What a server is given: a hold, and under which name and on which host it is used."""

    hold: Hold
    host: str
    protocol: str
    name: str


def listening_sockets(handed: Handed, backlog: int | None = None) -> list[socket.socket]:
    """Sockets on (host, port) under the hold: listening for TCP, receiving for UDP, TCP first.

    Raises PortUnavailable when something listens there already.
    """
    where = endpoint(handed.host)
    sockets: list[socket.socket] = []
    try:
        if handed.protocol != "udp":
            sockets.append(handed.hold.listener(where, backlog))
        if handed.protocol != "tcp":
            sockets.append(handed.hold.receiver(where))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise unavailable(handed.hold.port, handed.protocol, error, "listen on") from error
    return sockets


def placeholders(handed: Sequence[Handed]) -> dict[str, str]:
    """`{port}`, `{host}`, `{url}` of the first, and `{port0}`, `{host0}`, `{url0}`, ... of each."""
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
    command: Argument | Sequence[Argument],
    *,
    activate: bool,
    assist: bool,
    **kwargs: Any,
) -> "subprocess.Popen[Any]":
    """`subprocess.Popen(command, **kwargs)`, with its sockets or with assistance."""
    import subprocess

    if assist:
        from ephemport._serving.assist import check_assist, start_assisted

        check_assist()
    with ExitStack() as sockets:
        wanted: Any = command
        if activate:
            passed = [
                sockets.enter_context(sock)
                for one in handed
                for sock in out_of_the_way(listening_sockets(one), len(handed))
            ]
            names = [name for one in handed for name in _names(one)]
            command, kwargs = activated(command, passed, names, kwargs)

        def popen() -> "subprocess.Popen[Any]":
            process = subprocess.Popen(command, **kwargs)
            # What was asked for, not what stands between.
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
                "execute. Install it where that user may, or pass listen()'s socket by pass_fds="
            ) from error


def filled(
    args: Argument | Sequence[Argument], values: Mapping[str, str]
) -> Argument | list[Argument]:
    """The arguments of a command with their placeholders filled in."""
    if isinstance(args, str):
        return fill(args, values)
    if isinstance(args, (bytes, os.PathLike)):
        return args
    return [fill(one, values) if isinstance(one, str) else one for one in args]


def _names(handed: Handed) -> Iterable[str]:
    if handed.protocol != "both":
        return [handed.name]
    return [f"{handed.name}-tcp", f"{handed.name}-udp"]

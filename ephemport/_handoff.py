"""Handing over: starting a server with its numbers, or giving it the listening sockets."""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from ephemport._errors import EphemportError
from ephemport._hold import Hold
from ephemport._host import endpoint, make_url
from ephemport._placeholders import fill
from ephemport._request import unavailable

if TYPE_CHECKING:
    import subprocess

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]
# sd_listen_fds(3): the first descriptor that is passed.
_FIRST = 3

# Runs in the child, before the server: only a process itself can know its pid (LISTEN_PID), and
# with preexec_fn it would be our own interpreter, forked with all its threads' locks, that says it.
_ACTIVATE = """
import fcntl, os, sys
passed, program, command = sys.argv[1], sys.argv[2], sys.argv[3:]
first = 3
above = [fcntl.fcntl(int(d), fcntl.F_DUPFD_CLOEXEC, 64) for d in passed.split(",")]
for position, descriptor in enumerate(above):
    os.dup2(descriptor, first + position)
for descriptor in map(int, passed.split(",")):
    if descriptor >= first + len(above):
        os.close(descriptor)
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    os.execvp(program, command)
except OSError as error:
    print(f"{program}: {error.strerror}", file=sys.stderr)
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


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
        from ephemport._assist import check_assist, start_assisted

        check_assist()
    with ExitStack() as sockets:
        if activate:
            passed = [
                sockets.enter_context(sock) for one in handed for sock in listening_sockets(one)
            ]
            names = [name for one in handed for name in _names(one)]
            command, kwargs = _activated(command, passed, names, kwargs)
        try:
            if not assist:
                return subprocess.Popen(command, **kwargs)
            return start_assisted(
                lambda: subprocess.Popen(command, **kwargs), [one.hold for one in handed]
            )
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


def _activated(
    command: Argument | Sequence[Argument],
    passed: Sequence[socket.socket],
    names: Sequence[str],
    kwargs: dict[str, Any],
) -> tuple[list[Argument], dict[str, Any]]:
    """The command behind the program that puts the sockets where socket activation wants them."""
    import shutil

    clash = [fd for fd in kwargs.get("pass_fds", ()) if fd < _FIRST + len(passed)]
    if clash:
        raise ValueError(
            f"pass_fds has {clash}, and with activate=True the descriptors {_FIRST} to "
            f"{_FIRST + len(passed) - 1} are the listening sockets; move them up"
        )
    command = [command] if isinstance(command, (str, bytes, os.PathLike)) else [*command]
    if kwargs.pop("shell", False):
        command = ["/bin/sh", "-c", *command]
    given = kwargs.get("env")
    environment = dict(os.environ if given is None else given)
    executable = kwargs.pop("executable", None)
    program = os.fsdecode(executable or command[0])
    found = shutil.which(program, path=environment.get("PATH"))
    if found is None and not (kwargs.get("cwd") and os.sep in program):
        # Popen says so at once, and so do we: the program in between could only say it later.
        if os.sep in program and os.path.exists(program):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    environment["LISTEN_FDS"] = str(len(passed))
    environment["LISTEN_FDNAMES"] = ":".join(names)
    descriptors = [sock.fileno() for sock in passed]
    listed = ",".join(map(str, descriptors))
    before = [sys.executable, "-I", "-S", "-c", _ACTIVATE, listed, program]
    return [*before, *command], {
        **kwargs,
        "env": environment,
        "pass_fds": (*kwargs.get("pass_fds", ()), *descriptors),
    }

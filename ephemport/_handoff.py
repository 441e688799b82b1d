"""Handing over: starting a server with its numbers, or giving it the listening sockets."""

import errno
import fcntl
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

# What stands between us and the server: only the process itself can say its pid (LISTEN_PID), and
# with preexec_fn it would be our own interpreter that says it, forked with all its threads' locks.
# A shell takes a millisecond, Python ten; dash knows no descriptors above 9. -p: no start-up files.
_BY_BASH = """
exec {moves}; export LISTEN_PID=$$; name=$1 program=$2; shift 2; exec -a "$name" "$program" "$@"
"""
_BY_PYTHON = """
import os, sys
for move in sys.argv[1].split(","):
    source, target = map(int, move.split(":"))
    os.dup2(source, target)
    os.close(source)
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    os.execvp(sys.argv[3], [sys.argv[2], *sys.argv[4:]])
except OSError as error:
    print(f"{sys.argv[3]}: {error.strerror}", file=sys.stderr)
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
        wanted: Any = command
        if activate:
            passed = [
                sockets.enter_context(sock)
                for one in handed
                for sock in _out_of_the_way(listening_sockets(one), len(handed))
            ]
            names = [name for one in handed for name in _names(one)]
            command, kwargs = _activated(command, passed, names, kwargs)

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
    moves = {sock.fileno(): target for target, sock in enumerate(passed, _FIRST)}
    return [*_between(moves), *command[:1], program, *command[1:]], {
        **kwargs,
        "env": environment,
        "pass_fds": (*kwargs.get("pass_fds", ()), *moves),
    }


def _out_of_the_way(sockets: list[socket.socket], handed: int) -> list[socket.socket]:
    """The same sockets above the descriptors that they will be moved to, each without the other."""
    # Two each at most, for TCP and UDP.
    lowest = _FIRST + 2 * handed
    moved = []
    for sock in sockets:
        with sock:
            copy = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
        moved.append(socket.socket(fileno=copy))
    return moved


def _between(moves: Mapping[int, int]) -> list[Argument]:
    """A program that moves descriptors, says its pid in LISTEN_PID and becomes the next one."""
    import shutil

    bash = shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin")
    if bash is None:
        listed = ",".join(f"{source}:{target}" for source, target in moves.items())
        return [sys.executable, "-I", "-S", "-c", _BY_PYTHON, listed]
    shell_moves = " ".join(f"{target}<&{source} {source}<&-" for source, target in moves.items())
    return [bash, "-p", "-c", _BY_BASH.format(moves=shell_moves), "bash"]

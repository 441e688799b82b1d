"""Socket activation: a command gets its listening sockets as descriptors 3, 4, ...

The protocol is the one of sd_listen_fds(3): LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES.
"""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, SupportsIndex

from ephemport._arguments import shown, whole
from ephemport._errors import CallRefused, refusal_in_words
from ephemport._kernel.fork import lock

Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Argument = Text | SupportsIndex

# sd_listen_fds(3): the first descriptor that is passed.
_FIRST = 3

# Sockets on their way to a server, and the thread that starts it. A child that another thread
# forks meanwhile would keep them, and with them the port.
_on_their_way: dict[socket.socket, int | None] = {}

# A program between us and the server, because only the process itself knows its pid (LISTEN_PID).
# With preexec_fn our own interpreter would write it, in a fork with the locks of all its threads.
# A shell takes a millisecond, Python ten. dash has no descriptors above 9. -p: no start-up files.
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


def activated(
    command: Text | Sequence[Text],
    passed: Sequence[socket.socket],
    names: Sequence[str],
    kwargs: dict[str, Any],
) -> tuple[list[Text], dict[str, Any]]:
    """Return the command behind a program that puts the sockets where activation wants them."""
    import shutil

    given_fds = kwargs.get("pass_fds", ())
    if not isinstance(given_fds, Collection):
        raise TypeError(f"pass_fds must be a sequence of descriptors, not {shown(given_fds)}")
    own_fds = [whole(fd, "each of pass_fds must be a descriptor") for fd in given_fds]
    clash = [fd for fd in own_fds if fd < _FIRST + len(passed)]
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
        # Popen raises at once, and so do we: the program in between could only fail later.
        if os.sep in program and os.path.exists(program):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    environment["LISTEN_FDS"] = str(len(passed))
    environment["LISTEN_FDNAMES"] = ":".join(names)
    moves = {sock.fileno(): target for target, sock in enumerate(passed, _FIRST)}
    return [*_between(moves), *command[:1], program, *command[1:]], {
        **kwargs,
        "env": environment,
        "pass_fds": (*own_fds, *moves),
    }


@contextmanager
def on_their_way(
    handed: int, make: Callable[[], list[socket.socket]]
) -> Iterator[list[socket.socket]]:
    """Listening sockets of `handed` reservations while a server is started, closed in the end."""
    sockets: list[socket.socket] = []
    try:
        with lock:
            sockets = out_of_the_way(make(), handed)
            _on_their_way.update(dict.fromkeys(sockets))
        yield sockets
    finally:
        # Under the lock: a child that is forked in the middle of a close has a copy.
        with lock:
            for sock in sockets:
                sock.close()
                _on_their_way.pop(sock, None)


def are_passed_by_this_thread(sockets: Iterable[socket.socket]) -> None:
    """The calling thread forks now, and its child is to have the sockets."""
    _on_their_way.update(dict.fromkeys(sockets, get_ident()))


def out_of_the_way(sockets: list[socket.socket], handed: int) -> list[socket.socket]:
    """Move each socket above the descriptors that activation uses, and return the moved ones."""
    # Two each at most, for TCP and UDP.
    lowest = _FIRST + 2 * handed
    moved: list[socket.socket] = []
    try:
        for sock in sockets:
            with sock:
                copy = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
                # All that is known, so that the kernel is not asked: a sandbox may refuse that.
                moved.append(socket.socket(sock.family, sock.type, sock.proto, copy))
    except OSError as error:
        for sock in (*sockets, *moved):
            sock.close()
        raise CallRefused(
            f"cannot pass a listening socket: fcntl(F_DUPFD_CLOEXEC): "
            f"{refusal_in_words(error.errno)}. Without activation a server binds the port itself",
            error.errno,
        ) from error
    return moved


def _between(moves: Mapping[int, int]) -> list[Text]:
    """Return a program that moves descriptors, sets LISTEN_PID and becomes the next program."""
    shell = bash()
    if shell is None:
        listed = ",".join(f"{source}:{target}" for source, target in moves.items())
        return [sys.executable, "-I", "-S", "-c", _BY_PYTHON, listed]
    shell_moves = " ".join(f"{target}<&{source} {source}<&-" for source, target in moves.items())
    return [shell, "-p", "-c", _BY_BASH.format(moves=shell_moves), "bash"]


def bash() -> str | None:
    """Return the path of bash, None where there is none."""
    import shutil

    return shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin")


def _after_fork_in_child() -> None:
    for sock, thread in list(_on_their_way.items()):
        if thread != get_ident():
            sock.close()
    _on_their_way.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""Who has the name of a Unix socket, a path or an abstract name: EADDRINUSE without a port.

bind() refuses a path at which there is a file, also the file of a server that has ended. Paths
belong to the file system, so all network namespaces share them. Each has its own abstract names.
"""

import os
import stat
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

from ephemport._findings import one_line, owner_in_words
from ephemport._kernel.networks import Network, inside, other_networks
from ephemport._kernel.processes import command_line, owners
from ephemport._kernel.unix_sockets import (
    UnixSocket,
    UnixState,
    read_proc_net,
    read_unix_sockets,
)


class Standing(Enum):
    """What has the name now. OTHER_FILE: a file that is not a socket."""

    BOUND = auto()
    LEFT_BEHIND = auto()
    OTHER_FILE = auto()
    NOTHING = auto()


class UnixName(NamedTuple):
    """The name of a Unix socket, what has it now, and who: one phrase for each socket.

    ours: whether this process has an abstract name itself.
    """

    name: bytes
    standing: Standing
    who: tuple[str, ...]
    ours: bool = False

    @property
    def is_abstract(self) -> bool:
        """Whether it is a name without a file."""
        return self.name.startswith(b"\0")

    def __str__(self) -> str:
        if self.is_abstract:
            shown = one_line("@" + os.fsdecode(self.name[1:]).replace("\0", "@"))
            what = f"the abstract Unix name {shown}"
        else:
            what = f"the Unix path {one_line(os.fsdecode(os.path.abspath(self.name)))}"
        return f"{what}: {self._who_or_what()}"

    def _who_or_what(self) -> str:
        if self.standing is Standing.BOUND:
            return "; ".join(self.who)
        if self.standing is Standing.LEFT_BEHIND:
            return (
                "a socket file that no visible process has open. A server leaves its file behind "
                "when it ends, and bind() refuses a path that exists"
            )
        if self.standing is Standing.OTHER_FILE:
            return "a file that is not a socket, and bind() refuses a path that exists"
        return "nobody has it now; it is unknown who had it when the error was raised"


def look_at_name(name: bytes) -> UnixName:
    """Say who has the name of a Unix socket; an abstract name begins with a zero byte.

    A relative path is relative to this process's current directory. Raises OSError where the
    kernel lists no Unix sockets.
    """
    if name.startswith(b"\0"):
        same = [one for one in read_unix_sockets() if one.name == name]
        standing = Standing.BOUND if same else Standing.NOTHING
        bound = {one.inode for one in same if one.state is not UnixState.ESTABLISHED}
        ours = bool(owners(bound, within=[os.getpid()]))
        return UnixName(name, standing, _who(same, ""), ours)
    try:
        file = os.stat(name)
    except OSError:
        return UnixName(name, Standing.NOTHING, ())
    if not stat.S_ISSOCK(file.st_mode):
        return UnixName(name, Standing.OTHER_FILE, ())
    who = _who([one for one in read_unix_sockets() if _is_at(one, name, file)], "")
    for network in [] if who else other_networks():
        there = [one for one in _sockets_of(network) if _is_at(one, name, file)]
        who += _who(there, ", from another network namespace")
    return UnixName(name, Standing.BOUND if who else Standing.LEFT_BEHIND, who)


def _sockets_of(network: Network) -> list[UnixSocket]:
    with suppress(OSError):
        return inside(network, read_unix_sockets)
    with suppress(OSError):
        return read_proc_net(network.pid)
    return []  # it ended meanwhile


def _is_at(one: UnixSocket, name: bytes, file: os.stat_result) -> bool:
    """Whether `file`, which is at `name`, is the file of this socket."""
    if one.file is not None and one.file == (file.st_dev, file.st_ino):
        return True
    # The kernel and stat() report different devices where file systems are stacked.
    if os.path.basename(one.name) != os.path.basename(name):
        return False
    folders = [b""]
    if not os.path.isabs(one.name):
        folders = []
        for pid in owners({one.inode}).get(one.inode, ()):
            with suppress(OSError):
                folders.append(os.readlink(os.fsencode(f"/proc/{pid}/cwd")))
    there = os.path.realpath(name)
    return any(os.path.realpath(os.path.join(folder, one.name)) == there for folder in folders)


def _who(found: list[UnixSocket], where: str) -> tuple[str, ...]:
    # Connections have the name of the socket that accepted them.
    bound = [one for one in found if one.state is not UnixState.ESTABLISHED] or found
    openers = owners({one.inode for one in bound})
    phrases = []
    for one in bound:
        verb = {UnixState.LISTEN: "listens on it", UnixState.CLOSE: "is bound to it"}.get(
            one.state, "has a connection of it"
        )
        pids = openers.get(one.inode)
        who = (
            owner_in_words(pids[0], os.geteuid(), command_line(pids[0]))
            if pids
            else "a process that may not be looked into"
        )
        phrases.append(f"{who} {verb}{where}")
    return tuple(dict.fromkeys(phrases))

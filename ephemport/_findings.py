"""What a look finds: who has a port, as data and in words.

It stands below everything, because errors have it as an attribute. Who looks is `_looking`.
"""

import math
import os
from typing import Any, NamedTuple

LISTENS, RECEIVES, HOLDS = "listens", "receives", "holds"
CONNECTED, CLOSING, TIME_WAIT = "connected", "closing", "TIME_WAIT"

HOLDERS_UNSEEN = "TCP sockets that are bound and do not listen cannot be seen"
# A command line may be very long; a message shows so many characters of it.
_LONGEST_COMMAND = 300


class Found(NamedTuple):
    """Something that has a port: one socket, or similar connections of one process.

    `str()` returns one clause, as messages show it.

    Attributes:
        port: The port, an int.
        protocol: "tcp" or "udp".
        state: "listens", "receives" (UDP), "holds" (bound, and neither listens nor connects),
            "connected", "TIME_WAIT" or "closing" (connections that no process has open any more).
        address: The local IPv4 or IPv6 address.
        uid: The user id that owns the socket.
        pid: The id of a process that has it open. None if there is none, or if the process may not
            be looked into; then the facts about the process are None too.
        pids: The ids of all visible processes that have it open.
        command: The command line of `pid`, quoted for a shell.
        age: For how many seconds `pid` has run.
        container: The container that `pid` runs in, such as "docker 3f2a9c0d1e4b". None: no known
            container, or the one that this process runs in.
        ephemport: True for a hold of ephemport, False for another socket. None for a socket that
            looks like a hold, and whose process may not be looked into.
        hold: The kind of the hold: "open", "exclusive" or "shadow". None if it is no hold, or if
            the kind is unknown.
        worker: The name of the pytest-xdist worker that holds the port, such as "gw0".
        test: The id of the test that runs in the holding process.
        connections: How many connections this entry stands for; 0 for a socket without a peer.
        peer: The address and port at the other end, "ADDRESS:PORT". None without a peer.
        seconds_left: For TIME_WAIT: how many seconds the kernel still keeps it.
        network: The inode of another network namespace, which has its own ports. None: this one.
    """

    port: int
    protocol: str
    state: str
    address: str
    uid: int
    pid: int | None = None
    pids: tuple[int, ...] = ()
    command: str | None = None
    age: float | None = None
    container: str | None = None
    ephemport: bool | None = False
    hold: str | None = None
    worker: str | None = None
    test: str | None = None
    connections: int = 0
    peer: str | None = None
    seconds_left: float | None = None
    network: int | None = None

    def __str__(self) -> str:
        where = f"{place(self.address, self.port)} ({self.protocol})"
        some = f"{self.connections} connection{'s' if self.connections > 1 else ''}"
        if self.state == TIME_WAIT:
            left = self.seconds_left
            for_how_long = "" if left is None else f" for {math.ceil(left)} more s"
            return f"{some} from {where} in TIME_WAIT{for_how_long}"
        if self.state == CLOSING:
            return f"{some} from {where} that no process has open any more, closing"
        who = owner_in_words(self.pid, self.uid, self.command)
        if self.state == CONNECTED:
            peer = f" to {self.peer}" if self.peer and self.connections == 1 else ""
            return f"{who} has {some} from {where}{peer}"
        return f"{who} {self.state}{' on' if self.state != HOLDS else ''} {where}{self.whose}"

    @property
    def whose(self) -> str:
        """Whose hold it is, in words, with a comma before them; "" if it holds nothing."""
        if self.state != HOLDS:
            return ""
        if self.ephemport is False:
            return ", bound and not listening"
        kind = {"open": "open ", "exclusive": "exclusive ", "shadow": "shadow "}.get(
            self.hold or "", ""
        )
        if self.ephemport:
            return f", ephemport's {kind}hold"
        return f", which looks like ephemport's {kind}hold"


class Diagnosis(NamedTuple):
    """The answer of `diagnose()`.

    `str()` returns who has the port and what that means, as messages show it.

    Attributes:
        port: The port, an int.
        protocol: "tcp", "udp" or "both": what was asked for.
        free: Whether nothing has the port. Then any server can bind it.
        found: What has the port in this network namespace, a tuple of Found.
        elsewhere: What has the same port in other network namespaces; it is not in the way here.
        meaning: Which servers can bind the port now, as one line.
        unseen: What could not be looked at, one sentence each.
    """

    port: int
    protocol: str
    free: bool
    found: tuple[Found, ...]
    elsewhere: tuple[Found, ...]
    meaning: str
    unseen: tuple[str, ...]

    def __str__(self) -> str:
        who = "; ".join(map(str, self.found)) or "the kernel shows nobody"
        if not self.found and not self.free and self.protocol != "udp":
            hidden = [one for one in self.unseen if one.startswith(HOLDERS_UNSEEN)]
            who = "; ".join([who, *hidden])
        return f"{who} ({self.meaning})"

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis for JSON.

        Returns:
            A dict from the name of each attribute to its value. The values in `found` and
            `elsewhere` are dicts too.
        """
        return {
            **self._asdict(),
            "found": [one._asdict() for one in self.found],
            "elsewhere": [one._asdict() for one in self.elsewhere],
        }


def owner_in_words(pid: int | None, uid: int, command: str | None) -> str:
    """Return the owner of a socket as messages name it."""
    if pid is None:
        return (
            f"{unknown_owner(uid)} process" if uid != os.geteuid() else f"an {unknown_owner(uid)}"
        )
    if pid == os.getpid():
        return f"this process (pid {pid})"
    return f"pid {pid} ({command_in_words(command or 'command line unknown')})"


def command_in_words(command: str) -> str:
    """Return a command line as messages show it: one line, cut where it is very long."""
    line = one_line(command)
    return line if len(line) <= _LONGEST_COMMAND else f"{line[:_LONGEST_COMMAND]}..."


def unknown_owner(uid: int) -> str:
    """Name the owner of a socket whose process cannot be seen: "another user's (uid 1000)"."""
    # Our own processes are not seen when they are in another pid namespace.
    return f"another user's (uid {uid})" if uid != os.geteuid() else f"unseen process (uid {uid})"


def place(address: str, port: int) -> str:
    """Return an address with its port."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def one_line(text: str) -> str:
    """Return `text` with line breaks and terminal control characters escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)

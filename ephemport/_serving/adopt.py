"""Adopting: the other end of `share`, whose docstring lists the messages in order."""

import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ephemport._arguments import checked_port, text
from ephemport._errors import EphemportError, refusal_in_words
from ephemport._findings import command_in_words
from ephemport._holding.acquire import adopt_sockets
from ephemport._holding.handoffs import handoff_named
from ephemport._holding.hold import Hold
from ephemport._kernel.fork import lock
from ephemport._kernel.processes import command_line, is_running, is_stopped
from ephemport._kernel.protocols import KINDS, PARTS, check_protocol
from ephemport._serving.messages import PREFIX, address, peer
from ephemport._serving.share import HAVE_IT, LET_GO, PATIENCE

# A Unix address has at most 108 bytes (unix(7)), so the number of digits is fixed.
_TOKEN = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})", re.ASCII)
# The pause between two tries, in seconds, while the queue of a giver is full.
_PAUSE = 0.005


class Terms(NamedTuple):
    """The terms that a Reservation was shared with."""

    host: str
    protocol: str
    handoff: str


def adopt(token: str) -> tuple[Hold, Terms]:
    """Return the hold behind `token`, and the terms that it was shared with.

    Raises TypeError and ValueError for what is not a token, before any socket is made. Raises
    EphemportError when the reservation cannot be adopted; its cause is a TimeoutError when there
    is a giver and it did not answer.
    """
    found = _TOKEN.fullmatch(text(token, "a token is a string, as share() returns it"))
    if found is None:
        # The text is not shown: a token is a secret, and this may be one with an extra blank.
        raise ValueError(
            f"this text of {len(token)} characters is no token of share(): a token is "
            f"'{PREFIX}:', 32 hexadecimal digits, ':' and 32 more, and nothing around them"
        )
    name, secret = found.groups()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            return _Talk(connection).adopt(name, secret)
    except OSError as error:
        raise EphemportError(f"cannot adopt: {refusal_in_words(error.errno)}") from error


class _Talk:
    """One connection to a giver, and how long all of it may take."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._until = time.monotonic() + PATIENCE

    def adopt(self, name: str, secret: str) -> tuple[Hold, Terms]:
        self._connect(name)
        pid, uid = peer(self._connection)
        if uid != os.geteuid():
            raise EphemportError(
                f"cannot adopt: the token is served by uid {uid}, and this process has uid "
                f"{os.geteuid()}; a reservation is shared within one user"
            )
        try:
            self._say(secret.encode())
            self._wait()
            hold, terms = self._receive()
            try:
                self._take_over()
            except BaseException:
                hold.close()
                raise
        except TimeoutError as error:
            raise EphemportError(
                f"cannot adopt: {_giver(pid)} serves this token and did not answer within "
                f"{PATIENCE:g} s"
            ) from error
        except (BrokenPipeError, ConnectionResetError, EOFError) as error:
            raise EphemportError(
                f"cannot adopt: {_giver(pid)} hung up in the middle: meanwhile the reservation was "
                "released, or another process adopted it, or the giver ended"
            ) from error
        except _RefusedError as error:
            raise EphemportError(f"cannot adopt: {_giver(pid)} says: {error}") from None
        return hold, terms

    def _connect(self, name: str) -> None:
        while True:
            try:
                self._connection.connect(address(name))
            except ConnectionRefusedError as error:
                raise EphemportError(
                    "cannot adopt: nobody serves this token. A token works once. It ends with its "
                    "reservation and with the process that shared it, and it works in one network "
                    "namespace only"
                ) from error
            except BlockingIOError as full:
                if time.monotonic() >= self._until:
                    raise EphemportError(
                        "cannot adopt: somebody serves this token and accepted no connection "
                        f"within {PATIENCE:g} s; its queue of connections is full"
                    ) from TimeoutError(str(full))
                time.sleep(_PAUSE)
            else:
                return

    def _wait(self) -> None:
        """Return when there is something to read. Raises TimeoutError."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        left = max(self._until - time.monotonic(), 0)
        if not poll.poll(left * 1000):
            raise TimeoutError(f"no answer within {PATIENCE:g} s")

    def _receive(self) -> tuple[Hold, Terms]:
        descriptors: list[int] = []
        sockets: list[socket.SocketType] = []
        # The sockets must not leak: not into a forked child, and not when a signal handler raises.
        with lock:
            try:
                with _no_signals():
                    answer, descriptors, flags, _ = socket.recv_fds(
                        self._connection, 4096, len(PARTS["both"]), socket.MSG_CMSG_CLOEXEC
                    )
                if flags & socket.MSG_CTRUNC:
                    raise EphemportError(
                        "cannot adopt: this process has no file descriptor left for the sockets "
                        "(RLIMIT_NOFILE, ulimit -n)"
                    )
                port, terms = _understood(answer)
                while descriptors:
                    sockets.append(socket.SocketType(fileno=descriptors[0]))
                    del descriptors[0]
                if not _hold_port(sockets, port, terms.protocol):
                    raise _RefusedError(f"port {port} ({terms.protocol}), with other sockets")
                hold = adopt_sockets(port, tuple(sockets))
                hold.sealed = not handoff_named(terms.handoff).servers_bind
                return hold, terms
            except BaseException:
                for sock in sockets:
                    sock.close()
                for descriptor in descriptors:
                    socket.close(descriptor)
                raise

    def _take_over(self) -> None:
        """Report that we have it, and return as soon as the giver has let go."""
        self._say(HAVE_IT)
        try:
            self._wait()
        except TimeoutError:
            # From now on the giver cannot send LET_GO. It may have sent it just before.
            self._connection.shutdown(socket.SHUT_RDWR)
            if self._said() != LET_GO:
                raise
            return
        said = self._said()
        if said != LET_GO:
            _understood(said)
            raise EOFError
        with suppress(TimeoutError, ConnectionResetError):
            # It hangs up when its sockets are closed. The port is ours already.
            self._wait()

    def _say(self, what: bytes) -> None:
        # A giver that has hung up may have said why: the next read shows it.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(what)

    def _said(self) -> bytes:
        try:
            return self._connection.recv(4096)
        except BlockingIOError:
            return b""


class _RefusedError(Exception):
    """The refusal of a giver."""


def _understood(answer: bytes) -> tuple[int, Terms]:
    """Return port and terms. Raises EOFError for no answer, _RefusedError for a refusal."""
    if not answer:
        raise EOFError("the giver hung up")
    try:
        said: dict[str, Any] = json.loads(answer)
        if "refused" in said:
            raise _RefusedError(command_in_words(str(said["refused"])))
        terms = Terms(*(text(said[name], name) for name in Terms._fields))
        check_protocol(terms.protocol)
        handoff_named(terms.handoff)
        return checked_port(said["port"]), terms
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _RefusedError(f"something that is no answer ({answer[:80]!r})") from None


def _hold_port(sockets: Sequence[socket.SocketType], port: int, protocol: str) -> bool:
    """Whether these are what a hold of the port consists of."""
    kinds = tuple(one.type for one in sockets)
    return kinds == KINDS[protocol] and all(
        one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port
        for one in sockets
    )


@contextmanager
def _no_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _giver(pid: int) -> str:
    """Name the giver by its pid, command line and state."""
    if pid == 0:
        return "a giver outside of this process's pid namespace"
    if not is_running(pid):
        return f"the giver, pid {pid}, which has ended,"
    command = command_line(pid)
    named = f"the giver, pid {pid}" + (f" ({command})" if command else "")
    return f"{named}, which is stopped (SIGCONT continues it)," if is_stopped(pid) else named

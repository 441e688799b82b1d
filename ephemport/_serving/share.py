"""Sharing: another process of the same user gets the same socket, over an abstract Unix socket.

One small thread serves every token of this process, from the first offer to the end of the last.
Giver and adopter send each other whole messages (SOCK_SEQPACKET, unix(7)):

1. adopter: the secret of the token
2. giver: the terms and, as SCM_RIGHTS, the sockets; or a refusal
3. adopter: HAVE_IT
4. giver: LET_GO; it closes its sockets and hangs up

Message 4 decides. Before it the giver is the holder, and it stays the holder if the adopter gives
up.

The name of an abstract socket is not secret (/proc/net/unix), and any local user may connect to it.
So other users are refused before anything they send is read. A silent process of this user takes
the place of only one visitor among several. An abstract socket belongs to a network namespace, as
ports do: giver and adopter are in the same one.
"""

import array
import errno
import hmac
import json
import os
import secrets
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from weakref import ref

from ephemport._errors import EphemportError
from ephemport._holding.hold import Hold
from ephemport._kernel.fork import lock

PREFIX = "ephemport-share"
# A giver or an adopter that is silent for so many seconds has failed.
PATIENCE = 10.0
HAVE_IT, LET_GO = b"+", b"."

# The most connections of this user at a time. One more ends the oldest that has no sockets.
_MOST_VISITORS = 16
# The most connections accepted in a row, so that a flood does not make the others wait.
_MOST_AT_ONCE = 64
# How long, in seconds, the thread rests when it has no descriptor left to accept with.
_REST = 0.05
_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RELEASED = "the reservation was released meanwhile"


class Offer:
    """One shared hold, until a process has adopted it or it is withdrawn.

    hold: what is given away. terms: the facts besides the port that the adopter's Reservation
    needs. Raises EphemportError when there is no descriptor or no thread left to serve with.
    """

    def __init__(self, hold: Hold, terms: dict[str, str]) -> None:
        # Weak: a forgotten reservation must be collected, and its token ends with it.
        self._hold = ref(hold, lambda _: self.withdraw())
        self.terms = terms
        self.secret = secrets.token_hex(16)
        name = secrets.token_hex(16)
        self.token = f"{PREFIX}:{name}:{self.secret}"
        self.listener: _Listener | None = None
        with lock:
            try:
                self.listener = _Listener(name)
                _serve_in_this_process(self)
            except BaseException as error:
                self.withdraw()
                # RuntimeError: what threading raises when there can be no more threads.
                if isinstance(error, (OSError, RuntimeError)):
                    reason = getattr(error, "strerror", None) or error
                    raise EphemportError(f"cannot share port {hold.port}: {reason}") from error
                raise

    @property
    def hold(self) -> Hold | None:
        """What is given away; None if it was released or collected."""
        hold = self._hold()
        return None if hold is None or hold.closed else hold

    def withdraw(self) -> None:
        """End the token at once. May be called often, from any thread and signal handler."""
        # The thread drops its reference and does not close. While we have ours, the descriptor
        # belongs to this socket.
        listener = self.listener
        if listener is not None:
            with suppress(OSError):
                # Refuses connections from now on, and wakes the thread, which does the rest.
                listener.shutdown(socket.SHUT_RDWR)


class _Listener(socket.socket):
    """The socket to which adopters of one token connect. It closes with its last reference."""

    def __init__(self, name: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.setblocking(False)
        self.bind(address(name))
        self.listen()

    def __del__(self) -> None:
        self.close()


class _Visitor:
    """A connection of a process of this user."""

    def __init__(self, offer: Offer, connection: socket.socket, pid: int) -> None:
        self.offer = offer
        self.connection = connection
        self.pid = pid
        self.until = time.monotonic() + PATIENCE
        self.has_sockets = False


class _Server:
    """Serves the offers of this process. It makes every change with the lock held."""

    def __init__(self) -> None:
        self._offers: list[Offer] = []
        self._visitors: list[_Visitor] = []
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._used_up = False

    def start(self) -> None:
        threading.Thread(target=self._run, name=PREFIX, daemon=True).start()

    def add(self, offer: Offer) -> None:
        self._offers.append(offer)
        os.eventfd_write(self._news, 1)

    def close(self) -> None:
        """Close every descriptor and shut down nothing: after a fork the parent still serves."""
        for offer in self._offers:
            if offer.listener is not None:
                offer.listener.close()
        for visitor in self._visitors:
            visitor.connection.close()
        os.close(self._news)

    def _run(self) -> None:
        global _server
        serving = True
        while serving:
            ready = self._wait()
            with lock:
                serving = False
                try:
                    self._serve(ready)
                    serving = bool(self._offers)
                finally:
                    if not serving:
                        self.close()
                        _server = None

    def _wait(self) -> dict[int, int]:
        """Return what happens next: descriptor -> events of poll(2). Empty: some time is up."""
        poll = select.poll()
        poll.register(self._news, select.POLLIN)
        for offer in [*self._offers]:
            if offer.listener is not None:
                # 0: poll() would report a connection that cannot be accepted without end. It
                # still reports POLLHUP.
                poll.register(offer.listener, 0 if self._used_up else select.POLLIN)
        for visitor in self._visitors:
            poll.register(visitor.connection, select.POLLIN)
        untils = [visitor.until for visitor in self._visitors]
        if self._used_up:
            untils.append(time.monotonic() + _REST)
        left = max(min(untils) - time.monotonic(), 0) if untils else None
        # One more: poll() takes whole milliseconds and must not return too early.
        ready = poll.poll(None if left is None else left * 1000 + 1)
        self._used_up = False
        return dict(ready)

    def _serve(self, ready: dict[int, int]) -> None:
        if self._news in ready:
            os.eventfd_read(self._news)
        now = time.monotonic()
        # A visitor that has sent something is heard even if its time is up: it may be HAVE_IT.
        for visitor in [*self._visitors]:
            if visitor in self._visitors:
                if visitor.connection.fileno() in ready:
                    self._hear(visitor)
                elif now >= visitor.until:
                    self._dismiss(visitor)
        for offer in [*self._offers]:
            if offer.listener is not None:
                events = ready.get(offer.listener.fileno(), 0)
                if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self._end(offer, _RELEASED)
                elif events:
                    self._accept(offer)

    def _accept(self, offer: Offer) -> None:
        for _ in range(_MOST_AT_ONCE):
            # A visitor that is heard may end the offer.
            if offer.listener is None:
                return
            try:
                connection, _ = offer.listener.accept()
            except OSError as error:
                if error.errno in _USED_UP:
                    self._used_up = True
                    self._make_room(keep_adopters=True)
                return
            connection.setblocking(False)
            pid, uid = peer(connection)
            if uid != os.geteuid():
                whose = f"it belongs to uid {os.geteuid()}, and you are uid {uid}"
                _send_away(connection, whose)
                continue
            if len(self._visitors) >= _MOST_VISITORS:
                self._make_room()
            visitor = _Visitor(offer, connection, pid)
            self._visitors.append(visitor)
            self._hear(visitor)

    def _make_room(self, keep_adopters: bool = False) -> None:
        oldest = min(self._visitors, key=lambda one: one.has_sockets, default=None)
        if oldest is not None and not (keep_adopters and oldest.has_sockets):
            self._dismiss(oldest, "too many others asked for it at the same time")

    def _hear(self, visitor: _Visitor) -> None:
        try:
            said = visitor.connection.recv(256)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._dismiss(visitor)
        elif not visitor.has_sockets:
            self._answer(visitor, said)
        elif said == HAVE_IT:
            self._let_go(visitor)
        else:
            self._dismiss(visitor, "the adopter spoke out of turn")

    def _answer(self, visitor: _Visitor, secret: bytes) -> None:
        offer = visitor.offer
        if not hmac.compare_digest(secret, offer.secret.encode()):
            self._dismiss(visitor, "the token is wrong")
            return
        hold = offer.hold
        sockets = array.array("i", [sock.fileno() for sock in hold.sockets] if hold else [])
        if hold is None or not sockets:
            self._end(offer, _RELEASED)
            return
        terms = json.dumps({**offer.terms, "port": hold.port}).encode()
        try:
            visitor.connection.sendmsg([terms], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sockets)])
        except OSError:
            self._dismiss(visitor)
        else:
            visitor.has_sockets = True

    def _let_go(self, visitor: _Visitor) -> None:
        offer = visitor.offer
        hold = offer.hold
        if hold is None:  # released since the sockets were sent
            self._end(offer, _RELEASED)
            return
        try:
            visitor.connection.send(LET_GO)
        except OSError:
            # It has hung up meanwhile, so the port stays ours.
            self._dismiss(visitor)
            return
        with suppress(OSError):
            hold.hand_on(visitor.pid)
        self._dismiss(visitor)
        self._end(offer, f"it was adopted by pid {visitor.pid} meanwhile")

    def _dismiss(self, visitor: _Visitor, reason: str | None = None) -> None:
        self._visitors.remove(visitor)
        if reason is not None:
            _send_away(visitor.connection, reason)
        visitor.connection.close()

    def _end(self, offer: Offer, reason: str) -> None:
        self._offers.remove(offer)
        offer.withdraw()
        listener, offer.listener = offer.listener, None
        with suppress(OSError):
            # These connected before, and wait to be accepted.
            while listener is not None:
                _send_away(listener.accept()[0], reason)
        for visitor in [*self._visitors]:
            if visitor.offer is offer:
                self._dismiss(visitor, reason)


_server: _Server | None = None


def _serve_in_this_process(offer: Offer) -> None:
    global _server
    if _server is not None:
        _server.add(offer)
        return
    server = _server = _Server()
    server.add(offer)
    try:
        server.start()
    except (OSError, RuntimeError):
        # No thread runs. After any other exception, such as a signal's, the thread ends itself.
        server.close()
        _server = None
        raise


def address(name: str) -> str:
    """Return the abstract address (unix(7)) at which the token with this name is served."""
    return f"\0{PREFIX}-{name}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and effective uid of the other end, as of its connect() or listen()."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def _send_away(connection: socket.socket, reason: str) -> None:
    connection.setblocking(False)
    # What it sent is read first: closing a connection with unread data resets it, and the refusal
    # would be lost.
    with suppress(OSError):
        connection.recv(256)
    with suppress(OSError):
        connection.send(json.dumps({"refused": reason}).encode())
    connection.close()


def _after_fork_in_child() -> None:
    global _server
    if _server is not None:
        # Close, do not withdraw: the parent still serves.
        _server.close()
        _server = None


os.register_at_fork(after_in_child=_after_fork_in_child)

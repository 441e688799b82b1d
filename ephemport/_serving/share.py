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
import sys
import threading
import time
from contextlib import suppress
from socket import MSG_DONTWAIT, SOCK_SEQPACKET, SocketType
from weakref import ref

from ephemport._errors import EphemportError, refusal_in_words
from ephemport._holding.hold import Hold
from ephemport._holding.identity import Identity, close_unless_lost, identity_of, is_still
from ephemport._kernel.fork import lock
from ephemport._kernel.locks import new_lock
from ephemport._serving.messages import PREFIX, accepted, bound, knock, peer, refuse, send_away

# A giver or an adopter that is silent for so many seconds has failed.
PATIENCE = 10.0
HAVE_IT, LET_GO = b"+", b"."

# The most connections of this user at a time. One more ends the oldest that has no sockets.
_MOST_VISITORS = 16
# The most connections accepted in a row, so that a flood does not make the others wait.
_MOST_AT_ONCE = 64
# After so many seconds the thread looks at its descriptors again, even if nothing woke it: other
# code may have closed and reused all of them just before it began to wait for them.
_LOOK_AGAIN = 2.0
# How long, in seconds, the thread rests when it has no descriptor left to accept with.
_REST = 0.05
_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RELEASED = "the reservation was released meanwhile"


class Offer:
    """One shared hold, until a process has adopted it or it is withdrawn.

    hold: what is given away. terms: the facts besides the port that the adopter's Reservation
    needs. Nothing is opened before `serve()`.
    """

    def __init__(self, hold: Hold, terms: dict[str, str]) -> None:
        self.terms = terms
        self.secret = secrets.token_hex(16)
        self._name = secrets.token_hex(16)
        self.token = f"{PREFIX}:{self._name}:{self.secret}"
        self.listener: SocketType | None = None
        self._identity: Identity = b""
        # The thread closes the listener, and any thread may withdraw: not at the same time.
        self._closing = new_lock()
        # Weak: a forgotten reservation must be collected, and its token ends with it.
        self._hold: ref[Hold] | None = ref(hold, lambda _: self.withdraw())

    def serve(self) -> None:
        """Serve the token from now on. After any exception nothing of it stays.

        Raises EphemportError when there is no descriptor or no thread left to serve with.
        """
        handled = sys.exc_info()[1]
        with lock:
            hold = self.hold
            try:
                listener = bound(SOCK_SEQPACKET, self._name)
                # Before the listener, which is closed only if this is its identity.
                self._identity = identity_of(listener)
                self.listener = listener
                listener.listen()
                _serve_in_this_process(self)
            except BaseException as error:
                # The thread needs the lock, so it has seen nothing yet.
                for server in _servers:
                    server.forget(self)
                self.close()
                interrupted = error.__context__
                if isinstance(error, RuntimeError) and interrupted not in (None, handled):
                    # A signal handler raised, and threading failed while it cleaned up.
                    raise interrupted from None
                # RuntimeError: what threading raises when there can be no more threads.
                if hold is not None and isinstance(error, (OSError, RuntimeError)):
                    reason = refusal_in_words(error.errno) if isinstance(error, OSError) else error
                    raise EphemportError(f"cannot share port {hold.port}: {reason}") from error
                raise

    @property
    def hold(self) -> Hold | None:
        """What is given away; None if it was withdrawn, released or collected."""
        hold = None if self._hold is None else self._hold()
        return None if hold is None or hold.closed else hold

    @property
    def is_served(self) -> bool:
        """Whether a process can adopt it: neither withdrawn, nor closed by other code."""
        return self._hold is not None and self.has_listener

    @property
    def has_listener(self) -> bool:
        """Whether the descriptor of the listener still is the listener."""
        listener = self.listener
        return listener is not None and is_still(listener, self._identity)

    def withdraw(self) -> None:
        """End the token at once. May be called often, from any thread and signal handler."""
        if self.listener is not None:
            with self._closing:
                if self.has_listener:
                    with suppress(OSError):
                        # Refuses connections from now on, and wakes the thread, which does the
                        # rest.
                        self.listener.shutdown(socket.SHUT_RDWR)
                elif self.listener is not None:
                    knock(self._name)
        # With the reference its callback goes. It is for forgotten reservations alone.
        self._hold = None

    def close(self) -> None:
        """Close the listener, and do not shut it down: after a fork the parent still serves."""
        listener, self.listener = self.listener, None
        if listener is not None:
            close_unless_lost(listener, self._identity)

    def end(self, reason: str) -> None:
        """Refuse those that connected before and wait to be accepted, and close the listener."""
        self.withdraw()
        with self._closing, suppress(OSError):
            while self.listener is not None and self.has_listener:
                send_away(accepted(self.listener), reason)
        with self._closing:
            self.close()


class _Visitor:
    """A connection of a process of this user."""

    def __init__(self, offer: Offer, connection: SocketType, pid: int) -> None:
        self.offer = offer
        self.connection = connection
        self._identity = identity_of(connection)
        self.pid = pid
        self.until = time.monotonic() + PATIENCE
        self.has_sockets = False

    @property
    def is_connected(self) -> bool:
        """Whether the descriptor still is the connection. Other code may have closed it."""
        return is_still(self.connection, self._identity)

    def close(self) -> None:
        close_unless_lost(self.connection, self._identity)


class _Server:
    """Serves the offers of this process. It makes every change with the lock held."""

    def __init__(self) -> None:
        self._offers: list[Offer] = []
        self._visitors: list[_Visitor] = []
        self._used_up = False
        self._thread = threading.Thread(target=self._run, name=PREFIX, daemon=True)
        # It is connected to itself: a message wakes the thread, and nobody else can send one. An
        # eventfd would do, but has no identity of its own.
        self._news = bound(socket.SOCK_DGRAM, secrets.token_hex(16))
        try:
            self._identity = identity_of(self._news)
            self._news.connect(self._news.getsockname())
        except BaseException:
            self._news.close()
            raise

    def start(self) -> None:
        """Start the thread. It waits for the lock first."""
        self._thread.start()

    @property
    def is_well(self) -> bool:
        """Whether it can serve one more offer."""
        return self._thread.is_alive() and is_still(self._news, self._identity)

    def add(self, offer: Offer) -> None:
        self._offers.append(offer)
        # BlockingIOError: more news than fit, so it wakes anyway.
        with suppress(BlockingIOError):
            self._news.send(b".", MSG_DONTWAIT)

    def forget(self, offer: Offer) -> None:
        if offer in self._offers:
            self._offers.remove(offer)

    def close(self) -> None:
        """Close every descriptor and shut down nothing: after a fork the parent still serves."""
        for offer in self._offers:
            offer.close()
        for visitor in self._visitors:
            visitor.close()
        self._offers, self._visitors = [], []
        close_unless_lost(self._news, self._identity)

    def _run(self) -> None:
        try:
            while True:
                with lock:
                    self._drop_lost()
                    if not self._offers:
                        # With the lock still held: otherwise an offer could come in between.
                        self._finish()
                        return
                ready = self._wait()
                with lock:
                    self._serve(ready)
        except OSError as error:
            with lock:
                for offer in [*self._offers]:
                    self._end(offer, f"it cannot serve: {refusal_in_words(error.errno)}")
        finally:
            with lock:
                self._finish()

    def _finish(self) -> None:
        global _server
        self.close()
        if self in _servers:
            _servers.remove(self)
        if _server is self:
            _server = None

    def _drop_lost(self) -> None:
        """Drop what other code closed (os.closerange()), and do not touch its descriptors."""
        for offer in [*self._offers]:
            if not offer.has_listener:
                self._end(offer, "other code of its process closed the socket")
        for visitor in [*self._visitors]:
            if not visitor.is_connected:
                self._dismiss(visitor)

    def _wait(self) -> dict[int, int]:
        """Return what happens next: descriptor -> events of poll(2). Empty: some time is up.

        A descriptor is a number, which may be another file's by the time it is used. So nothing
        here waits without an end, and MSG_DONTWAIT says again what each of our sockets is set to.
        """
        poll = select.poll()
        if is_still(self._news, self._identity):
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
        untils.append(time.monotonic() + _LOOK_AGAIN)
        left = max(min(untils) - time.monotonic(), 0)
        # One more: poll() takes whole milliseconds and must not return too early.
        ready = poll.poll(left * 1000 + 1)
        self._used_up = False
        return dict(ready)

    def _serve(self, ready: dict[int, int]) -> None:
        self._drop_lost()
        if self._news.fileno() in ready and is_still(self._news, self._identity):
            with suppress(OSError):
                while True:
                    self._news.recv(1, MSG_DONTWAIT)
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
            # A visitor that is heard may end the offer, and other code may close the listener.
            if offer.listener is None or not offer.has_listener:
                return
            try:
                connection = accepted(offer.listener)
            except OSError as error:
                if error.errno in _USED_UP:
                    self._used_up = True
                    self._make_room(keep_adopters=True)
                return
            try:
                pid, uid = peer(connection)
            except OSError as error:
                unknown = f"it cannot ask who you are: {refusal_in_words(error.errno)}"
                send_away(connection, unknown)
                continue
            if uid != os.geteuid():
                whose = f"it belongs to uid {os.geteuid()}, and you are uid {uid}"
                send_away(connection, whose)
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
            said = visitor.connection.recv(256, MSG_DONTWAIT)
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
            given = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sockets)]
            visitor.connection.sendmsg([terms], given, MSG_DONTWAIT)
        except OSError as error:
            self._dismiss(visitor, f"it cannot send the sockets: {refusal_in_words(error.errno)}")
        else:
            visitor.has_sockets = True

    def _let_go(self, visitor: _Visitor) -> None:
        offer = visitor.offer
        hold = offer.hold
        if hold is None:  # released since the sockets were sent
            self._end(offer, _RELEASED)
            return
        try:
            visitor.connection.send(LET_GO, MSG_DONTWAIT)
        except OSError:
            # It has hung up meanwhile, so the port stays ours.
            self._dismiss(visitor)
            return
        with suppress(OSError):
            hold.hand_on(visitor.pid)
        self._visitors.remove(visitor)
        self._end(offer, f"it was adopted by pid {visitor.pid} meanwhile")
        # Last: adopt() returns when this hangs up, and the token is used up by then.
        visitor.close()

    def _dismiss(self, visitor: _Visitor, reason: str | None = None) -> None:
        self._visitors.remove(visitor)
        if reason is not None and visitor.is_connected:
            refuse(visitor.connection, reason)
        visitor.close()

    def _end(self, offer: Offer, reason: str) -> None:
        self._offers.remove(offer)
        offer.end(reason)
        for visitor in [*self._visitors]:
            if visitor.offer is offer:
                self._dismiss(visitor, reason)


# The one that gets new offers, and all that have a thread: one that lost its means of being woken
# serves its offers to their end.
_server: _Server | None = None
_servers: list[_Server] = []


def _serve_in_this_process(offer: Offer) -> None:
    global _server
    if _server is not None and _server.is_well:
        _server.add(offer)
        return
    server = _Server()
    try:
        server.add(offer)
        # The thread waits for the lock, so it finds the offer, or nothing after an exception.
        server.start()
        _servers.append(server)
        _server = server
    except BaseException:
        server.close()
        raise


def _after_fork_in_child() -> None:
    global _server
    # Close, do not withdraw: the parent still serves.
    for server in _servers:
        server.close()
    _servers.clear()
    _server = None


os.register_at_fork(after_in_child=_after_fork_in_child)

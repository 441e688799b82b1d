"""Sharing: another process of the same user gets the very socket, over an abstract Unix socket.

The giver serves a token from a small thread. Whoever connects is checked (SO_PEERCRED, man 7 unix:
the same user) and must know the token's secret; the sockets travel as SCM_RIGHTS. The giver lets
go only when the adopter has said that it has them. Abstract sockets belong to a network namespace,
so giver and adopter must be in the same one, as they must be for the number to mean anything.
"""

import array
import hmac
import json
import os
import re
import secrets
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from ephemport._arguments import shown, text
from ephemport._errors import EphemportError
from ephemport._holding.hold import Hold, adopt_sockets

_PREFIX = "ephemport-share"
_TOKEN = re.compile(rf"{_PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})")
# An adopter that says nothing for so long has gone wrong.
_PATIENCE = 10.0
_MOST_SOCKETS = 2
_HAVE_IT = b"+"

_offers: set["Offer"] = set()


class Offer:
    """One shared hold, until somebody has adopted it or it is withdrawn."""

    def __init__(self, hold: Hold, terms: dict[str, str]) -> None:
        # Not the reservation: one that is lost must still be found lost.
        self._hold = hold
        self._terms = terms
        self._secret = secrets.token_hex(16)
        name = secrets.token_hex(16)
        self.token = f"{_PREFIX}:{name}:{self._secret}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(_address(name))
            self._socket.listen()
        except BaseException:
            self._socket.close()
            raise
        _offers.add(self)
        threading.Thread(target=self._serve, name="ephemport-share", daemon=True).start()

    def withdraw(self) -> None:
        """Let the token die."""
        _offers.discard(self)
        with suppress(OSError):
            # Closing alone would not wake the thread out of accept().
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def abandon(self) -> None:
        """Drop a forked child's copy; the parent still serves."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(_PATIENCE)
                if self._give(connection):
                    return

    def _give(self, connection: socket.socket) -> bool:
        # Read even from those who are refused: closed with something unread, the connection is
        # reset and the refusal lost.
        secret = connection.recv(256)
        pid, uid = _peer(connection)
        if uid != os.geteuid():
            connection.send(_refusal(f"it belongs to uid {os.geteuid()}, and you are uid {uid}"))
            return False
        if not hmac.compare_digest(secret, self._secret.encode()):
            connection.send(_refusal("the token is wrong"))
            return False
        descriptors = array.array("i", [sock.fileno() for sock in self._hold.sockets])
        if not descriptors:
            connection.send(_refusal("the reservation was released meanwhile"))
            return True
        terms = json.dumps({**self._terms, "port": self._hold.port}).encode()
        connection.sendmsg([terms], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        if connection.recv(1) != _HAVE_IT:
            return False
        self.withdraw()
        self._hold.gone_to = f"adopted by pid {pid}"
        self._hold.close()
        return True


def adopt(token: str) -> tuple[Hold, dict[str, Any]]:
    """The hold behind `token`, and the terms it was shared under. EphemportError if refused."""
    made_of = _TOKEN.fullmatch(text(token, "a token is a string, as share() returns it"))
    if made_of is None:
        raise ValueError(f"{shown(token)} is no token of share()")
    name, secret = made_of.groups()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(_address(name))
            uid = _peer(connection)[1]
            if uid != os.geteuid():
                raise EphemportError(
                    f"cannot adopt: the token is served by uid {uid}, and this process has uid "
                    f"{os.geteuid()}; a reservation is shared within one user"
                )
            connection.send(secret.encode())
            answer, descriptors, _, _ = socket.recv_fds(connection, 4096, _MOST_SOCKETS)
        except OSError as error:
            raise EphemportError(
                f"cannot adopt: nobody serves this token ({error.strerror or error}). It works "
                "once, dies with its reservation, and only within one network namespace"
            ) from error
        terms: dict[str, Any] = json.loads(answer or b"{}")
        if not descriptors:
            raise EphemportError(f"cannot adopt: {terms.get('refused', 'the giver is gone')}")
        # recv_fds() leaves them inheritable on Pythons that lack MSG_CMSG_CLOEXEC handling.
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        sockets = tuple(socket.SocketType(fileno=descriptor) for descriptor in descriptors)
        hold = adopt_sockets(int(terms["port"]), sockets)
        try:
            connection.send(_HAVE_IT)
            # The giver hangs up when it has let go.
            connection.recv(1)
        except BaseException:
            hold.close()
            raise
    return hold, terms


def _address(name: str) -> str:
    return f"\0{_PREFIX}-{name}"


def _peer(connection: socket.socket) -> tuple[int, int]:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def _refusal(reason: str) -> bytes:
    return json.dumps({"refused": reason}).encode()


def _after_fork_in_child() -> None:
    for offer in _offers:
        offer.abandon()
    _offers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

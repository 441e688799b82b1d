"""What the tests of sharing share: other processes that give, adopters that stop half-way."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ephemport import EphemportError, Reservation, adopt
from tests.conftest import ROOT, WARNINGS_ARE_ERRORS

_GIVE = """
import sys
from ephemport import reserve
with reserve(protocol=sys.argv[1]) as r:
    print(r.port, r.share(), flush=True)
    sys.stdin.readline()
    print(r.released, flush=True)
"""


class Giver:
    """Another process that holds a port and shares it."""

    def __init__(self, protocol: str = "tcp") -> None:
        self.process = subprocess.Popen(
            [sys.executable, *WARNINGS_ARE_ERRORS, "-c", _GIVE, protocol],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        port, self.token = self.process.stdout.readline().split()
        self.port = int(port)
        self.pid = self.process.pid

    def stop(self) -> None:
        """Keep it from running, and return when it does not run any more."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def has_let_go(self) -> bool:
        """Ask it, and let it end."""
        stdout, _ = self.process.communicate("\n", timeout=30)
        return stdout.strip() == "True"


@contextmanager
def giver(protocol: str = "tcp") -> Iterator[Giver]:
    one = Giver(protocol)
    with one.process:
        try:
            yield one
        finally:
            one.process.kill()


def visit(token: str) -> socket.socket:
    """A connection to the giver of `token`, on which nothing was sent."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(30)
        sock.connect(f"\0ephemport-share-{token.split(':')[1]}")
    except BaseException:
        sock.close()
        raise
    return sock


def take_sockets(token: str) -> tuple[socket.socket, list[int]]:
    """An adopter that has got the sockets and is silent."""
    sock = visit(token)
    sock.send(token.split(":")[2].encode())
    _, descriptors, _, _ = socket.recv_fds(sock, 4096, 2)
    return sock, descriptors


class Adopter(threading.Thread):
    """`adopt()` in a thread: the reservation or the error that it ended with."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token
        self.reservation: Reservation | None = None
        self.error: EphemportError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.reservation = adopt(self._token)
        except EphemportError as error:
            self.error = error

    def end(self) -> str:
        """Wait for it and release the port; return the error as text, "" without one."""
        self.join(60)
        assert not self.is_alive()
        if self.reservation is not None:
            self.reservation.release()
        return "" if self.error is None else str(self.error)


def servers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "ephemport-share"]

"""Talking to servers, in their own protocols."""

import http.client
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from typing import Any
from xmlrpc.client import ServerProxy

from tests.servers.row import PATH, Place

Client = Callable[[Place], None]
PATIENCE = 20.0


def http_get(expected: str, path: str = "/") -> Client:
    """Asks for the path and expects a body with the text."""

    def talk(place: Place) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, (response.status, body)
            assert expected in body, body
        finally:
            connection.close()

    return talk


def line(sent: bytes, expected: bytes, *, hang_up: bool = False) -> Client:
    """Sends bytes and expects an answer that begins so; `hang_up`: the server ends it."""

    def talk(place: Place) -> None:
        with _connected(place) as sock:
            sock.sendall(sent)
            answer = _read(sock, len(expected))
            assert answer == expected, answer
            if hang_up:
                assert sock.recv(1 << 10) == b"", "the server was to hang up"

    return talk


def datagram(sent: bytes, expected: bytes) -> Client:
    def talk(place: Place) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", place.port))
            sock.send(sent)
            answer = sock.recv(1 << 12)
            assert answer == expected, answer

    return talk


def dns(name: str, address: str) -> Client:
    """Asks for an A record, over UDP and over TCP."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)

    def check(answer: bytes) -> None:
        assert answer[:2] == query[:2], answer
        assert answer.endswith(socket.inet_aton(address)), answer

    def talk(place: Place) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", place.port))
            sock.send(query)
            check(sock.recv(512))
        with _connected(place) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", _read(sock, 2))
            check(_read(sock, length))

    return talk


def mqtt_connect(place: Place) -> None:
    body = struct.pack("!H4sBBH", 4, b"MQTT", 4, 2, 60) + struct.pack("!H4s", 4, b"held")
    line(bytes([0x10, len(body)]) + body, b"\x20\x02\x00\x00")(place)


def xmlrpc_call(place: Place) -> None:
    with ServerProxy(f"http://127.0.0.1:{place.port}/") as proxy:
        answer: Any = proxy.pow(2, 10)
        assert answer == 1024, answer


class _Manager(BaseManager):
    """Knows what the server's manager offers."""


_Manager.register("table")


def manager_call(place: Place) -> None:
    manager = _Manager(("127.0.0.1", place.port), b"held")
    manager.connect()
    table: Any = manager.table()  # type: ignore[attr-defined]
    table.update({"six": 6})
    assert table.get("six") == 6


def says(expected: str, *command: str, starting_up: str | None = None) -> Client:
    """Runs a client, with the port in place of {port}, and expects it to print the text.

    `starting_up`: what a server says that listens already and is not ready yet.
    """

    def talk(place: Place) -> None:
        filled = [one.replace("{port}", str(place.port)) for one in command]
        deadline = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(
                filled,
                cwd=place.folder,
                env={**os.environ, "PATH": PATH, "TMPDIR": str(place.folder)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=3 * PATIENCE,
            )
            ready = starting_up is None or starting_up not in done.stderr
            if ready or time.monotonic() > deadline:
                break
        assert done.stdout.strip() == expected, (done.stdout, done.stderr)

    return talk


def _connected(place: Place) -> socket.socket:
    return socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE)


def _read(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            break
        data += more
    return data

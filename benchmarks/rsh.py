"""A remote shell for the tests: what is typed here runs there, over one TCP connection.

    python rsh.py serve ADDRESS PORT           there; prints a line when it listens
    python rsh.py run ADDRESS PORT WORDS...    here

Unlike ssh it needs no keys, and nothing in it notices a cut link: only the lease can.
"""

import json
import os
import socket
import subprocess
import sys
import threading


def serve(address: tuple[str, int]) -> None:
    with socket.create_server(address) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                words = b""
                while not words.endswith(b"\n"):
                    words += connection.recv(1)
                there = connection.fileno()
                subprocess.Popen(json.loads(words), stdin=there, stdout=there, stderr=there)


def run(address: tuple[str, int], words: list[str]) -> None:
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(json.dumps(words).encode() + b"\n")
        threading.Thread(target=_send, args=(connection,), daemon=True).start()
        while data := connection.recv(65536):
            os.write(1, data)


def _send(connection: socket.socket) -> None:
    while data := os.read(0, 65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _, what, host, port, *rest = sys.argv
    if what == "serve":
        serve((host, int(port)))
    else:
        run((host, int(port)), rest)

"""A small web server, as a program: on a port, on descriptor N (`fd=N`), or activated."""

import ctypes
import http.server
import signal
import socket
import socketserver
import sys

_FIRST_PASSED = 3


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name is given)
        pass


class _Server(socketserver.TCPServer):
    # Not HTTPServer: it asks for the machine's name, but only when it binds.
    allow_reuse_address = True


def _main(where: str) -> None:
    # PR_SET_PDEATHSIG: no server outlives the benchmark, however that ends.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if where.isdecimal():
        server = _Server(("127.0.0.1", int(where)), _Handler)
    else:
        passed = int(where[3:]) if where.startswith("fd=") else _FIRST_PASSED
        server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.socket(fileno=passed)
    server.serve_forever()


if __name__ == "__main__":
    _main(sys.argv[1])

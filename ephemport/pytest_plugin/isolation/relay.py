"""A relay for plugins whose workers connect to the controller over the loopback.

pytest-rerunfailures keeps its counts in a server in the controller. Where the plugin is installed,
every worker connects to it on 127.0.0.1; another network has no such server. A Unix socket with a
path belongs to no network. Through it the controller passes a connection that it made, and a thread
of the worker copies between that connection and the plugin's own.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

from ephemport._kernel.descriptors import short_path

_HOST = "127.0.0.1"
# The keys of `workerinput` under which plugins name the controller's port.
_PORTS = ("sock_port",)


def offer(folder: str) -> socket.socket:
    """In the controller: pass connections to the requested ports of the controller.

    Ends when the returned socket is shut down.
    """
    listener = socket.socket(socket.AF_UNIX)
    with short_path(folder, "relay") as path:
        listener.bind(path)
    listener.listen()
    Thread(target=_pass_connections, args=(listener,), daemon=True).start()
    return listener


def accept(folder: str, workerinput: Mapping[str, Any]) -> None:
    """In an isolated worker: listen where its plugins will connect."""
    for name in _PORTS:
        port = workerinput.get(name)
        if isinstance(port, int):
            listener = socket.create_server((_HOST, port))
            Thread(target=_relay, args=(listener, folder, port), daemon=True).start()


def _pass_connections(listener: socket.socket) -> None:
    while True:
        try:
            asking, _ = listener.accept()
        except OSError:
            return
        with asking, suppress(OSError, ValueError):
            port = int(asking.recv(8))
            with socket.create_connection((_HOST, port)) as connection:
                socket.send_fds(asking, [b"1"], [connection.fileno()])


def _relay(listener: socket.socket, folder: str, port: int) -> None:
    while True:
        inside, _ = listener.accept()
        with socket.socket(socket.AF_UNIX) as asking:
            with short_path(folder, "relay") as path:
                asking.connect(path)
            asking.sendall(str(port).encode())
            descriptors = socket.recv_fds(asking, 1, 1)[1]
        if not descriptors:
            inside.close()
            continue
        outside = socket.socket(fileno=descriptors[0])
        for ends in ((inside, outside), (outside, inside)):
            Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

"""The reason for all this: server starts beside neighbours who take ports without rest."""

import socketserver
import threading
from contextlib import ExitStack

from ephemport import reserve, reserve_many
from tests.conftest import InNamespace
from tests.core.helpers import abort_on_close, child, finish, peer, restless_neighbour
from tests.core.test_handoff import Echo, Polite

PROCESSES, STARTS = 4, 100


def _start_servers() -> None:
    import socket

    for _ in range(STARTS):
        with reserve() as r:
            server = Polite(r.address, Echo)  # raises if somebody got in between
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            with socket.create_connection(r.address, timeout=30) as client:
                client.sendall(b"mine?\n")
                assert client.recv(10) == b"mine?\n"
                abort_on_close(client)
            thread.join()
            server.server_close()


def _race() -> None:
    with peer() as somewhere, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(child(restless_neighbour(somewhere)))
        starters = [stack.enter_context(child(_start_servers)) for _ in range(PROCESSES)]
        for pid in starters:
            finish(pid)


def test_400_server_starts_beside_restless_neighbours(in_namespace: InNamespace) -> None:
    in_namespace(_race, ports=(40000, 40199))


def _bare_starts() -> None:
    with peer() as somewhere, child(restless_neighbour(somewhere)):
        for _ in range(100):
            with reserve(handoff="fd") as r, r.listen():
                pass
            with reserve_many(3, contiguous=True) as group:
                for r in group:
                    Polite(r.address, socketserver.BaseRequestHandler).server_close()


def test_listen_and_rows_beside_a_restless_neighbour(in_namespace: InNamespace) -> None:
    in_namespace(_bare_starts, ports=(40000, 40199))

"""Each kind of handoff, with the servers that it is for and those that it is not for."""

import asyncio
import errno
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from ephemport import PortUnavailable, ReservationReleased, holders, listeners, reserve
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import (
    ADDRESSES,
    OPTIONS,
    TCP,
    UDP,
    abort_on_close,
    become_nobody,
    bound,
    can_be_two_users,
    in_child,
    is_held,
    may_bind,
    open_descriptors,
)

HOSTS = ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "127.0.0.9"]


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in iter(self.rfile.readline, b""):
            self.wfile.write(line)


class Polite(socketserver.TCPServer):
    allow_reuse_address = True


class PoliteV6(Polite):
    address_family = socket.AF_INET6


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def echoed(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"hello\n")
        return client.makefile("rb").readline()


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_takes_over_again_and_again(host: str) -> None:
    with reserve(host=host) as r:
        for _ in range(3):
            with serving((PoliteV6 if ":" in host else Polite)(r.address, Echo)):
                assert echoed(r.address) == b"hello\n"
                assert {one.pid for one in listeners(r)} == {os.getpid()}
                assert is_held(r, os.getpid())
            assert listeners(r) == []


def test_a_server_with_reuseport_only_takes_over() -> None:
    with reserve() as r, bound(r.port, options=(socket.SO_REUSEPORT,)) as server:
        server.listen()
        assert len(listeners(r)) == 1


def test_a_bare_tcpserver_is_refused_by_a_takeover_hold() -> None:
    with reserve() as r:
        with pytest.raises(OSError) as caught:
            socketserver.TCPServer(r.address, Echo)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.0.0.9", "127.0.0.2"])
def test_a_bare_tcpserver_takes_over_a_shadow(host: str) -> None:
    with reserve(host=host, handoff="shadow") as r:
        for _ in range(3):
            server = socketserver.TCPServer(r.address, Echo)
            with serving(server), socket.create_connection(r.address, timeout=10) as client:
                client.sendall(b"hello\n")
                assert client.recv(10) == b"hello\n"
                abort_on_close(client)  # a TIME_WAIT would keep the next bare server out
        assert not may_bind(r.port, "::")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.9"])
def test_a_udp_server_takes_over_a_shadow(host: str) -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        class Server(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast(asyncio.DatagramTransport, transport)

            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                self.transport.sendto(data.upper(), address)

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                answer.set_result(data)

        with reserve(host=host, protocol="udp", handoff="shadow") as r:
            server, _ = await loop.create_datagram_endpoint(Server, local_addr=r.address)
            client, _ = await loop.create_datagram_endpoint(Client, remote_addr=r.address)
            client.sendto(b"hello")
            said = await asyncio.wait_for(answer, 10)
            client.close()
            server.close()
            await asyncio.sleep(0)
            return said

    assert asyncio.run(main()) == b"HELLO"


def test_a_shadow_of_both_lets_both_in() -> None:
    both = reserve(protocol="both", handoff="shadow")
    with both as r, bound(r.port) as tcp, bound(r.port, kind=UDP):
        tcp.listen()
        assert sorted(one.protocol for one in listeners(r)) == ["tcp", "udp"]


def test_udp_is_exclusive_under_takeover() -> None:
    with reserve(protocol="udp") as r:
        for options in OPTIONS:
            for _, address in ADDRESSES:
                assert not may_bind(r.port, address, *options, kind=UDP)


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
@pytest.mark.parametrize("host", HOSTS)
def test_listen_gives_a_listening_socket(host: str, handoff: str) -> None:
    if (host, handoff) == ("::", "shadow"):
        return  # no such thing: see test_reserve.py
    with reserve(host=host, handoff=handoff) as r:
        before = open_descriptors()
        for _ in range(2):
            with r.listen(backlog=5) as server:
                address = "127.0.0.1" if host == "localhost" else host
                assert server.getsockname()[:2] == (address, r.port)
                assert server.getblocking()
                assert not server.get_inheritable()
                client = socket.create_connection(r.address, timeout=10)  # before any accept()
                accepted, _ = server.accept()
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"
                client.close()
                accepted.close()
                with pytest.raises(PortUnavailable, match="listens on"):
                    r.listen()
            assert open_descriptors() == before
            assert len(holders(r)) == can_see_bound_inactive()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("handoff", ["takeover", "fd"])
def test_listen_on_udp_receives(host: str, handoff: str) -> None:
    with reserve(host=host, protocol="udp", handoff=handoff) as r, r.listen() as server:
        server.settimeout(10)
        assert server.type == UDP
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 100_000
        with socket.socket(server.family, UDP) as client:
            client.sendto(b"hello", (host, r.port))
        assert server.recv(10) == b"hello"
        for options in OPTIONS:
            assert not may_bind(r.port, host, *options, kind=UDP)


def test_listen_on_both_is_the_tcp_one() -> None:
    with reserve(protocol="both", handoff="fd") as r, r.listen() as server:
        assert server.type == TCP
        assert not may_bind(r.port, "127.0.0.1", socket.SO_REUSEADDR, kind=UDP)


def test_the_port_stays_exclusive_after_listen() -> None:
    with reserve(handoff="fd") as r:
        with r.listen():
            for options in OPTIONS:
                assert not may_bind(r.port, "127.0.0.9", *options)
        for options in OPTIONS:
            assert not may_bind(r.port, "127.0.0.9", *options)


def test_listen_outlives_the_release() -> None:
    with reserve(handoff="fd") as r:
        server = r.listen()
    with server:
        socket.create_connection(r.address, timeout=10).close()
    with pytest.raises(ReservationReleased, match="its reservation was released"):
        r.listen()


def test_a_receiver_stays_exclusive_after_the_release() -> None:
    for host in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        with reserve(host=host, protocol="udp") as r:
            server = r.listen()
        with server:
            for options in OPTIONS:
                assert not may_bind(r.port, host, *options, kind=UDP)


def test_another_user_cannot_bind_an_exclusive_port(in_namespace: InNamespace) -> None:
    if not can_be_two_users():
        pytest.skip("needs root to be two users")
    in_namespace(_another_user)


def _another_user() -> None:
    with reserve(handoff="fd") as exclusive, reserve() as open_to_servers:

        def stranger() -> None:
            become_nobody()
            for options in OPTIONS:
                for _, address in ADDRESSES:
                    assert not may_bind(exclusive.port, address, *options)
            # The documentation warns of this.
            assert may_bind(open_to_servers.port, "127.0.0.1", socket.SO_REUSEADDR)
            assert not may_bind(open_to_servers.port, "127.0.0.1", socket.SO_REUSEPORT)

        in_child(stranger)

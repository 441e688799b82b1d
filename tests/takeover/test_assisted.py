"""assisted(): servers of this process that set no option get the ports that it holds."""

import asyncio
import os
import socket
import socketserver
import threading
import unittest.mock
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ephemport import PortUnavailable, Reservation, assisted, diagnose, reserve, reserve_many
from ephemport._serving import inside, own_tests
from tests.conftest import InNamespace, run_python

OPTION = (socket.SOL_SOCKET, socket.SO_REUSEADDR)


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"it")


def bound(reservation: Reservation, host: str | None = None) -> socket.socket:
    """A socket without options, bound to the port."""
    kind = socket.SOCK_DGRAM if reservation.protocol == "udp" else socket.SOCK_STREAM
    host = reservation.host if host is None else host
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        sock.bind((host, reservation.port))
    except BaseException:
        sock.close()
        raise
    return sock


def is_replaced() -> bool:
    return not {"bind", "listen"}.isdisjoint(vars(socket.socket))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Nothing stays replaced, and the run of these tests does not assist them itself."""
    wanted = own_tests.choose(False)
    inside.follow_choice()
    with without_drop_ins():
        assert not is_replaced()
        yield
        assert not is_replaced()
    own_tests.choose(wanted)
    inside.follow_choice()


@contextmanager
def without_drop_ins() -> Iterator[None]:
    """Their tests run in this process as well, and to import one replaces both methods for good."""
    methods = {name: vars(socket.socket).get(name) for name in ("bind", "listen")}
    theirs = {
        name: method
        for name, method in methods.items()
        if getattr(method, "__module__", "").startswith("ephemport.dropin.")
    }
    for name in theirs:
        delattr(socket.socket, name)
    yield
    for name, method in theirs.items():
        setattr(socket.socket, name, method)


@pytest.mark.parametrize("host", ["127.0.0.1", "", "0.0.0.0", "localhost"])
def test_a_server_without_options_gets_its_port(host: str) -> None:
    with reserve() as r, assisted():
        for _ in range(2):
            with socketserver.TCPServer((host, r.port), Answer) as server:
                thread = threading.Thread(target=server.handle_request)
                thread.start()
                with socket.create_connection(r.address) as client:
                    assert client.recv(9) == b"it"
                thread.join()
        with pytest.raises(PortUnavailable):
            reserve(port=r.port)


def test_on_both_families() -> None:
    with reserve(host="::1") as r, assisted():
        for host in ("::1", "::"):
            bound(r, host).close()


def test_without_it_the_hold_refuses() -> None:
    with reserve() as r:
        with pytest.raises(OSError):
            bound(r)
        with assisted():
            bound(r).close()
        with pytest.raises(OSError):
            bound(r)


def test_a_second_server_is_refused_and_keeps_its_options() -> None:
    with reserve() as r, assisted(), bound(r) as first:
        first.listen()
        with socket.socket() as second:
            with pytest.raises(OSError):
                second.bind(r.address)
            assert second.getsockopt(*OPTION) == 0


def test_other_binds_are_not_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, reserve(), assisted():
        with socket.socket() as sock, pytest.raises(OSError):
            sock.bind(other.getsockname())
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            assert sock.getsockopt(*OPTION) == 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("")


@pytest.mark.parametrize("wrong", [((),), (), (1,), (("127.0.0.1",),), (("127.0.0.1", 99999),)])
def test_wrong_calls_fail_as_before(wrong: tuple[Any, ...]) -> None:
    def error() -> tuple[type, str]:
        with socket.socket() as sock, pytest.raises(Exception) as caught:
            sock.bind(*wrong)
        return type(caught.value), str(caught.value)

    before = error()
    with reserve(), assisted():
        assert error() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_udp(host: str) -> None:
    with reserve(protocol="udp") as r, assisted():
        with bound(r, host) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
            assert server.getsockopt(*OPTION) == 0
            client.sendto(b"it", r.address)
            server.settimeout(10)
            assert server.recv(9) == b"it"
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                stranger.setsockopt(*OPTION, 1)
                with pytest.raises(OSError):
                    socket.SocketType.bind(stranger, ("127.0.0.1", r.port))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_fd_lets_in_nobody(protocol: str) -> None:
    with reserve(protocol=protocol, handoff="fd") as r, assisted():
        with pytest.raises(OSError):
            bound(r)


def test_after_the_release_nothing_is_set() -> None:
    with assisted():
        with reserve() as r:
            pass
        with bound(r) as sock:
            assert sock.getsockopt(*OPTION) == 0


def test_blocks_may_be_nested_and_run_side_by_side() -> None:
    with reserve() as r:
        both_are_in, one_is_out = threading.Barrier(2), threading.Event()

        def other() -> None:
            with assisted():
                both_are_in.wait()
            one_is_out.set()

        thread = threading.Thread(target=other)
        thread.start()
        with assisted():
            both_are_in.wait()
            one_is_out.wait()
            with assisted():
                pass
            bound(r).close()
        thread.join()
        assert not is_replaced()


def test_it_is_put_back_after_an_exception() -> None:
    with pytest.raises(KeyError), assisted():
        raise KeyError
    assert not is_replaced()


def test_what_was_there_before_is_called_and_comes_back() -> None:
    with reserve() as r, unittest.mock.patch.object(socket.socket, "bind") as stranger:
        with assisted():
            bound(r).close()
        assert vars(socket.socket)["bind"] is stranger
    stranger.assert_called_once_with(("127.0.0.1", r.port))


def test_other_code_that_replaces_it_meanwhile_keeps_its_own() -> None:
    block = assisted()
    with reserve() as r:
        block.__enter__()
        ours = socket.socket.bind
        calls = []

        def strangers(self: socket.socket, address: Any) -> None:
            calls.append(address)
            ours(self, address)

        with unittest.mock.patch.object(socket.socket, "bind", strangers):
            block.__exit__(None, None, None)
            assert vars(socket.socket)["bind"] is strangers
            with pytest.raises(OSError):
                bound(r)
            with assisted():  # above it this time
                bound(r).close()
            assert vars(socket.socket)["bind"] is strangers
        assert calls == [r.address] * 2
        # It has put back what it had found: ours, which passes everything on.
        with pytest.raises(OSError):
            bound(r)
        del socket.socket.bind


def test_a_mock_that_ends_later_takes_it_away_only_until_the_next_block() -> None:
    with reserve() as r:
        mock = unittest.mock.patch.object(socket.socket, "bind")
        mock.start()
        with assisted():
            mock.stop()
            with assisted():
                bound(r).close()


def test_a_socket_that_is_bound_keeps_off_others() -> None:
    """As it would without a hold: a test that takes a port to see a server fail."""
    with reserve() as r, assisted(), bound(r) as taker:
        assert taker.getsockopt(*OPTION) == 0
        for option in (0, 1):
            with socket.socket() as other:
                other.setsockopt(*OPTION, option)
                with pytest.raises(OSError):
                    other.bind(r.address)
        taker.listen()
        with socket.create_connection(r.address):
            pass


def test_a_socket_that_was_bound_before_listens_in_a_forked_child() -> None:
    with reserve() as r, assisted(), bound(r) as sock:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                sock.listen()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_diagnosis_is_not_assisted() -> None:
    with reserve() as r, assisted():
        assert "one that sets neither cannot" in diagnose(r.port, "tcp").meaning


def test_asyncio() -> None:
    async def main() -> None:
        with reserve() as r, assisted():
            server = await asyncio.start_server(
                lambda reader, writer: writer.close(), *r.address, reuse_address=False
            )
            async with server:
                reader, writer = await asyncio.open_connection(*r.address)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()

    asyncio.run(main())


def test_many_ports_and_a_decorated_function() -> None:
    with reserve_many(3) as group:

        @assisted()
        def serve() -> None:
            for one in group:
                bound(one).close()

        serve()
        serve()


def test_in_a_forked_child() -> None:
    with reserve() as r, assisted():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                bound(r).close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_importing_changes_nothing() -> None:
    done = run_python(
        "import socket, ephemport; ephemport.assisted; ephemport.port_map; print(vars(socket."
        "socket).get('bind'))"
    )
    assert done.stdout == "None\n", done.stderr


def serve_and_close_first(port: int) -> None:
    """Let a server without options close a connection, which is in TIME_WAIT then."""
    with socketserver.TCPServer(("127.0.0.1", port), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client.recv(9) == b"it"
            assert client.recv(9) == b""
        thread.join()


def twice_within_a_minute(handoff: str, helped: bool) -> str:
    from contextlib import nullcontext

    from ephemport import EphemportError

    try:
        for _ in range(2):  # two runs of a program with this port
            with reserve(port=8000, handoff=handoff), assisted() if helped else nullcontext():
                serve_and_close_first(8000)
                serve_and_close_first(8000)
    except (OSError, EphemportError) as error:
        return str(error)
    return "served"


@pytest.mark.parametrize("handoff", ["takeover", "shadow"])
def test_a_port_in_time_wait(in_namespace: InNamespace, handoff: str) -> None:
    assert in_namespace(twice_within_a_minute, handoff, True) == "served"
    assert "Address already in use" in in_namespace(twice_within_a_minute, handoff, False)


def refused_after_a_server_without_options() -> list[str]:
    import sys

    from ephemport import PortUnavailable, ServerExited, wait_listening
    from tests.takeover.test_assisted import serve_and_close_first

    serve_and_close_first(8000)
    said = []
    try:
        reserve(port=8000).release()
    except PortUnavailable as error:
        said.append(str(error))
    import subprocess

    server = subprocess.Popen(
        [sys.executable, "-c", "import socketserver as s; s.TCPServer(('127.0.0.1', 8000), None)"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            wait_listening(8000, process=server)
        except ServerExited as error:
            said.append(str(error))
    return said


def test_what_is_said_of_a_port_that_no_process_has(in_namespace: InNamespace) -> None:
    said = in_namespace(refused_after_a_server_without_options)
    assert len(said) == 2
    for one in said:
        assert "in TIME_WAIT for " in one
        assert "No process has these connections any more" in one
        assert "had not set SO_REUSEADDR" in one
        for remedy in ("allow_reuse_address = True", "assist=True", "with assisted():"):
            assert remedy in one
        assert "End that process" not in one
        assert "..." not in one.replace("popen(...,", "").replace("(port=...)", "")

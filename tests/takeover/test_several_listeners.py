"""A port can have several servers: on different addresses, or where all set SO_REUSEPORT."""

import itertools
import socket
import subprocess
import sys
from contextlib import AbstractContextManager

import pytest

from ephemport import (
    PortUnavailable,
    TakeoverTimeout,
    WrongListener,
    diagnose,
    listeners,
    reserve,
    wait_listening,
)
from tests.conftest import ROOT
from tests.core.helpers import bound
from tests.takeover.started import started

# Serves its name to every client, until its input ends.
SERVER = """
import socket, sys, threading
name, address, port, *options = sys.argv[1:]
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
for option in options:
    server.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
server.bind((address, int(port)))
server.listen()
def serve():
    while True:
        client, _ = server.accept()
        client.sendall(name.encode())
        client.close()
threading.Thread(target=serve, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


def serving(
    name: str, port: int, address: str = "127.0.0.1", *options: str
) -> "AbstractContextManager[subprocess.Popen[str]]":
    return started(SERVER, name, address, str(port), *(options or ("SO_REUSEPORT",)))


def answers(address: tuple[str, int], clients: int = 64) -> set[str]:
    """Who answers `clients` clients. The kernel divides them by a hash of their ports."""
    found = set()
    for _ in range(clients):
        with socket.create_connection(address, 20) as client:
            found.add(client.recv(100).decode())
    return found


def test_two_servers_with_reuseport_share_the_clients_of_a_held_port() -> None:
    with reserve() as r, serving("ours", r.port) as ours, serving("theirs", r.port) as theirs:
        assert answers(r.address) == {"ours", "theirs"}
        assert {one.pid for one in listeners(r)} == {ours.pid, theirs.pid}
        assert {one.pid for one in diagnose(r).found if one.state == "listens"} == {
            ours.pid,
            theirs.pid,
        }
        with pytest.raises(WrongListener, match=f"pid {theirs.pid} ") as caught:
            r.wait_listening(10, ours)
    assert f"while pid {ours.pid} " in str(caught.value)
    assert "listens there too" in str(caught.value)
    assert "(SO_REUSEADDR not set, SO_REUSEPORT set)" in str(caught.value)


@pytest.mark.parametrize(
    ("ours_on", "theirs_on"),
    [
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "::"),
        ("::", "127.0.0.1"),
        ("::", "::"),
    ],
)
def test_a_stranger_whom_a_client_of_the_host_may_be_given_is_wrong(
    ours_on: str, theirs_on: str
) -> None:
    """On the wildcard beside an address: a client is given it while the other one restarts."""
    with reserve() as r, serving("ours", r.port, ours_on) as ours:
        with serving("theirs", r.port, theirs_on) as theirs:
            with pytest.raises(WrongListener, match=f"pid {theirs.pid} .* listens there too"):
                r.wait_listening(10, ours)
        assert r.wait_listening(10, ours).pid == ours.pid


def test_a_stranger_on_another_address_is_not_in_the_way_and_is_seen() -> None:
    with reserve() as r, serving("ours", r.port, "127.0.0.1", "SO_REUSEADDR") as ours:
        with serving("theirs", r.port, "::1", "SO_REUSEADDR") as theirs:
            assert r.wait_listening(10, ours).pid == ours.pid
            assert answers(r.address, 8) == {"ours"}
            assert {one.pid for one in listeners(r)} == {ours.pid, theirs.pid}
            # For a plain int every address counts, and so does every stranger.
            with pytest.raises(WrongListener):
                wait_listening(r.port, 10, process=ours)


def test_a_stranger_on_another_address_is_named_when_time_is_up() -> None:
    sleep = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with reserve() as r, serving("theirs", r.port, "::1") as theirs:
        with subprocess.Popen(sleep, stdin=subprocess.PIPE) as ours:
            with pytest.raises(TakeoverTimeout) as caught:
                r.wait_listening(0.05, ours)
            ours.kill()
    assert f"pid {theirs.pid} " in str(caught.value)
    assert "bind there" not in str(caught.value), "it is not the right process"


@pytest.mark.parametrize("handoff", ["takeover", "fd"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_beside_a_socket_of_ours_no_second_server_listens(handoff: str, address: str) -> None:
    """What can be refused: the socket of listen() and of activation lets in nobody beside it."""
    with reserve(handoff=handoff) as r, r.listen():
        for options in itertools.product((0, 1), repeat=2):
            names = itertools.compress((socket.SO_REUSEADDR, socket.SO_REUSEPORT), options)
            with pytest.raises(OSError, match="in use"), bound(r.port, address, (*names,)) as two:
                two.listen()


def test_our_own_socket_is_refused_beside_a_server() -> None:
    with reserve() as r, serving("theirs", r.port, "127.0.0.1", "SO_REUSEADDR"):
        with pytest.raises(PortUnavailable):
            r.listen()


def test_who_shows_both() -> None:
    with reserve() as r, serving("a", r.port) as first, serving("b", r.port) as second:
        said = subprocess.run(
            [sys.executable, "-m", "ephemport", "who", str(r.port)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        ).stdout
    assert said.count(" listens ") == 2, said
    assert str(first.pid) in said
    assert str(second.pid) in said

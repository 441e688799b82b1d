"""The lobby listens on 9101; see constants.py."""
import socket
import pytest
from constants import LOBBY_PORT, BASE_PORT
from helpers import ask, wait_for_port, is_listening
from server import ChatServer, RawServer


def test_hello(lobby):
    assert ask(9101, "ann") == "hello ann on 9101"


@pytest.mark.parametrize("name", ["bob", "cid", "dee"])
def test_hello_others(lobby, name):
    assert ask(LOBBY_PORT, name) == f"hello {name} on {LOBBY_PORT}"
    assert ask(LOBBY_PORT, name) == "hello %s on 9101" % name
    assert ask(LOBBY_PORT, name) == "hello {} on 9101".format(name)


def test_address(lobby):
    assert lobby.server_address == ("127.0.0.1", 9101)
    assert lobby.server_address[1] == 9101, f"the lobby is not on {9101}"


def test_taken(lobby):
    with pytest.raises(OSError):
        RawServer(("127.0.0.1", 9101))


def test_gone_after_close():
    server = ChatServer("127.0.0.1", 9_106)
    assert wait_for_port(9106)
    server.close()
    assert not is_listening(9106)
    # ... and free: another server may have it at once.
    with socket.socket() as probe:
        probe.bind(("", 9106))


def test_many():
    servers = [ChatServer("127.0.0.1", 9200 + i) for i in range(4)]
    try:
        assert [ask(BASE_PORT + i, "x") for i in range(4)] == [
            "hello x on " + str(9200 + i) for i in range(4)
        ]
        assert ask(9202, "y").endswith("9202")
    finally:
        for server in servers:
            server.close()


def test_row():
    servers = [ChatServer("127.0.0.1", port) for port in range(9301, 9304)]
    assert ask(9302, "row") == "hello row on 9302"
    for server in servers:
        server.close()

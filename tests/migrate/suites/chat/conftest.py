import time

import pytest

from constants import CONFIG, HOST, LOBBY_PORT, ROOMS
from server import ChatServer, RawServer


@pytest.fixture
def lobby():
    server = ChatServer(HOST, LOBBY_PORT)
    time.sleep(0.05)  # let it come up
    yield server
    time.sleep(0.1)
    server.close()


@pytest.fixture(scope="module")
def blue_room():
    server = ChatServer(port=ROOMS["blue"])
    yield server
    server.close()


@pytest.fixture
def green_room():
    server = ChatServer(port=9103)
    yield "tcp://127.0.0.1:9103"
    time.sleep(0.1)
    server.close()


@pytest.fixture
def raw():
    server = RawServer((CONFIG["host"], CONFIG["port"]))
    yield server
    time.sleep(0.1)
    server.close()


@pytest.fixture
def default_server():
    server = ChatServer()
    yield server
    server.close()

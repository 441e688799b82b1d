import re
from urllib.parse import urlparse

import pytest

from constants import ADMIN_URL, CONFIG, ROOMS
from helpers import ask, split_url
from server import BANNER, ChatServer

URLS = (
    "tcp://"
    "127.0.0.1:9102",
    r"tcp://127.0.0.1:9103",
)


def test_blue(blue_room):
    assert ask(9102, "ann") == "hello ann on 9102"
    assert re.fullmatch(r"hello \w{3} on 9102", ask(ROOMS["blue"], "bob"))


def test_green(green_room):
    assert green_room == URLS[1]
    assert split_url(green_room) == ("127.0.0.1", 9103)
    assert ask(9103, "ann") == "hello ann on 9103"


def test_both(blue_room, green_room):
    for url, number in zip(URLS, (9102, 9103)):
        host, port = split_url(url)
        assert ask(port, "eve") == f"hello eve on {number}"
    assert CONFIG["upstreams"] == [f"{h}:{p}" for h, p in map(split_url, URLS)]


def test_raw(raw):
    import socket

    with socket.create_connection(("127.0.0.1", 9105)) as sock:
        assert sock.makefile().readline() == BANNER
    assert CONFIG["timeout"] == 5000


def test_admin():
    server = ChatServer("127.0.0.1", 9104)
    url = ADMIN_URL.format("{y}")
    assert url == "http://127.0.0.1:9104/admin?x={y}"
    assert ask(urlparse(url).port, "root") == "hello root on 9104"
    server.close()


def test_parsing():
    assert urlparse("http://127.0.0.1:9104/admin").port == 9104
    assert split_url("tcp://example.com:9104") == ("example.com", 9104)


@pytest.mark.parametrize("port", [9401, 9402])
def test_each(port):
    server = ChatServer("127.0.0.1", port)
    assert ask(port, "p") == f"hello p on {port}"
    server.close()


def test_default(default_server):
    assert ask(9000, "d") == "hello d on 9000"


def test_quantities():
    data = bytes(9105)
    assert len(data) == 9105 and len(data) < 9106

"""What people and programs write for a port."""

import pytest

from ephemport.cli.who import parse_port
from tests.diagnosis.strangers import command


@pytest.mark.parametrize(
    ("text", "port", "protocol"),
    [
        ("8080", 8080, "both"),
        (":8080", 8080, "both"),
        ("8080/udp", 8080, "udp"),
        ("8080/TCP", 8080, "tcp"),
        (":53/udp", 53, "udp"),
        ("localhost:8080", 8080, "both"),
        ("127.0.0.1:1", 1, "both"),
        ("[::1]:8080", 8080, "both"),
        ("[::]:8080/tcp", 8080, "tcp"),
        ("*:8080", 8080, "both"),
        ("http://localhost:8080/a/b?c#d", 8080, "both"),
        ("http://[::1]:8080", 8080, "both"),
        ("http://localhost", 80, "both"),
        ("https://example.com/x", 443, "both"),
        ("ws://localhost/", 80, "both"),
        ("tcp://0.0.0.0:2375", 2375, "tcp"),
        ("udp://0.0.0.0:53", 53, "udp"),
        ("postgresql://user:secret@localhost:5433/db", 5433, "both"),
        (" 65535 ", 65535, "both"),
    ],
)
def test_a_port(text: str, port: int, protocol: str) -> None:
    assert parse_port(text) == (port, protocol)


@pytest.mark.parametrize(
    "text",
    ["", "0", "65536", "-1", "x", "80x", "8080/sctp", "8080/", "/udp", ":", "http://localhost:x/",
     "http://localhost:99999/", "nosuchscheme://localhost/", "1:2:3", "[::1]", "8080 8081", "0x50"],
)  # fmt: skip
def test_no_port(text: str) -> None:
    with pytest.raises(ValueError):
        parse_port(text)
    status, out, err = command("who", text)
    assert (status, out) == (2, "")
    assert err

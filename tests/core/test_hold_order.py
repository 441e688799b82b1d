"""In what order a hold is made: bound with every option off, opened after."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ephemport import reserve
from tests.conftest import ROOT

LET_IN = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def recorder(calls: list[str]) -> type[socket.SocketType]:
    """The real socket type, that also writes down what is done with it."""

    class Recorder(socket.SocketType):
        def bind(self, address: Any) -> None:
            if not calls:
                assert [self.getsockopt(socket.SOL_SOCKET, option) for option in LET_IN] == [0, 0]
            super().bind(address)
            calls.append("bind")

        def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
            super().setsockopt(level, option, value, *rest)
            if level == socket.SOL_SOCKET and option in LET_IN:
                calls.append("let in" if value else "shut")

    return Recorder


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("protocol", "handoff", "calls"),
    [
        ("tcp", "takeover", ["bind", "let in", "let in"]),
        ("tcp", "fd", ["bind"]),
        ("udp", "takeover", ["bind"]),
        ("udp", "fd", ["bind"]),
        ("both", "takeover", ["bind", "bind", "let in", "let in"]),
        ("both", "fd", ["bind", "bind"]),
        ("tcp", "shadow", ["bind", "let in", "let in", "bind", "shut"]),
        ("udp", "shadow", ["bind", "let in", "let in", "bind", "shut"]),
    ],
)
def test_bound_first_opened_after(
    monkeypatch: pytest.MonkeyPatch, host: str, protocol: str, handoff: str, calls: list[str]
) -> None:
    made: list[str] = []
    for home in ("hold", "acquire"):
        monkeypatch.setattr(f"ephemport._holding.{home}.new_socket", recorder(made))
    with reserve(host=host, protocol=protocol, handoff=handoff):
        assert made == calls


def test_no_other_system_call_touches_the_hold(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    trace = tmp_path / "trace"
    script = "import ephemport; ephemport.reserve(exclude=[]).release()"
    traced = "socket,bind,setsockopt,listen,connect,fcntl,ioctl,dup"
    subprocess.run(
        [strace, "-f", "-o", trace, "-e", f"trace={traced}", sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    lines = trace.read_text().splitlines()
    (first,) = (n for n, line in enumerate(lines) if re.search(r"socket\(AF_INET", line))
    (descriptor,) = re.findall(r"= (\d+)$", lines[first])
    assert "SOCK_CLOEXEC" in lines[first]
    about = [line.partition(" ")[2].strip() for line in lines[first + 1 :]]
    of_it = [line for line in about if re.match(rf"\w+\({descriptor},", line)]
    assert len(of_it) == 4, of_it
    assert "IPV6_V6ONLY, [0]" in of_it[0]
    assert "bind" in of_it[1]
    assert "sin6_port=htons(0)" in of_it[1]
    assert {"SO_REUSEADDR, [1]" in of_it[2], "SO_REUSEPORT, [1]" in of_it[3]} == {True}

"""Starting servers: placeholders, socket activation, what a child inherits."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ephemport import (
    PortUnavailable,
    Reservation,
    ReservationGroup,
    ReservationReleased,
    reserve,
    reserve_many,
)

# Says what it was given, then answers one client on each TCP descriptor.
ACTIVATED = """
import json, os, socket, sys
fds = range(3, 3 + int(os.environ["LISTEN_FDS"]))
given = {
    "pid": int(os.environ["LISTEN_PID"]) == os.getpid(),
    "names": os.environ["LISTEN_FDNAMES"],
    "open": [fd for fd in range(64) if os.path.exists(f"/proc/self/fd/{fd}")],
    "sockets": [],
}
for fd in fds:
    s = socket.socket(fileno=fd)
    listens = s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    given["sockets"].append([s.type, *s.getsockname()[:2], listens, s.getblocking()])
    s.detach()
print(json.dumps(given), flush=True)
"""


@pytest.fixture(params=["bash", "no bash"], autouse=True)
def _what_stands_between(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no bash":
        which = shutil.which
        monkeypatch.setattr(
            shutil, "which", lambda name, **how: None if name == "bash" else which(name, **how)
        )


def given_to_child(reserved: Reservation | ReservationGroup) -> dict[str, Any]:
    literally = ACTIVATED.replace("{", "{{").replace("}", "}}")
    process = reserved.popen(
        [sys.executable, "-c", literally], activate=True, stdout=subprocess.PIPE, text=True
    )
    with process:
        out, _ = process.communicate()
    assert process.returncode == 0
    given: dict[str, Any] = json.loads(out)
    return given


def test_the_child_gets_the_listening_socket_as_descriptor_3() -> None:
    with reserve() as r:
        given = given_to_child(r)
    assert given["pid"] is True
    assert given["names"] == f"tcp-{r.port}"
    assert given["open"] == [0, 1, 2, 3]
    assert given["sockets"] == [[socket.SOCK_STREAM, "127.0.0.1", r.port, 1, True]]


def test_a_group_gives_them_in_order() -> None:
    with reserve_many(3) as group:
        given = given_to_child(group)
    assert given["open"] == [0, 1, 2, 3, 4, 5]
    assert [one[2] for one in given["sockets"]] == group.ports
    assert given["names"] == ":".join(f"tcp-{port}" for port in group.ports)


@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_udp_and_both(handoff: str) -> None:
    with reserve(protocol="both", handoff=handoff) as r:
        given = given_to_child(r)
    assert [one[0] for one in given["sockets"]] == [
        socket.SOCK_STREAM,
        socket.SOCK_DGRAM,
    ]
    assert given["names"] == f"both-{r.port}-tcp:both-{r.port}-udp"


def test_with_descriptors_3_to_9_taken_already() -> None:
    busy = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    try:
        with reserve_many(2) as group:
            given = given_to_child(group)
        assert [one[2] for one in given["sockets"]] == group.ports
        assert given["open"] == [0, 1, 2, 3, 4]
    finally:
        for descriptor in busy:
            os.close(descriptor)


def test_a_client_connects_before_the_server_runs() -> None:
    source = (
        "import socket, sys; sys.stdin.read(); s = socket.socket(fileno=3);"
        "c, _ = s.accept(); c.sendall(b'served'); c.close()"
    )
    with reserve(handoff="fd") as r:
        process = r.popen([sys.executable, "-c", source], activate=True, stdin=subprocess.PIPE)
        with process, socket.create_connection(r.address) as client:
            assert process.stdin is not None
            process.stdin.close()
            assert client.recv(10) == b"served"


def test_the_parent_keeps_no_listener() -> None:
    with reserve() as r:
        before = len(os.listdir("/proc/self/fd"))
        given_to_child(r)
        assert len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(r.address)
        given_to_child(r)


def test_without_activation_the_child_gets_numbers_only() -> None:
    source = (
        "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1], 'LISTEN_FDS' in os.environ)"
    )
    with reserve() as r:
        process = r.popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
        out, _ = process.communicate()
    assert out.split("]")[0].count(",") <= 3
    assert out.rstrip().endswith("False")


def test_placeholders() -> None:
    with reserve_many(2, host="::1") as group:
        first, second = group.ports
        arguments = "{port} {host} {url} {port1} {url1} {{port}} ${port}"
        process = group.popen(["echo", arguments], stdout=subprocess.PIPE, text=True)
        out, _ = process.communicate()
    assert out.split() == [
        f"{first}",
        "::1",
        f"http://[::1]:{first}",
        f"{second}",
        f"http://[::1]:{second}",
        "{port}",
        "${port}",
    ]


@pytest.mark.parametrize("bad", ["{prot}", "a { b", "}"])
def test_bad_placeholders_start_nothing(bad: str) -> None:
    with reserve() as r, pytest.raises(ValueError, match=r"for a literal one|for literal braces"):
        r.popen(["echo", bad])


@pytest.mark.parametrize("activate", [False, True])
def test_a_command_that_is_not_there(activate: bool, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch(0o600)
    before = len(os.listdir("/proc/self/fd"))
    with reserve() as r:
        with pytest.raises(FileNotFoundError):
            r.popen(["no-such-command-here"], activate=activate)
        with pytest.raises(PermissionError):
            r.popen([str(plain)], activate=activate)
    assert len(os.listdir("/proc/self/fd")) == before


def test_shell_environment_and_cwd(tmp_path: Path) -> None:
    with reserve() as r:
        process = r.popen(
            "echo $A $LISTEN_FDS {port}; pwd",
            activate=True,
            shell=True,
            cwd=tmp_path,
            env={"A": "b", "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            text=True,
        )
        out, _ = process.communicate()
    assert out.split() == ["b", "1", str(r.port), str(tmp_path)]


def test_refusals() -> None:
    with reserve(handoff="fd") as r:
        with pytest.raises(ValueError, match="activate=True"):
            r.popen(["true"])
        with pytest.raises(ValueError, match="pass_fds"):
            r.popen(["true"], activate=True, pass_fds=(3,))
        with r.listen(), pytest.raises(PortUnavailable, match="listens on"):
            r.popen(["true"], activate=True)
    with pytest.raises(ReservationReleased):
        r.popen(["true"])


def test_assisted_in_one_line() -> None:
    source = """
import socketserver, sys
with socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), socketserver.BaseRequestHandler) as s:
    s.handle_request()
"""
    with reserve() as r:
        with r.popen([sys.executable, "-c", source, "{port}"], assist=True) as process:
            r.wait_listening(30, process)
            socket.create_connection(r.address).close()
        assert process.returncode == 0

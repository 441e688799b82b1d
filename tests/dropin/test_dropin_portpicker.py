"""portpicker's interface and semantics, held."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemport import holders
from tests.conftest import ROOT, InNamespace

IMPORT = "import ephemport.dropin.portpicker as portpicker\n"


class Portserver:
    """A portserver: it answers with one port a line, 0 if none is left, and keeps the questions."""

    def __init__(self, address: str, ports: list[bytes]) -> None:
        self.asked: list[bytes] = []
        self._ports = ports
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(100))
                connection.sendall(self._ports.pop(0) if self._ports else b"0\n")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()


@pytest.fixture
def free_ports() -> list[int]:
    """Ports that nobody had a moment ago."""
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


@pytest.fixture
def portserver(tmp_path: Path, free_ports: list[int]) -> Iterator[tuple[str, Portserver]]:
    address = str(tmp_path / "server")
    server = Portserver(address, [b"%d\n" % port for port in free_ports])
    yield address, server
    server.close()


def test_ports_are_held_until_they_are_returned(script: Callable[..., str]) -> None:
    script(
        IMPORT
        + """
from ephemport import holders
port = portpicker.pick_unused_port()
assert {one.protocol for one in holders(port)} == {"tcp", "udp"}
assert portpicker.is_port_free(port)
assert not elsewhere(port) and elsewhere(port, "SO_REUSEADDR")
assert elsewhere(port, kind="SOCK_DGRAM")
portpicker.return_port(port)
assert not holders(port)
portpicker.return_port(port)
"""
    )


def test_nobody_else_is_given_one(in_namespace: InNamespace) -> None:
    from tests.dropin.conftest import COMMON

    in_namespace(
        COMMON
        + IMPORT
        + """
ports = {portpicker.pick_unused_port() for _ in range(8)}
assert len(ports) == 8
others = everything_that_the_kernel_gives()
assert len(others) == 24 and not others & ports, (others, ports)
for _ in range(24):
    ports.add(portpicker.pick_unused_port())
assert len(ports) == 32
try:
    portpicker.pick_unused_port()
except portpicker.NoFreePortFoundError as error:
    assert "32 ports are in use" in str(error), error
else:
    raise AssertionError
""",
        ports=(40000, 40031),
    )


def test_is_port_free(script: Callable[..., str]) -> None:
    script(
        IMPORT
        + """
port = portpicker.pick_unused_port()
for address in ("", "127.0.0.1", "::", "::1"):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for listen in (False, True):
            with bare(port, address, kind, listen):
                assert not portpicker.is_port_free(port), (address, kind, listen)
            assert portpicker.is_port_free(port)
with bare(0) as other:
    assert not portpicker.is_port_free(other.getsockname()[1])
assert portpicker.bind(0, socket.SOCK_STREAM, socket.IPPROTO_TCP)
"""
    )


def test_a_portserver_is_asked_and_its_ports_held(
    script: Callable[..., str], portserver: tuple[str, Portserver], free_ports: list[int]
) -> None:
    address, server = portserver
    script(
        IMPORT
        + """
from ephemport import holders
ports = [int(one) for one in sys.argv[1:]]
assert portpicker.pick_unused_port(pid=1234) == ports[0]
assert portpicker.pick_unused_port() == ports[1]
assert holders(ports[0]) and holders(ports[1])
portpicker.return_port(ports[0])
assert portpicker.pick_unused_port() == ports[0]
assert portpicker.pick_unused_port() not in ports     # it has none left: the system's
""",
        *map(str, free_ports),
        env={"PORTSERVER_ADDRESS": address},
    )
    assert server.asked[0] == b"1234\n"
    assert len(server.asked) == 3


def test_the_address_as_an_argument(
    script: Callable[..., str], portserver: tuple[str, Portserver], free_ports: list[int]
) -> None:
    script(
        IMPORT
        + """
assert portpicker.pick_unused_port(portserver_address=sys.argv[1]) == int(sys.argv[2])
assert portpicker.get_port_from_port_server(sys.argv[1]) == int(sys.argv[3])
assert portpicker.get_port_from_port_server("") is None
""",
        portserver[0],
        *map(str, free_ports),
    )


def test_no_portserver_there(script: Callable[..., str], tmp_path: Path) -> None:
    script(
        IMPORT
        + """
import contextlib, io
said = io.StringIO()
with contextlib.redirect_stderr(said):
    assert portpicker.get_port_from_port_server("@nobody-is-here") is None
    assert portpicker.pick_unused_port(portserver_address=sys.argv[1])
assert said.getvalue().count("Socket error when connecting to portserver") == 2
""",
        str(tmp_path / "nobody"),
    )


def test_ports_from_elsewhere(script: Callable[..., str], free_ports: list[int]) -> None:
    script(
        IMPORT
        + """
from ephemport import holders
port = int(sys.argv[1])
portpicker.add_reserved_port(port)
for _ in range(3):
    assert portpicker.pick_unused_port() == port
    assert holders(port)
    portpicker.return_port(port)
assert portpicker.pick_unused_port() == port
assert portpicker.pick_unused_port() != port
""",
        str(free_ports[0]),
    )


def test_names() -> None:
    from ephemport.dropin import portpicker

    assert portpicker.PickUnusedPort is portpicker.pick_unused_port
    assert portpicker.IsPortFree is portpicker.is_port_free
    assert portpicker.Bind is portpicker.bind
    assert portpicker.GetPortFromPortServer is portpicker.get_port_from_port_server
    assert issubclass(portpicker.NoFreePortFoundError, Exception)


def test_command_line() -> None:
    command = [sys.executable, "-W", "error", "-m", "ephemport.dropin.portpicker"]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "1"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not holders(int(done.stdout))
    done = subprocess.run([*command, "1", "60"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    held = holders(int(done.stdout))
    assert {one.protocol for one in held} == {"tcp", "udp"}
    for pid in {one.pid for one in held if one.pid is not None}:
        import os
        import signal

        os.kill(pid, signal.SIGTERM)
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "PID" not in done.stderr
    assert "portserver" in done.stdout

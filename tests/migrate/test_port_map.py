"""port_map: one held number for each that was written down, the same for everyone."""

import http.server
import os
import socket
import socketserver
import subprocess
import sys
import threading
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemport import PortUnavailable, reserve, reserve_many
from ephemport._holding.mode import choose_mode
from ephemport._port_map import OWNER, PREFIX, PortMap
from tests.conftest import ROOT, WARNINGS_ARE_ERRORS, InNamespace
from tests.core.helpers import may_bind

CHILD = "from ephemport import port_map; print(port_map[9001], len(port_map._reservations))"


@pytest.fixture
def ports() -> Iterator[PortMap]:
    ports = PortMap()
    yield ports
    ports.release()


def test_same_for_everyone(ports: PortMap) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ports[9001])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {ports[9001]}
    assert (len(ports), 9001 in ports, 9002 in ports) == (1, True, False)


def test_held(ports: PortMap) -> None:
    with pytest.raises(PortUnavailable):
        reserve(port=ports[9001])


def test_distances_stay(ports: PortMap) -> None:
    other = PortMap()
    assert ports[9002] - ports[9001] == 1
    assert other[9001] != ports[9001]
    other.release()


def test_what_was_counted_and_bound_already_is_the_neighbours(ports: PortMap) -> None:
    """BASE + 1 is computed, bound, and only then looked up as 9002."""
    with socket.create_server(("127.0.0.1", ports[9001] + 1)):
        assert ports[9002] == ports[9001] + 1


def test_what_somebody_else_has_is_not(ports: PortMap) -> None:
    first = ports[9001]
    with reserve(port=first + 1, handoff="shadow"):
        assert ports[9002] != first + 1


def test_outside_of_the_ephemeral_range_as_long_as_it_can_be(in_namespace: InNamespace) -> None:
    """60 stand-ins where nobody is given a port, and then full holds in the range itself."""
    in_namespace(_lanes, ports=(20600, 65535))
    in_namespace(_nowhere_else, ports=(20400, 65535))


def _lanes() -> None:
    ports = PortMap()
    for key in range(9000, 9060):
        assert ports[key] in range(20000, 20600)
    with reserve_many(540, range=range(20000, 20600)):
        assert 20600 <= ports[9060] < 65536
        with socket.create_server(("127.0.0.1", ports[9060])) as server:
            assert server.getsockname()[1] == ports[9060]
    ports.release()


def _nowhere_else() -> None:
    ports = PortMap()
    assert 20400 <= ports[9000] < 65536
    assert not may_bind(ports[9000])
    ports.release()


def test_reserved_ports_are_passed_over(in_namespace: InNamespace) -> None:
    in_namespace(_beside_reserved, settings={"ipv4/ip_local_reserved_ports": "40064-65400"})


def _beside_reserved() -> None:
    ports = PortMap()
    for key in range(9000, 9020):
        assert 65400 < ports[key] <= 65435
    ports.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "", "0.0.0.0"])
@pytest.mark.parametrize("server", [socketserver.TCPServer, http.server.HTTPServer])
def test_lets_every_server_in(
    ports: PortMap, host: str, server: type[socketserver.TCPServer]
) -> None:
    for _ in range(2):
        server((host, ports[9001]), socketserver.BaseRequestHandler).server_close()


@pytest.mark.parametrize("key", [0, -1, 65536, 10**9])
def test_numbers_that_are_no_port(ports: PortMap, key: int) -> None:
    with pytest.raises(ValueError):
        ports[key]


@pytest.mark.parametrize("key", ["9001", None, 9001.0, True, b"9001"])
def test_keys_that_are_no_number(ports: PortMap, key: object) -> None:
    with pytest.raises(TypeError):
        ports[key]  # type: ignore[index]


def run(environment: dict[str, str]) -> list[int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "EPHEMPORT_"))}
    done = subprocess.run(
        [sys.executable, *WARNINGS_ARE_ERRORS, "-c", CHILD],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


def test_environment_hands_numbers_on(ports: PortMap) -> None:
    environment = ports.environ(9001)
    assert environment[f"{PREFIX}9001"] == str(ports[9001])
    assert run(environment) == [ports[9001], 0]
    assert PortMap().environ() == {}


def test_workers_do_not_take_their_controllers_numbers(ports: PortMap) -> None:
    environment = {**ports.environ(9001), OWNER: "master", "PYTEST_XDIST_WORKER": "gw0"}
    number, held = run(environment)
    assert (number != ports[9001], held) == (True, 1)


def test_nonsense_in_the_environment(ports: PortMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}9001", "many")
    with pytest.raises(ValueError, match="EPHEMPORT_PORT_9001='many'"):
        ports[9001]


def test_forked_child_keeps_the_numbers(ports: PortMap) -> None:
    number = ports[9001]
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ports[9001] == number else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_modes_with_numbers_of_their_own(
    ports: PortMap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EPHEMPORT_LOCK_DIR", str(tmp_path))
    before = choose_mode("fixed")
    try:
        assert 10000 <= ports[9001] < 14000
    finally:
        choose_mode(before)


def test_patched_sockets_do_not_matter(ports: PortMap) -> None:
    """Whoever patches socket.socket has the suite's own sockets in mind."""
    with unittest.mock.patch("socket.socket") as patched:
        assert ports[9001] > 0
    assert patched.call_count == 0

"""What the tests of the generated suite share: their ports, and the servers they start.

A pytest plugin (`-p benchmarks.suite_plugin`). The same tests run with ephemport and with the race
as it is usually written; only where the ports come from and how a server is waited for differs.
"""

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ephemport import wait_listening

NAMES_ITSELF = """
import ctypes, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it must not outlive its test
with socket.socket() as service:
    service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    service.bind(("127.0.0.1", int(sys.argv[1])))
    service.listen()
    while True:
        with service.accept()[0] as client:
            client.sendall(sys.argv[2].encode())
"""
_POLL = 0.05
_PATIENCE = 10.0

Ports = Callable[[int], list[int]]
_durations: dict[str, list[float]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--race", action="store_true", help="pick, close, hope")
    parser.addoption("--durations-to", metavar="FILE", help="seconds of each test, by fixture")


@pytest.fixture
def ports(request: pytest.FixtureRequest) -> Ports:
    """Called with a count: that many ports."""
    if request.config.getoption("--race"):
        return lambda count: [_free_port() for _ in range(count)]
    allocator = request.getfixturevalue("port_allocator")
    return lambda count: list(allocator.allocate_port_range(count, "servers"))


@pytest.fixture
def empty() -> Generator[None]:
    """What a fixture costs that does nothing."""
    # With a teardown, as every fixture that holds something has.
    yield  # noqa: PT022


@pytest.fixture
def serve(request: pytest.FixtureRequest, ports: Ports) -> Callable[[str, int], None]:
    """Called with a kind and a count: start that many servers, and ask each for its name."""
    race = request.config.getoption("--race")

    def start_and_ask(kind: str, count: int) -> None:
        if kind == "asyncio":
            asyncio.run(_in_process(ports(count)))
        else:
            _as_programs(ports(count), _connects if race else _listens)

    return start_and_ask


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    began = time.perf_counter()
    result = yield
    # test_NUMBER_FIXTURE, as suite.py names those that it times.
    _durations.setdefault(item.name.split("_", 2)[-1], []).append(time.perf_counter() - began)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    where = session.config.getoption("--durations-to")
    if where:
        Path(where).write_text(json.dumps(_durations), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _in_process(ports: list[int]) -> None:
    async with asyncio.TaskGroup() as group:
        for port in ports:
            group.create_task(_serve_and_ask(port))


async def _serve_and_ask(port: int) -> None:
    name = secrets.token_hex(8)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.read()).decode() == name, "somebody else's server answered"
        writer.close()


def _as_programs(ports: list[int], wait: "Callable[[int, subprocess.Popen[bytes]], None]") -> None:
    names = {port: secrets.token_hex(8) for port in ports}
    program = [sys.executable, "-I", "-S", "-c", NAMES_ITSELF]
    servers = {
        port: subprocess.Popen([*program, str(port), name], stderr=subprocess.DEVNULL)
        for port, name in names.items()
    }
    try:
        for port, server in servers.items():
            wait(port, server)
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as client:
                said = client.makefile().read()
            assert said == names[port], "somebody else's server answered"
    finally:
        for server in servers.values():
            server.kill()
            server.wait()


def _listens(port: int, server: "subprocess.Popen[bytes]") -> None:
    wait_listening(port, _PATIENCE, process=server)


def _connects(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        assert server.poll() is None, "the server did not start"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE):
                return
        except OSError:
            assert time.monotonic() < until, "the server is not up in time"
            time.sleep(_POLL)

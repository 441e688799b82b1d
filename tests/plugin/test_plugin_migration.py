"""The guide's four patterns, each against real asyncio servers, written as the guide has them."""

import pytest

from tests.plugin.conftest import Suite

SERVER = '''
import asyncio
from dataclasses import dataclass


@dataclass
class Settings:
    port: int
    connect: str | None = None


class Server:
    """Answers a line with its own number, and its peer's if it is connected to one."""

    def __init__(self, settings):
        self.settings = settings

    async def __aenter__(self):
        self.listener = await asyncio.start_server(self.answer, "127.0.0.1", self.settings.port)
        return self

    async def __aexit__(self, *_):
        self.listener.close()
        await self.listener.wait_closed()

    async def answer(self, reader, writer):
        line = await reader.readline()
        known = [str(self.settings.port)]
        if self.settings.connect:
            known.append(await ask(self.settings.connect))
        writer.write(" ".join(known).encode() + b"\\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def ask(url):
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    assert scheme == "ws"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"who?\\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line.decode().strip()
'''

PATTERNS = """
import asyncio
import pytest
from contextlib import AsyncExitStack
from ephemport.compat import TestPortManager, test_server_url
from server import Server, Settings, ask

pytestmark = pytest.mark.parametrize("repetition", range(4))

@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner

@pytest.fixture
def my_server(server_port: int, runner):
    server = Server(Settings(port=server_port))
    runner.run(server.__aenter__())
    yield server
    runner.run(server.__aexit__())

@pytest.fixture
def cluster(port_pair: list[int], runner):
    port1, port2 = port_pair
    server1 = Server(Settings(port=port1))
    server2 = Server(Settings(port=port2, connect=f"ws://127.0.0.1:{port1}"))
    runner.run(server1.__aenter__())
    runner.run(server2.__aenter__())
    yield server1, server2
    runner.run(server2.__aexit__())
    runner.run(server1.__aexit__())

def test_pattern_1_simple_server(my_server, runner, repetition):
    port = my_server.settings.port
    assert runner.run(ask(f"ws://127.0.0.1:{port}")) == str(port)

def test_pattern_2_cluster(cluster, runner, repetition):
    first, second = (server.settings.port for server in cluster)
    assert runner.run(ask(f"ws://127.0.0.1:{second}")) == f"{second} {first}"

def test_pattern_2_larger_cluster(server_cluster_ports, runner, repetition):
    async def main():
        first, *others = server_cluster_ports
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Server(Settings(first)))
            for port in others:
                settings = Settings(port, f"ws://127.0.0.1:{first}")
                await stack.enter_async_context(Server(settings))
            for port in others:
                assert await ask(f"ws://127.0.0.1:{port}") == f"{port} {first}"
    runner.run(main())

def test_pattern_3_complex(runner, repetition):
    async def main():
        with TestPortManager() as port_manager:
            ports = port_manager.get_port_range(3, "servers")
            async with AsyncExitStack() as stack:
                for port in ports:
                    await stack.enter_async_context(Server(Settings(port=port)))
                for port in ports:
                    assert await ask(f"ws://127.0.0.1:{port}") == str(port)
    runner.run(main())

def test_pattern_4_client_url(runner, repetition):
    async def main():
        with test_server_url("servers") as server_url:
            port = int(server_url.rpartition(":")[2])
            async with Server(Settings(port=port)):
                assert await ask(server_url) == str(port)
    runner.run(main())
"""


@pytest.mark.parametrize("workers", [[], ["-n", "4"]], ids=["serial", "n4"])
@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_the_guides_patterns(suite: Suite, mode: str, workers: list[str]) -> None:
    suite.write(SERVER, "server.py")
    suite.write(PATTERNS)
    suite.run("--ephemport-mode", mode, *workers).passed(20)

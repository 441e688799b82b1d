"""The fixtures of pytest-asyncio, aiohttp and anyio: whose they are, and that they hold."""

import importlib.util

import pytest

from tests.dropin.conftest import Suite

PLUGIN = ("-p", "ephemport.dropin.fixtures")

# A plugin with fixtures of all these names, such as those that may be installed have.
RIVAL = """
import pytest

def rival(scope):
    @pytest.fixture(scope=scope)
    def fixture():
        return "rival"
    return fixture

unused_tcp_port, unused_udp_port, free_tcp_port, free_udp_port = (rival("function") for _ in "1234")
unused_tcp_port_factory, unused_udp_port_factory = (rival("session") for _ in "12")
free_tcp_port_factory, free_udp_port_factory = (rival("session") for _ in "12")
"""

# Of all plugins only those that are named: others may have these fixtures too.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

PORTS = """
import pytest
from ephemport import holders

TCP = ["unused_tcp_port", "free_tcp_port"]
UDP = ["unused_udp_port", "free_udp_port"]

@pytest.mark.parametrize("name", TCP + UDP)
def test_each_is_held(request, name):
    port = request.getfixturevalue(name)
    assert isinstance(port, int)
    assert holders(port)

@pytest.mark.parametrize("name", TCP + UDP)
def test_factory(request, name):
    factory = request.getfixturevalue(f"{name}_factory")
    ports = [factory() for _ in range(20)]
    assert len(set(ports)) == 20
    assert all(holders(port) for port in ports)
"""


@pytest.mark.parametrize(
    "order",
    [[*PLUGIN], [*PLUGIN, "-p", "rival"], ["-p", "rival", *PLUGIN], [*PLUGIN, "-n", "2"]],
    ids=["alone", "before another", "behind another", "workers"],
)
def test_they_win(suite: Suite, order: list[str]) -> None:
    suite.file("rival.py", RIVAL)
    suite.file("test_it.py", PORTS)
    suite.passes(8, *order)


def test_they_win_from_a_conftest(suite: Suite) -> None:
    suite.file("rival.py", RIVAL)
    suite.file("conftest.py", 'pytest_plugins = ["ephemport.dropin.fixtures", "rival"]')
    suite.file("test_it.py", PORTS)
    suite.passes(8)


# Those that are installed, which the tests do not demand; if none is, the rival once more.
REAL = {
    "pytest_asyncio": "pytest_asyncio.plugin",
    "anyio": "anyio.pytest_plugin",
    "aiohttp": "aiohttp.pytest_plugin",
}
PLUGINS = [plugin for name, plugin in REAL.items() if importlib.util.find_spec(name)] or ["rival"]


@pytest.mark.parametrize("name", PLUGINS)
def test_they_win_over_the_real_ones(suite: Suite, name: str) -> None:
    suite.file("rival.py", RIVAL)
    suite.file("test_it.py", PORTS)
    suite.passes(8, *PLUGIN)
    plugin = ("-p", name)
    suite.file("pytest.ini", "")
    for order in ((*PLUGIN, *plugin), (*plugin, *PLUGIN)):
        suite.passes(8, "-p", "ephemport.pytest_plugin", *order, env=ALONE)


def test_a_suite_may_still_have_its_own(suite: Suite) -> None:
    suite.file("conftest.py", RIVAL)
    suite.file("test_it.py", "def test_it(unused_tcp_port): assert unused_tcp_port == 'rival'")
    suite.passes(1, *PLUGIN)


def test_nothing_changes_without_the_plugin(suite: Suite) -> None:
    suite.file("pytest.ini", "")
    suite.file("rival.py", RIVAL)
    suite.file("test_it.py", "def test_it(unused_tcp_port): assert unused_tcp_port == 'rival'")
    suite.passes(1, "-p", "rival", env=ALONE)


def test_ports_end_with_their_test(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        """
        import pytest
        from ephemport import holders

        ended, lasting = [], []

        @pytest.mark.parametrize("name", ["unused_tcp_port", "free_tcp_port"])
        @pytest.mark.parametrize("n", range(2))
        def test_it(request, name, n, unused_tcp_port_factory, aiohttp_unused_port):
            assert not any(holders(port) for port in ended)
            assert all(holders(port) for port in lasting)
            ended[:] = [request.getfixturevalue(name), aiohttp_unused_port()]
            lasting.append(unused_tcp_port_factory())
            assert all(holders(port) for port in ended)
        """,
    )
    suite.passes(4, *PLUGIN)


def test_signatures(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        """
        import socket
        from ephemport.dropin.fixtures import unused_tcp_port as imported

        def test_kinds(free_tcp_port_factory, free_udp_port_factory):
            assert free_tcp_port_factory.kind == socket.SOCK_STREAM
            assert free_udp_port_factory.kind == socket.SOCK_DGRAM

        def test_families(free_tcp_port_factory, free_udp_port_factory):
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                for factory in (free_tcp_port_factory, free_udp_port_factory):
                    with socket.socket(family, factory.kind) as server:
                        server.bind((address, factory(family)))
        """,
    )
    suite.passes(2, *PLUGIN)


def test_servers(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        """
        import asyncio, http.server, socket, socketserver
        import pytest
        from helpers import bare, elsewhere

        @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", None])
        def test_asyncio(unused_tcp_port, host):
            async def serve():
                async def answer(reader, writer):
                    writer.close()
                server = await asyncio.start_server(answer, host, unused_tcp_port)
                with pytest.raises(OSError):
                    await asyncio.start_server(answer, host, unused_tcp_port)
                server.close()
                await server.wait_closed()
            asyncio.run(serve())

        @pytest.mark.parametrize("address", ["", "127.0.0.1", "::1", "::"])
        def test_no_option(unused_tcp_port, address):
            with bare(unused_tcp_port, address, listen=False) as occupied:
                assert occupied.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
                assert not elsewhere(unused_tcp_port, "SO_REUSEADDR", address=address)
                occupied.listen()
                assert occupied.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
                with pytest.raises(OSError):
                    bare(unused_tcp_port, address)
                with socket.create_connection((address or "127.0.0.1", unused_tcp_port)):
                    answer, _ = occupied.accept()
                # Closed by the client first: its port is in TIME_WAIT then, not this one.
                assert answer.recv(1) == b""
                answer.close()
            bare(unused_tcp_port, address).close()
            assert not elsewhere(unused_tcp_port, address=address)
            assert elsewhere(unused_tcp_port, "SO_REUSEADDR", address=address)

        def test_socketserver(unused_tcp_port):
            handler = socketserver.BaseRequestHandler
            socketserver.TCPServer(("127.0.0.1", unused_tcp_port), handler).server_close()

        @pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.2", "::"])
        def test_udp(unused_udp_port, address):
            for _ in range(2):
                with bare(unused_udp_port, address, socket.SOCK_DGRAM) as receiver:
                    with pytest.raises(OSError):
                        bare(unused_udp_port, address, socket.SOCK_DGRAM)
                    receiver.settimeout(10)
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        to = (address if "." in address else "127.0.0.1", unused_udp_port)
                        sender.sendto(b"hello", to)
                    assert receiver.recv(10) == b"hello"
            assert elsewhere(unused_udp_port, kind="SOCK_DGRAM")
            assert not elsewhere(unused_udp_port, address="", kind="SOCK_DGRAM")
        """,
    )
    suite.passes(13, *PLUGIN)


SHADOW = """
from helpers import elsewhere

def test_it(unused_tcp_port):
    assert elsewhere(unused_tcp_port)
    assert elsewhere(unused_tcp_port, address="")
    assert not elsewhere(unused_tcp_port, address="::")
"""


def test_shadow_lets_other_processes_in(suite: Suite) -> None:
    suite.file("test_it.py", SHADOW)
    assert suite.run(*PLUGIN)[0] == 1
    suite.passes(1, *PLUGIN, env={"EPHEMPORT_DROPIN_HANDOFF": "shadow"})
    suite.passes(1, *PLUGIN, "-o", "ephemport_dropin_handoff=shadow")


def test_unknown_handoff(suite: Suite) -> None:
    status, output = suite.run(*PLUGIN, "-o", "ephemport_dropin_handoff=perhaps")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "ephemport: unknown handoff 'perhaps'" in output
    assert "takeover, shadow" in output

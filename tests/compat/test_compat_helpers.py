"""The documented helpers: URLs, and a manager for tests that need several ports."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ephemport import compat, reserve
from ephemport._allocator import default_allocator
from ephemport.compat import PortAllocator, TestPortManager
from tests.compat.sockets import bound_here, serve_and_ask

MakeUrl = Callable[..., str]


@pytest.mark.parametrize("make_url", [compat.make_server_url, compat.make_client_url])
def test_urls(make_url: MakeUrl) -> None:
    assert make_url(9001) == "ws://127.0.0.1:9001"
    assert make_url(9001, "localhost") == "ws://localhost:9001"
    assert make_url(9001, "::1") == "ws://[::1]:9001"
    assert make_url(9001, "[::1]") == "ws://[::1]:9001"
    assert make_url(9001, "fe80::1%eth0", "http") == "http://[fe80::1%eth0]:9001"
    assert make_url(9001, protocol="redis") == "redis://127.0.0.1:9001"
    with reserve() as reservation:
        assert make_url(reservation) == f"ws://127.0.0.1:{reservation.port}"


@pytest.mark.parametrize("make_url", [compat.make_server_url, compat.make_client_url])
@pytest.mark.parametrize("port", [0, -1, 65536, "9001", True, None])
def test_no_url_for_what_is_no_port(make_url: MakeUrl, port: int) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_url(port)


@pytest.mark.parametrize("context", [compat.test_server_url, compat.test_client_url])
@pytest.mark.parametrize(
    ("arguments", "scheme", "host"),
    [((), "ws", "127.0.0.1"), (("testing", "::1", "https"), "https", "::1")],
)
def test_a_url_for_a_block(
    context: Callable[..., AbstractContextManager[str]],
    arguments: tuple[str, ...],
    scheme: str,
    host: str,
) -> None:
    with context(*arguments) as url:
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname, parts.path) == (scheme, host, "")
        assert parts.port in bound_here()
        asyncio.run(serve_and_ask(parts.port, host=host))
    assert parts.port not in bound_here()


def test_urls_for_a_cluster() -> None:
    with compat.server_cluster_urls(3) as urls:
        ports = [urlsplit(url).port or 0 for url in urls]
        assert urls == [f"ws://127.0.0.1:{port}" for port in ports]
        assert len(set(ports)) == 3
        asyncio.run(serve_and_ask(*ports))
    assert bound_here().isdisjoint(ports)
    with compat.server_cluster_urls(2, "clients", "::1", "http") as urls:
        assert all(url.startswith("http://[::1]:") for url in urls)


def test_the_helpers_categories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EPHEMPORT_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw8")
    monkeypatch.setenv("EPHEMPORT_MODE", "fixed")
    with (
        default_allocator(),
        compat.test_server_url() as server,
        compat.test_client_url() as client,
        compat.server_cluster_urls(2) as cluster,
    ):
        assert urlsplit(server).port in range(10800, 10900)
        assert urlsplit(client).port in range(11800, 11900)
        assert {urlsplit(url).port for url in cluster} <= set(range(10800, 10900))


def test_a_managers_ports_and_urls(tmp_path: Path) -> None:
    with PortAllocator("fixed", "gw8", tmp_path) as allocator:
        with TestPortManager(allocator) as manager:
            servers, clients = range(10800, 10900), range(11800, 11900)
            assert manager.get_server_port() in servers
            assert manager.get_client_port() in clients
            assert manager.get_port("federation") in range(12800, 12900)
            assert manager.get_port() in range(13800, 13900)
            assert set(manager.get_port_range(3, "servers")) <= set(servers)
            url = urlsplit(manager.get_server_url())
            assert (url.scheme, url.hostname, url.port in servers) == ("ws", "127.0.0.1", True)
            url = urlsplit(manager.get_client_url("::1", "http"))
            assert (url.scheme, url.hostname, url.port in clients) == ("http", "::1", True)
            cluster = [urlsplit(url) for url in manager.get_server_cluster(3)]
            assert {url.port for url in cluster} <= set(servers)
            ports = allocator.allocated_ports
            assert len(ports) == 12
            assert set(ports) <= bound_here()
            asyncio.run(serve_and_ask(*ports))
        assert allocator.allocated_ports == []
        assert bound_here().isdisjoint(ports)


def test_a_manager_uses_the_processs_ports() -> None:
    with TestPortManager() as manager:
        ports = manager.get_port_range(3, "servers")
        assert set(ports) <= set(compat.get_port_allocator().allocated_ports)
        compat.release_port(ports[0])
        assert ports[0] not in bound_here()
    assert bound_here().isdisjoint(ports)


def test_a_manager_releases_only_its_own() -> None:
    with compat.port_context("servers") as outer, TestPortManager() as other:
        kept = other.get_server_port()
        manager = TestPortManager()
        mine = manager.get_server_port()
        manager.cleanup()
        assert mine not in bound_here()
        assert {outer, kept} <= bound_here()
        manager.cleanup()
        again = manager.get_port()
        assert again in bound_here(), "it goes on working"
        manager.cleanup()


def test_a_manager_does_not_release_a_port_that_is_anothers_by_now() -> None:
    with PortAllocator("ephemeral") as allocator:
        manager = TestPortManager(allocator)
        port = manager.get_port()
        allocator.release_port(port)
        assert allocator.allocate_port("testing", port) == port
        manager.cleanup()
        assert allocator.allocated_ports == [port]
        assert port in bound_here()


def test_a_manager_cleans_up_when_the_block_fails() -> None:
    ports: list[int] = []
    with pytest.raises(ZeroDivisionError), TestPortManager() as manager:
        ports += manager.get_port_range(3)
        raise ZeroDivisionError
    assert bound_here().isdisjoint(ports)


def test_a_manager_is_an_async_context_manager() -> None:
    async def use() -> list[int]:
        async with TestPortManager() as manager:
            ports = manager.get_port_range(2, "servers")
            assert set(ports) <= bound_here()
            await serve_and_ask(*ports)
        return ports

    ports = asyncio.run(use())
    assert bound_here().isdisjoint(ports)

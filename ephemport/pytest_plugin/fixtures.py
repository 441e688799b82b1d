"""The fixtures. Each holds its ports until teardown, and then looks for servers left behind."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, SupportsIndex

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ephemport._allocator import NestedAllocator, PortAllocator
    from ephemport._port_map import PortMap
    from ephemport._reservation import Reservation
    from ephemport.pytest_plugin.shared_servers import Argument, SharedServer


@pytest.fixture
def port_allocator(request: pytest.FixtureRequest) -> "Iterator[PortAllocator]":
    """A PortAllocator that releases the test's ports at teardown."""
    with _own_allocator(request) as allocator:
        yield allocator


@pytest.fixture
def test_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A held port of the category "testing"."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port("testing")


@pytest.fixture
def server_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A held port of the category "servers"."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port("servers")


@pytest.fixture
def client_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A held port of the category "clients"."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port("clients")


@pytest.fixture
def federation_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A held port of the category "federation"."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port("federation")


@pytest.fixture
def port_pair(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Two held ports of the category "testing", as a list."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port_range(2, "testing")


@pytest.fixture
def server_cluster_ports(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Four held ports of the category "servers", as a list."""
    with _own_allocator(request) as allocator:
        yield allocator.allocate_port_range(4, "servers")


@pytest.fixture
def reservation(request: pytest.FixtureRequest) -> "Iterator[Reservation]":
    """A Reservation of a port of the category "testing"."""
    with _own_allocator(request) as allocator:
        yield _factory(allocator)()


@pytest.fixture
def reserve_port(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Reservation]]":
    """A function with the arguments of `reserve()`; its Reservations are released at teardown."""
    with _own_allocator(request) as allocator:
        yield _factory(allocator)


@pytest.fixture(scope="session")
def session_reserve_port(
    request: pytest.FixtureRequest,
) -> "Iterator[Callable[..., Reservation]]":
    """`reserve_port` for fixtures of wider scope; released when the worker's session ends."""
    with _own_allocator(request) as allocator:
        yield _factory(allocator)


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest) -> "Callable[..., SharedServer]":
    """A function that starts a server once for all workers of the run, and returns where it is.

    `shared_server(["redis-server", "--port", "{port}"])`: every worker gets the same SharedServer.
    The run's end ends it. Further arguments, all by keyword: `timeout` in seconds, `assist`, `env`
    (variables that are added), `cwd`, `name` (a second server of the same command), and those of
    `reserve()`.
    """
    config = request.config

    def shared_server(
        args: "Iterable[Argument]",
        *,
        timeout: float = 30.0,
        assist: bool = False,
        env: "Mapping[str, str] | None" = None,
        cwd: "str | os.PathLike[str] | None" = None,
        name: str = "",
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        port: "SupportsIndex | Iterable[SupportsIndex] | None" = None,
        exclude: "Iterable[SupportsIndex]" = (),
        range: "Iterable[SupportsIndex] | None" = None,  # noqa: A002 - as in reserve()
        outside_ephemeral: bool = False,
        handoff: str = "takeover",
    ) -> "SharedServer":
        # Imported when a test asks for one: until then the plugin costs nearly nothing.
        from ephemport._holding.request import Request
        from ephemport.pytest_plugin import shared_servers

        asked = Request(host, protocol, port, exclude, handoff, range, outside_ephemeral)
        span = asked.span
        terms = {
            "host": host,
            "protocol": protocol,
            "port": asked.wanted[0] if asked.lone and asked.wanted else asked.wanted,
            "exclude": tuple(sorted(asked.excluded)),
            "range": tuple(span.named) if span is not None and span.named else None,
            "outside_ephemeral": bool(outside_ephemeral),
            "handoff": handoff,
        }
        wanted = shared_servers.wanted(args, name, timeout, assist, env, cwd, terms)
        return shared_servers.get(config, wanted)

    return shared_server


@pytest.fixture(scope="session")
def port_map() -> "PortMap":
    """`ephemport.port_map`: gives this worker a held port for each port written in the code."""
    import ephemport

    return ephemport.port_map


@contextmanager
def _own_allocator(request: pytest.FixtureRequest) -> "Iterator[NestedAllocator]":
    # Imported when a test asks for the first port: until then the plugin costs nearly nothing.
    from ephemport._allocator import get_port_allocator
    from ephemport.pytest_plugin.leaks import report_leaks

    with get_port_allocator().nested() as allocator:
        yield allocator
        report_leaks(allocator.own_reservations, request)


def _factory(allocator: "PortAllocator") -> "Callable[..., Reservation]":
    from ephemport._holding.request import Request

    def reserve_port(
        *,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        port: "SupportsIndex | Iterable[SupportsIndex] | None" = None,
        exclude: "Iterable[SupportsIndex]" = (),
        range: "Iterable[SupportsIndex] | None" = None,  # noqa: A002 - as in reserve()
        outside_ephemeral: bool = False,
        handoff: str = "takeover",
    ) -> "Reservation":
        request = Request(host, protocol, port, exclude, handoff, range, outside_ephemeral)
        return allocator.allocate("testing", request)

    return reserve_port

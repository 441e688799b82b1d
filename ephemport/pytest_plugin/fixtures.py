"""The fixtures. Each holds its ports until teardown, and then looks for servers left behind."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, SupportsIndex

import pytest

if TYPE_CHECKING:
    from ephemport._allocator import NestedAllocator, PortAllocator
    from ephemport._port_map import PortMap
    from ephemport._reservation import Reservation


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
        handoff: str = "takeover",
    ) -> "Reservation":
        return allocator.allocate("testing", Request(host, protocol, port, exclude, handoff))

    return reserve_port

"""The documented helpers: URLs for numbers, and a manager for tests that need several."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

from ephemport._allocator import PortAllocator, get_port_allocator
from ephemport._arguments import checked_port, shown
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.host import make_url


def make_server_url(port: SupportsIndex, host: str = "127.0.0.1", protocol: str = "ws") -> str:
    """`protocol://host:port`; IPv6 hosts in brackets."""
    return make_url(protocol, host, checked_port(port))


def make_client_url(port: SupportsIndex, host: str = "127.0.0.1", protocol: str = "ws") -> str:
    """`protocol://host:port`, for the side that connects; IPv6 hosts in brackets."""
    return make_server_url(port, host, protocol)


@contextmanager
def test_server_url(
    category: str = "servers", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[str]:
    """The URL of a held number, for the length of a `with` block."""
    with get_port_allocator().port_context(category) as port:
        yield make_server_url(port, host, protocol)


@contextmanager
def test_client_url(
    category: str = "clients", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[str]:
    """The URL of a held number, for the length of a `with` block."""
    with test_server_url(category, host, protocol) as url:
        yield url


@contextmanager
def server_cluster_urls(
    count: int, category: str = "servers", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[list[str]]:
    """The URLs of `count` held numbers, for the length of a `with` block."""
    with get_port_allocator().port_range_context(count, category) as ports:
        yield [make_server_url(port, host, protocol) for port in ports]


class TestPortManager(EndsWithBlock):
    """Numbers and URLs for a test that needs several; `cleanup()` releases them all.

    A context manager, sync and async. allocator: whose numbers; by default the process's.
    """

    def __init__(self, allocator: PortAllocator | None = None) -> None:
        if allocator is None:
            allocator = get_port_allocator()
        elif not isinstance(allocator, PortAllocator):
            raise TypeError(f"allocator must be a PortAllocator, not {shown(allocator)}")
        self._allocator = allocator.nested()

    def get_port(self, category: str = "testing") -> int:
        """A held number of `category`."""
        return self._allocator.allocate_port(category)

    def get_server_port(self) -> int:
        """A held number of the category "servers"."""
        return self.get_port("servers")

    def get_client_port(self) -> int:
        """A held number of the category "clients"."""
        return self.get_port("clients")

    def get_port_range(self, count: int, category: str = "testing") -> list[int]:
        """`count` held numbers, all or none."""
        return self._allocator.allocate_port_range(count, category)

    def get_server_url(self, host: str = "127.0.0.1", protocol: str = "ws") -> str:
        """The URL of a held number of the category "servers"."""
        return make_server_url(self.get_server_port(), host, protocol)

    def get_client_url(self, host: str = "127.0.0.1", protocol: str = "ws") -> str:
        """The URL of a held number of the category "clients"."""
        return make_client_url(self.get_client_port(), host, protocol)

    def get_server_cluster(
        self, count: int, host: str = "127.0.0.1", protocol: str = "ws"
    ) -> list[str]:
        """The URLs of `count` held numbers of the category "servers", all or none."""
        ports = self.get_port_range(count, "servers")
        return [make_server_url(port, host, protocol) for port in ports]

    def cleanup(self) -> None:
        """Release every number that this manager handed out."""
        self._allocator.release_all()

    def _end(self) -> None:
        self.cleanup()


# Their documented names look like tests to pytest, in every module that imports them.
for _helper in (TestPortManager, test_server_url, test_client_url):
    setattr(_helper, "__test__", False)  # noqa: B010 (mypy knows of no such attribute)

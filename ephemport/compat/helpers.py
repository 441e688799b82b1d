"""The documented helpers: URLs of ports, and a manager for tests that need several ports."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

from ephemport._allocator import PortAllocator, get_port_allocator
from ephemport._arguments import checked_port, shown
from ephemport._holding.block import EndsWithBlock
from ephemport._holding.host import make_url


def make_server_url(port: SupportsIndex, host: str = "127.0.0.1", protocol: str = "ws") -> str:
    """The URL of a server.

    Args:
        port: The port, an int from 1 to 65535 or a Reservation.
        host: The host in the URL, a string.
        protocol: The scheme of the URL, such as "ws" or "http".

    Returns:
        `protocol://host:port`, with an IPv6 host in brackets.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: `port` is no port.
    """
    return make_url(protocol, host, checked_port(port))


def make_client_url(port: SupportsIndex, host: str = "127.0.0.1", protocol: str = "ws") -> str:
    """The URL for a client that connects.

    Args:
        port: The port, an int from 1 to 65535 or a Reservation.
        host: The host in the URL, a string.
        protocol: The scheme of the URL, such as "ws" or "http".

    Returns:
        `protocol://host:port`, with an IPv6 host in brackets.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: `port` is no port.
    """
    return make_server_url(port, host, protocol)


@contextmanager
def test_server_url(
    category: str = "servers", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[str]:
    """Reserve a port for a server for the length of a `with` block.

    Args:
        category: "servers", "clients", "federation" or "testing".
        host: The host in the URL, a string.
        protocol: The scheme of the URL, such as "ws" or "http".

    Yields:
        The URL, `protocol://host:port`. The end of the block releases the port.

    Raises:
        PortsExhausted: No port of the category, or no file descriptor, is left.
        TypeError: `host` or `protocol` is not a string.
        ValueError: The category is unknown.
    """
    with get_port_allocator().port_context(category) as port:
        yield make_server_url(port, host, protocol)


@contextmanager
def test_client_url(
    category: str = "clients", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[str]:
    """Reserve a port for a client for the length of a `with` block.

    Args:
        category: "servers", "clients", "federation" or "testing".
        host: The host in the URL, a string.
        protocol: The scheme of the URL, such as "ws" or "http".

    Yields:
        The URL, `protocol://host:port`. The end of the block releases the port.

    Raises:
        PortsExhausted: No port of the category, or no file descriptor, is left.
        TypeError: `host` or `protocol` is not a string.
        ValueError: The category is unknown.
    """
    with test_server_url(category, host, protocol) as url:
        yield url


@contextmanager
def server_cluster_urls(
    count: int, category: str = "servers", host: str = "127.0.0.1", protocol: str = "ws"
) -> Iterator[list[str]]:
    """Reserve ports for several servers for the length of a `with` block.

    Args:
        count: How many ports. They are not always in a row.
        category: "servers", "clients", "federation" or "testing".
        host: The host in the URL, a string.
        protocol: The scheme of the URL, such as "ws" or "http".

    Yields:
        The URLs, `protocol://host:port`. The end of the block releases the ports.

    Raises:
        PortsExhausted: Not enough ports of the category, or file descriptors, are left.
        TypeError: An argument is of the wrong type.
        ValueError: The category is unknown, or `count` is negative or above 65535.
    """
    with get_port_allocator().port_range_context(count, category) as ports:
        yield [make_server_url(port, host, protocol) for port in ports]


class TestPortManager(EndsWithBlock):
    """Ports and URLs for a test that needs several. `cleanup()` releases them all.

    It is a context manager, sync and async: the end of the block releases the ports.

    Args:
        allocator: The allocator that the ports come from. None takes the process's.

    Raises:
        TypeError: `allocator` is not a PortAllocator.
    """

    def __init__(self, allocator: PortAllocator | None = None) -> None:
        if allocator is None:
            allocator = get_port_allocator()
        elif not isinstance(allocator, PortAllocator):
            raise TypeError(f"allocator must be a PortAllocator, not {shown(allocator)}")
        self._allocator = allocator.nested()

    def get_port(self, category: str = "testing") -> int:
        """Reserve a port of a category.

        Args:
            category: "servers", "clients", "federation" or "testing".

        Returns:
            The port, held until `cleanup()`.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            ValueError: The category is unknown.
        """
        return self._allocator.allocate_port(category)

    def get_server_port(self) -> int:
        """Reserve a port of the category "servers".

        Returns:
            The port, held until `cleanup()`.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
        """
        return self.get_port("servers")

    def get_client_port(self) -> int:
        """Reserve a port of the category "clients".

        Returns:
            The port, held until `cleanup()`.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
        """
        return self.get_port("clients")

    def get_port_range(self, count: int, category: str = "testing") -> list[int]:
        """Reserve several ports of a category: all of them or, after an error, none.

        Args:
            count: How many ports. They are not always in a row.
            category: "servers", "clients", "federation" or "testing".

        Returns:
            The ports, held until `cleanup()`.

        Raises:
            PortsExhausted: Not enough ports of the category, or file descriptors, are left.
            TypeError: `count` is not an int.
            ValueError: The category is unknown, or `count` is negative or above 65535.
        """
        return self._allocator.allocate_port_range(count, category)

    def get_server_url(self, host: str = "127.0.0.1", protocol: str = "ws") -> str:
        """Reserve a port of the category "servers" and make its URL.

        Args:
            host: The host in the URL, a string.
            protocol: The scheme of the URL, such as "ws" or "http".

        Returns:
            `protocol://host:port`. The port is held until `cleanup()`.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            TypeError: An argument is not a string.
        """
        return make_server_url(self.get_server_port(), host, protocol)

    def get_client_url(self, host: str = "127.0.0.1", protocol: str = "ws") -> str:
        """Reserve a port of the category "clients" and make its URL.

        Args:
            host: The host in the URL, a string.
            protocol: The scheme of the URL, such as "ws" or "http".

        Returns:
            `protocol://host:port`. The port is held until `cleanup()`.

        Raises:
            PortsExhausted: No port of the category, or no file descriptor, is left.
            TypeError: An argument is not a string.
        """
        return make_client_url(self.get_client_port(), host, protocol)

    def get_server_cluster(
        self, count: int, host: str = "127.0.0.1", protocol: str = "ws"
    ) -> list[str]:
        """Reserve several ports of the category "servers" and make their URLs.

        Args:
            count: How many ports. They are not always in a row.
            host: The host in the URLs, a string.
            protocol: The scheme of the URLs, such as "ws" or "http".

        Returns:
            `protocol://host:port` for each port. The ports are held until `cleanup()`.

        Raises:
            PortsExhausted: Not enough ports of the category, or file descriptors, are left.
            TypeError: An argument is of the wrong type.
            ValueError: `count` is negative or above 65535.
        """
        ports = self.get_port_range(count, "servers")
        return [make_server_url(port, host, protocol) for port in ports]

    def cleanup(self) -> None:
        """Release all ports that this manager reserved."""
        self._allocator.release_all()

    def _end(self) -> None:
        self.cleanup()


# By their documented names pytest would collect them as tests in every module that imports them.
for _helper in (TestPortManager, test_server_url, test_client_url):
    setattr(_helper, "__test__", False)  # noqa: B010 (mypy knows of no such attribute)

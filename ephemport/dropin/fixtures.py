"""A pytest plugin: the port fixtures of pytest-asyncio, aiohttp and anyio, held.

`-p ephemport.dropin.fixtures`, or `pytest_plugins = ["ephemport.dropin.fixtures"]` in the root
conftest.py. They override those plugins' fixtures of the same names, in any order of loading. A
suite's own conftest.py still overrides them. `_kept` says which servers get in.
"""

import socket
import types
from collections.abc import Callable, Iterator

import pytest

from ephemport._reservation import Reservation
from ephemport.dropin import _kept

__all__ = (
    "aiohttp_unused_port",
    "free_tcp_port",
    "free_tcp_port_factory",
    "free_udp_port",
    "free_udp_port_factory",
    "unused_tcp_port",
    "unused_tcp_port_factory",
    "unused_udp_port",
    "unused_udp_port_factory",
)


class FreePortFactory:
    """anyio's class, with its interface: each call returns a port that it never returned before.

    Args:
        kind: socket.SOCK_STREAM (TCP) or socket.SOCK_DGRAM (UDP).
        chosen: The hand-off for TCP servers, "takeover" or "shadow". None takes the environment's
            EPHEMPORT_DROPIN_HANDOFF, then "takeover".
    """

    def __init__(self, kind: socket.SocketKind, chosen: str | None) -> None:
        self._kind = kind
        self._chosen = chosen
        self._produced: set[int] = set()
        self._reservations: list[Reservation] = []

    @property
    def kind(self) -> socket.SocketKind:
        """socket.SOCK_STREAM or socket.SOCK_DGRAM."""
        return self._kind

    def __call__(self, family: socket.AddressFamily | None = None) -> int:
        """Reserve a port, held until the factory ends. A TCP port is held on every address.

        Args:
            family: socket.AF_INET or socket.AF_INET6: where a UDP server will bind. None: IPv4.

        Returns:
            The port.

        Raises:
            PortsExhausted: No port, or no file descriptor, is left.
        """
        return self._new("::1" if family == socket.AF_INET6 else "127.0.0.1")

    def _new(self, host: str) -> int:
        protocol = "tcp" if self._kind == socket.SOCK_STREAM else "udp"
        reservation = _kept.new_reservation(
            protocol, chosen=self._chosen, host=host, exclude=self._produced
        )
        self._produced.add(reservation.port)
        self._reservations.append(reservation)
        return reservation.port

    def _give_back(self) -> None:
        for reservation in self._reservations:
            _kept.let_go(reservation)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "ephemport_dropin_handoff",
        "which TCP servers get the ports of unused_tcp_port and the like: takeover (servers that "
        "set SO_REUSEADDR or SO_REUSEPORT, and every socket of the test's own process) or shadow "
        "(also servers that set neither, on IPv4 addresses; a weaker hold)",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    try:
        _kept.tcp_handoff(_chosen(config))
    except ValueError as error:
        raise pytest.UsageError(f"ephemport: {error}") from None
    # A second time, after all plugins: of fixtures with one name the last registered one wins.
    # Conftest files come even later.
    again = types.ModuleType(f"{__name__}.again", __doc__)
    vars(again).update({name: globals()[name] for name in __all__})
    config.pluginmanager.register(again)


@pytest.fixture
def unused_tcp_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """An unused TCP port, held until the test ends."""
    with _kept.held_port("tcp", chosen=_chosen(request.config)) as port:
        yield port


@pytest.fixture
def unused_udp_port() -> Iterator[int]:
    """An unused UDP port, held until the test ends."""
    with _kept.held_port("udp") as port:
        yield port


@pytest.fixture(scope="session")
def unused_tcp_port_factory(request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
    """A function that returns another unused TCP port at each call, held for the session."""
    yield from _factory(socket.SOCK_STREAM, request)


@pytest.fixture(scope="session")
def unused_udp_port_factory(request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
    """A function that returns another unused UDP port at each call, held for the session."""
    yield from _factory(socket.SOCK_DGRAM, request)


@pytest.fixture(scope="session")
def free_tcp_port_factory(request: pytest.FixtureRequest) -> Iterator[FreePortFactory]:
    """A function that returns another free TCP port at each call, held for the session."""
    yield from _factory(socket.SOCK_STREAM, request)


@pytest.fixture(scope="session")
def free_udp_port_factory(request: pytest.FixtureRequest) -> Iterator[FreePortFactory]:
    """A function that returns another free UDP port at each call, held for the session."""
    yield from _factory(socket.SOCK_DGRAM, request)


@pytest.fixture
def free_tcp_port(free_tcp_port_factory: Callable[[], int]) -> Iterator[int]:
    """A free TCP port, held until the test ends."""
    port = free_tcp_port_factory()
    yield port
    _kept.give_back(port, "tcp")


@pytest.fixture
def free_udp_port(free_udp_port_factory: Callable[[], int]) -> Iterator[int]:
    """A free UDP port, held until the test ends."""
    port = free_udp_port_factory()
    yield port
    _kept.give_back(port, "udp")


@pytest.fixture
def aiohttp_unused_port(request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
    """A function that returns another unused TCP port at each call, held until the test ends."""
    yield from _factory(socket.SOCK_STREAM, request)


def _factory(kind: socket.SocketKind, request: pytest.FixtureRequest) -> Iterator[FreePortFactory]:
    factory = FreePortFactory(kind, _chosen(request.config))
    yield factory
    factory._give_back()


def _chosen(config: pytest.Config) -> str | None:
    return config.getini("ephemport_dropin_handoff") or None

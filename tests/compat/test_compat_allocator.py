"""The documented allocator: it holds every port that it returns, and all ports or none."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemport import EphemportError, PortsExhausted, Reservation, compat
from ephemport.compat import CATEGORIES, PortAllocator
from tests.compat.sockets import bound_here, serve_and_ask
from tests.conftest import run_python

CanBind = Callable[[int], bool]


@pytest.fixture(params=["ephemeral", "fixed"])
def allocator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PortAllocator]:
    with PortAllocator(request.param, "gw7", tmp_path / "locks") as allocator:
        yield allocator


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_port_is_held_and_a_server_takes_it_over(
    allocator: PortAllocator, category: str, neighbour_can_bind: CanBind
) -> None:
    port = allocator.allocate_port(category)
    assert type(port) is int
    assert port in bound_here()
    assert not neighbour_can_bind(port)
    asyncio.run(serve_and_ask(port))
    assert not neighbour_can_bind(port), "the hold stays beneath the server"
    allocator.release_port(port)
    assert port not in bound_here()


def test_the_default_category_is_testing(tmp_path: Path) -> None:
    with PortAllocator("fixed", "gw7", tmp_path) as allocator:
        ports = [allocator.allocate_port(), *allocator.allocate_port_range(2)]
        with allocator.port_context() as one, allocator.port_range_context(2) as two:
            assert {*ports, one, *two} <= set(range(13700, 13800))


def test_what_is_released_is_handed_out_again(tmp_path: Path) -> None:
    with PortAllocator("fixed", "gw7", tmp_path) as allocator:
        for _ in range(300):
            allocator.release_port(allocator.allocate_port("servers"))
        assert allocator.allocated_ports == []


def test_releasing_what_is_not_allocated_does_nothing(allocator: PortAllocator) -> None:
    port = allocator.allocate_port()
    allocator.release_port(port)
    allocator.release_port(port)
    allocator.release_port(1)


def test_a_preferred_port_that_is_free_is_given() -> None:
    # In fixed mode others may be quicker: see test_compat_modes.py.
    allocator = PortAllocator("ephemeral")
    preferred = allocator.allocate_port("servers")
    other = allocator.allocate_port("servers")
    allocator.release_port(preferred)
    assert allocator.allocate_port("servers", preferred) == preferred
    assert allocator.allocate_port("servers", other) not in (preferred, other), "it is taken"
    assert preferred in bound_here()
    allocator.release_all()


def test_a_preferred_port_outside_the_workers_range(tmp_path: Path) -> None:
    with PortAllocator("fixed", "gw7", tmp_path) as allocator, PortAllocator() as elsewhere:
        for preferred in (elsewhere.allocate_port(), 10600, 11700):
            elsewhere.release_port(preferred)
            assert allocator.allocate_port("servers", preferred) in range(10700, 10800)


def test_a_preferred_port_that_a_server_has(allocator: PortAllocator) -> None:
    async def ask() -> int:
        taken = allocator.allocate_port("servers")
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", taken)
        async with server:
            allocator.release_port(taken)
            assert allocator.allocate_port("servers", taken) != taken
        return taken

    port = asyncio.run(ask())
    assert port not in allocator.allocated_ports


@pytest.mark.parametrize("preferred", [-1, 65536])
def test_an_impossible_preferred_port(allocator: PortAllocator, preferred: int) -> None:
    with pytest.raises(ValueError, match=str(preferred)):
        allocator.allocate_port("servers", preferred)
    assert allocator.allocated_ports == []


def test_a_range(allocator: PortAllocator, neighbour_can_bind: CanBind) -> None:
    ports = allocator.allocate_port_range(3, "servers")
    assert len(set(ports)) == 3
    assert allocator.allocated_ports == sorted(ports)
    assert not any(neighbour_can_bind(port) for port in ports)
    asyncio.run(serve_and_ask(*ports))
    allocator.release_port(ports[1])
    assert allocator.allocated_ports == sorted([ports[0], ports[2]])


def test_an_empty_range(allocator: PortAllocator) -> None:
    assert allocator.allocate_port_range(0, "servers") == []


@pytest.mark.parametrize(
    ("count", "error"), [(-1, ValueError), ("3", TypeError), (True, TypeError)]
)
def test_a_range_of_no_count(allocator: PortAllocator, count: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        allocator.allocate_port_range(count, "servers")
    assert allocator.allocated_ports == []


@pytest.mark.parametrize("ask", ["allocate_port", "port_context", "allocate_port_range"])
def test_an_unknown_category_names_the_known(allocator: PortAllocator, ask: str) -> None:
    with pytest.raises(ValueError, match="servers, clients, federation, testing"):
        if ask == "port_context":
            with allocator.port_context("sever"):
                pass
        elif ask == "allocate_port":
            allocator.allocate_port("sever")
        else:
            allocator.allocate_port_range(2, "sever")
    assert allocator.allocated_ports == []


def test_contexts_hold_for_their_block(allocator: PortAllocator) -> None:
    with allocator.port_context("clients") as port:
        assert port in bound_here()
        with allocator.port_range_context(3, "servers") as ports:
            assert {port, *ports} <= bound_here()
        assert bound_here().isdisjoint(ports)
        assert allocator.allocated_ports == [port]
        with allocator.port_context("clients", preferred_port=port) as other:
            assert other != port
    assert port not in bound_here()


def test_contexts_release_when_the_block_fails(allocator: PortAllocator) -> None:
    with pytest.raises(ZeroDivisionError), allocator.port_range_context(3, "servers"):
        raise ZeroDivisionError
    assert allocator.allocated_ports == []


def test_the_reservation_behind_a_port(allocator: PortAllocator) -> None:
    port = allocator.allocate_port("servers")
    reservation = allocator.reservation(port)
    assert isinstance(reservation, Reservation)
    assert reservation.port == port
    with reservation.listen() as sock:
        assert sock.getsockname() == ("127.0.0.1", port)
    reservation.release()
    assert allocator.allocated_ports == []
    with pytest.raises(KeyError, match=f"port {port} is not allocated"):
        allocator.reservation(port)


def test_a_port_that_was_never_allocated_has_no_reservation(allocator: PortAllocator) -> None:
    with pytest.raises(KeyError, match="port 9001 is not allocated"):
        allocator.reservation(9001)


def test_an_allocators_end_releases_everything(tmp_path: Path) -> None:
    with PortAllocator("fixed", "gw7", tmp_path) as allocator:
        ports = {allocator.allocate_port(name) for name in CATEGORIES}
        assert ports <= bound_here()
        assert {int(path.stem) for path in tmp_path.iterdir()} == ports
    assert bound_here().isdisjoint(ports)
    assert list(tmp_path.iterdir()) == []


def test_allocators_do_not_share(tmp_path: Path) -> None:
    with (
        PortAllocator("fixed", "gw7", tmp_path) as one,
        PortAllocator("fixed", "gw7", tmp_path) as two,
    ):
        ports = [allocator.allocate_port("servers") for allocator in (one, two, one, two)]
        assert len(set(ports)) == 4
        one.release_port(ports[1])
        assert ports[1] in two.allocated_ports
        assert two.allocate_port("servers", ports[0]) != ports[0]


def test_exhaustion_is_a_runtime_error() -> None:
    assert issubclass(PortsExhausted, EphemportError)
    assert issubclass(EphemportError, RuntimeError)


@pytest.mark.parametrize("mode", ["ephemerl", "", "fixed:here"])
def test_an_unknown_mode(mode: str) -> None:
    with pytest.raises(ValueError, match="known are ephemeral, fixed, portserver"):
        PortAllocator(mode)


def test_the_environment_chooses_the_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert PortAllocator().mode == "ephemeral"
    monkeypatch.setenv("EPHEMPORT_MODE", "fixed")
    monkeypatch.setenv("EPHEMPORT_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
    with PortAllocator() as allocator:
        assert allocator.mode == "fixed"
        assert allocator.allocate_port("servers") in range(10700, 10800)
        assert len(list(tmp_path.iterdir())) == 1
    assert PortAllocator("ephemeral").mode == "ephemeral"
    monkeypatch.setenv("EPHEMPORT_MODE", "fxed")
    with pytest.raises(ValueError, match=r"unknown mode 'fxed' \(from .*EPHEMPORT_MODE\)"):
        PortAllocator()


def test_threads_never_get_the_same_port(allocator: PortAllocator) -> None:
    barrier = threading.Barrier(4)
    found: list[list[int]] = []

    def work() -> None:
        barrier.wait()
        mine = allocator.allocate_port_range(5, "servers")
        for _ in range(5):
            extra = allocator.allocate_port("servers")
            mine.append(extra)
            allocator.release_port(mine.pop(0))
            with allocator.port_context("servers", preferred_port=mine[0]) as other:
                assert other not in mine
        found.append(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ports = [port for mine in found for port in mine]
    assert len(ports) == len(set(ports)) == 20
    assert allocator.allocated_ports == sorted(ports)
    assert set(ports) <= bound_here()


def test_there_is_one_default_allocator() -> None:
    assert compat.get_port_allocator() is compat.get_port_allocator()
    port = compat.allocate_port("servers")
    assert port in compat.get_port_allocator().allocated_ports
    compat.release_port(port)
    ports = compat.allocate_port_range(3, "servers")
    with compat.port_context("clients") as one, compat.port_range_context(2) as two:
        assert {*ports, one, *two} <= set(compat.get_port_allocator().allocated_ports)
    assert {one, *two}.isdisjoint(compat.get_port_allocator().allocated_ports)
    for port in ports:
        compat.release_port(port)
    assert {*ports, one, *two}.isdisjoint(bound_here())


def test_threads_share_one_default_allocator() -> None:
    # Slowly made, as a full disk or a cold import would: time for the others to come in.
    source = """
import threading, time
from ephemport import _allocator as allocator
from ephemport.compat import PortAllocator
class Slow(PortAllocator):
    def __init__(self):
        waiting.wait(1)
        super().__init__()
allocator.PortAllocator = Slow
waiting, found = threading.Event(), set()
threads = [threading.Thread(target=lambda: found.add(allocator.get_port_allocator()))
           for _ in range(8)]
for thread in threads: thread.start()
waiting.set()
for thread in threads: thread.join()
print(len(found))
"""
    assert run_python(source).stdout == "1\n"

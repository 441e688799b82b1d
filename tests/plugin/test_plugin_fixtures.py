"""The fixtures: what they give, how long it is held, and whose it is."""

import pytest

from tests.plugin.conftest import Suite

TYPES = """
from ephemport import Reservation
from ephemport.compat import PortAllocator, get_port_allocator, worker_range
from tests.compat.sockets import bound_here

def ports_of(category, port_allocator):
    return worker_range(category) if port_allocator.mode == "fixed" else range(1024, 65536)

def test_single_ports(test_port, server_port, client_port, federation_port, port_allocator):
    ports = {"testing": test_port, "servers": server_port, "clients": client_port,
             "federation": federation_port}
    assert len(set(ports.values())) == 4
    assert set(ports.values()) <= bound_here()
    for category, port in ports.items():
        assert type(port) is int
        assert port in ports_of(category, port_allocator)

def test_several_ports(port_pair, server_cluster_ports, port_allocator):
    assert type(port_pair) is type(server_cluster_ports) is list
    assert (len(port_pair), len(server_cluster_ports)) == (2, 4)
    assert len({*port_pair, *server_cluster_ports}) == 6
    assert {*port_pair, *server_cluster_ports} <= bound_here()
    assert set(port_pair) <= set(ports_of("testing", port_allocator))
    assert set(server_cluster_ports) <= set(ports_of("servers", port_allocator))

def test_port_allocator(port_allocator, server_port):
    assert isinstance(port_allocator, PortAllocator)
    assert port_allocator.mode == get_port_allocator().mode
    assert server_port in port_allocator.allocated_ports
    assert server_port in port_allocator.get_worker_info()["allocated_ports"]
    port = port_allocator.allocate_port("clients")
    assert port in get_port_allocator().allocated_ports

def test_reservation(reservation, port_allocator):
    assert isinstance(reservation, Reservation)
    assert reservation.port in bound_here()
    assert reservation.port in ports_of("testing", port_allocator)
    assert port_allocator.reservation(reservation.port) is reservation

def test_reserve_port(reserve_port, port_allocator):
    made = [reserve_port(), reserve_port()]
    assert len({r.port for r in made}) == 2
    assert {r.port for r in made} <= bound_here() & {*ports_of("testing", port_allocator)}
"""


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_types_and_categories(suite: Suite, mode: str) -> None:
    suite.write(TYPES)
    suite.run("--ephemport-mode", mode).passed(5)


def test_reserve_port_takes_reserves_arguments(suite: Suite) -> None:
    suite.write(
        """
        import pytest, socket
        from ephemport import PortsExhausted, PortUnavailable, reserve

        def test_arguments(reserve_port, session_reserve_port):
            for factory in (reserve_port, session_reserve_port):
                out = range(40000, 50000)
                made = factory(host="::1", protocol="both", handoff="fd", exclude=out)
                assert (made.host, made.protocol, made.handoff) == ("::1", "both", "fd")
                assert made.port not in out
                shadow = factory(protocol="udp", handoff="shadow")
                with socket.socket(type=socket.SOCK_DGRAM) as server:
                    server.bind(shadow.address)
                with reserve() as elsewhere:
                    with pytest.raises(PortUnavailable):
                        factory(port=elsewhere.port)
                    assert factory(port=[elsewhere.port, 0]).port != elsewhere.port
                with factory(range=range(20000, 30000), outside_ephemeral=True) as one:
                    assert 20000 <= one.port < 30000
                    with pytest.raises(PortsExhausted, match="1 of its 1 ports are in use"):
                        factory(range=[one.port])
                with pytest.raises(ValueError, match="unknown handoff"):
                    factory(handoff="hand-over")
                with pytest.raises(TypeError):
                    factory(count=3)
        """
    )
    suite.run().passed(1)


HELD = """
import pytest
from ephemport.compat import TestPortManager
from tests.compat.sockets import bound_here

WAYS = {
    "test_port": lambda given: [given],
    "server_port": lambda given: [given],
    "client_port": lambda given: [given],
    "federation_port": lambda given: [given],
    "port_pair": lambda given: given,
    "server_cluster_ports": lambda given: given,
    "reservation": lambda given: [given.port],
    "reserve_port": lambda given: [given().port, given(protocol="udp").port],
    "port_allocator": lambda given: [given.allocate_port(), *given.allocate_port_range(2)],
}

@pytest.fixture
def finalised_after():
    ports = []
    yield ports
    assert ports and bound_here().isdisjoint(ports)

@pytest.fixture(params=WAYS)
def finalised_before(request, finalised_after):
    finalised_after += WAYS[request.param](request.getfixturevalue(request.param))
    yield
    assert set(finalised_after) <= bound_here()

@pytest.mark.parametrize("repetition", [1, 2])
def test_it(finalised_before, repetition):
    pass

def test_a_failing_one(finalised_before):
    raise ZeroDivisionError

def test_nothing_is_left(request, port_allocator):
    assert port_allocator.allocated_ports == []
    assert bound_here() == set()
"""


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_ports_are_held_until_teardown(suite: Suite, mode: str) -> None:
    suite.write(HELD)
    run = suite.run("--ephemport-mode", mode)
    assert run.outcomes == {"passed": 19, "failed": 9}, run.output
    assert run.output.count("ZeroDivisionError\n") >= 9
    if mode == "fixed":
        assert list(suite.lock_dir.iterdir()) == []


WIDER = """
import pytest
from ephemport.compat import get_port_allocator
from tests.compat.sockets import bound_here

seen = []

@pytest.fixture(scope="session")
def for_session(session_reserve_port):
    return session_reserve_port(protocol="both")

@pytest.fixture(scope="module")
def for_module(session_reserve_port):
    with session_reserve_port() as reservation:
        yield reservation

@pytest.mark.parametrize("repetition", [1, 2])
def test_first(for_session, for_module, port_allocator, server_port, reserve_port, repetition):
    assert {for_session.port, for_module.port} <= bound_here()
    own = [server_port, port_allocator.allocate_port("servers"), reserve_port().port]
    assert {*own, for_session.port, for_module.port} == set(port_allocator.allocated_ports)
    seen.append((for_session, for_module, own))

def test_second(port_allocator):
    (session, module, own), (session_again, module_again, other) = seen
    assert (session, module) == (session_again, module_again)
    assert not session.released and not module.released
    assert {session.port, module.port} <= bound_here()
    assert bound_here().isdisjoint([*own, *other])
    assert port_allocator.allocated_ports == sorted([session.port, module.port])
"""

NEXT_MODULE = """
from test_a import seen
from tests.compat.sockets import bound_here

def test_the_module_is_over_the_session_is_not(port_allocator):
    session, module, _ = seen[0]
    assert bound_here() == {session.port}
    assert module.released
    assert port_allocator.allocated_ports == [session.port]
"""

AT_THE_END = """
import atexit
from tests.compat.sockets import bound_here

atexit.register(lambda: print("\\nstill bound:", sorted(bound_here())))
"""


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_what_a_wider_fixture_holds_outlives_the_tests(suite: Suite, mode: str) -> None:
    suite.write(WIDER, "test_a.py")
    suite.write(NEXT_MODULE, "test_b.py")
    suite.write(AT_THE_END, "conftest.py")
    run = suite.run("--ephemport-mode", mode, "-s")
    assert "4 passed" in run.output, run.output
    assert "\nstill bound: []\n" in run.output


def test_what_the_default_allocator_still_has_ends_with_the_session(suite: Suite) -> None:
    suite.write(
        """
        from ephemport.compat import TestPortManager, allocate_port
        def test_forgetful():
            allocate_port()
            TestPortManager().get_port_range(3)
        """
    )
    suite.write(AT_THE_END, "conftest.py")
    run = suite.run("-s", "--ephemport-mode=fixed")
    assert (run.status, "still bound: []" in run.output) == (0, True), run.output
    assert "unreleased" not in run.output
    assert list(suite.lock_dir.iterdir()) == []


def test_what_a_test_gave_back_itself_is_not_released_twice(suite: Suite) -> None:
    suite.write(
        """
        import pytest
        from ephemport.compat import get_port_allocator, release_port
        from tests.compat.sockets import bound_here

        @pytest.fixture
        def outer():
            yield
            assert port in bound_here()
            release_port(port)

        def test_it(outer, port_allocator, server_port):
            global port
            port = port_allocator.allocate_port()
            port_allocator.release_port(port)
            release_port(server_port)
            # Now it is another user's, who releases it.
            assert get_port_allocator().allocate_port("testing", port) == port
        """
    )
    suite.run(alone=True).passed(1)


def test_a_users_own_fixtures_win(suite: Suite) -> None:
    suite.write(
        """
        import pytest

        @pytest.fixture
        def server_port(): return 1

        @pytest.fixture
        def reserve_port(): return "mine"

        @pytest.fixture
        def client_port(client_port): return -client_port
        """,
        "conftest.py",
    )
    suite.write(
        """
        import pytest

        @pytest.fixture
        def test_port(): return 2

        def test_it(server_port, reserve_port, test_port, client_port, port_pair):
            assert (server_port, reserve_port, test_port) == (1, "mine", 2)
            assert client_port < 0
            assert len(port_pair) == 2
        """
    )
    suite.run().passed(1)


def test_helpers_are_not_collected(suite: Suite) -> None:
    suite.write(
        """
        from ephemport.compat import *
        from ephemport.compat import TestPortManager, test_client_url, test_server_url

        class TestMine:
            def test_it(self): pass
        """
    )
    listed = suite.run("--collect-only", "-q")
    assert listed.status == 0
    assert listed.output.splitlines()[:2] == ["test_it.py::TestMine::test_it", ""]
    suite.run().passed(1)


def test_fixtures_are_listed_with_what_they_are(suite: Suite) -> None:
    text = suite.run("--fixtures").output
    for name in (
        *("test_port", "server_port", "client_port", "federation_port", "port_pair"),
        *("server_cluster_ports", "port_allocator", "reservation", "reserve_port"),
    ):
        assert f"\n{name} -- " in text
    assert "\nsession_reserve_port [session scope] -- " in text
    assert "no docstring available" not in text.split("ephemport.pytest_plugin")[1]


def test_without_the_plugin_nothing_of_it_is_there(suite: Suite) -> None:
    suite.write("def test_it(server_port): pass")
    run = suite.run("-p", "no:ephemport")
    assert "fixture 'server_port' not found" in run.output
    assert "ephemport: mode" not in run.output
    suite.write("def test_it(): pass")
    suite.run("-p", "no:ephemport", env={"EPHEMPORT_MODE": "nonsense"}).passed(1)

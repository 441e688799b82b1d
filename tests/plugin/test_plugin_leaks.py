"""A server that outlives its test is named, and the policy decides what follows."""

import re

import pytest

from tests.plugin.conftest import Suite

# A server in a process of its own, which reports when it listens and ends on request.
LEAKY = """
import pytest, subprocess, sys

SERVER = (
    "import socket, sys; server = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
    "print(flush=True); sys.stdin.read()"
)

@pytest.fixture(scope="module")
def start():
    started = []
    def start(port):
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(port), "a-marker"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        print("started", process.pid)
        return process
    yield start
    for process in started:
        process.communicate()

def test_leaks(server_port, start):
    print("on", server_port)
    start(server_port)

def test_stops_its_server(server_port, start):
    start(server_port).communicate()

def test_is_silent(test_port, port_allocator):
    port_allocator.allocate_port()
"""


def leak(output: str) -> str:
    """Return the message about the one leak, checked for what it must name."""
    pid = re.findall(r"started (\d+)", output)[0]
    port = re.findall(r"^on (\d+)$", output, re.M)[0]
    said = re.findall(r"a server outlives .* releases the port now\)", output)
    assert len(set(said)) == 1, output
    assert "test_it.py::test_leaks" in said[0]
    assert f"pid {pid} (" in said[0]
    assert "a-marker" in said[0]
    assert f"listens on 127.0.0.1:{port} (tcp)" in said[0]
    assert "server_port" in said[0]
    return str(said[0])


@pytest.mark.parametrize(
    ("settings", "workers"), [([], []), (["ephemport_leaks = warn"], []), ([], ["-n", "1"])]
)
def test_a_leak_is_a_warning(suite: Suite, settings: list[str], workers: list[str]) -> None:
    suite.ini(*settings, filters=("error", "default::ephemport.LeakedServerWarning"))
    suite.write(LEAKY)
    run = suite.run("-rP", *workers)
    assert (run.status, run.outcomes) == (0, {"passed": 3, "warning": 1}), run.output
    leak(run.output)
    assert "LeakedServerWarning: a server outlives" in run.output


def test_the_warning_points_at_the_test(suite: Suite) -> None:
    suite.ini(filters=("error", "default::ephemport.LeakedServerWarning:test_it"))
    suite.write(LEAKY)
    run = suite.run()
    assert (run.status, run.outcomes) == (0, {"passed": 3, "warning": 1}), run.output
    line = LEAKY.splitlines().index("def test_leaks(server_port, start):") + 1
    assert re.search(rf"test_it\.py:{line}: LeakedServerWarning: a server outlives", run.output)


@pytest.mark.parametrize(
    ("policy", "filters"), [("warn", ("error",)), ("error", ())], ids=["warn", "error"]
)
def test_a_leak_is_an_error(suite: Suite, policy: str, filters: tuple[str, ...]) -> None:
    # A suite whose warnings are errors needs no policy for it.
    suite.ini(f"ephemport_leaks = {policy}", filters=filters)
    suite.write(LEAKY)
    run = suite.run("-rA")
    assert (run.status, run.outcomes) == (1, {"passed": 3, "error": 1}), run.output
    assert "ERROR at teardown of test_leaks" in run.output
    leak(run.output)


def test_a_leak_may_be_ignored(suite: Suite) -> None:
    suite.ini("ephemport_leaks = ignore")
    suite.write(LEAKY)
    suite.run().passed(3)


@pytest.mark.parametrize("setting", ["eror", "", "WARN"])
def test_an_unknown_policy_is_refused(suite: Suite, setting: str) -> None:
    suite.ini(f"ephemport_leaks = {setting}")
    suite.write("def test_it(): pass")
    run = suite.run()
    assert (run.status, run.output.strip()) == (
        4,
        f"ERROR: ephemport: unknown ephemport_leaks {setting!r}; known are warn, error, ignore",
    )


def test_the_numbers_are_released_after_a_leak(suite: Suite) -> None:
    suite.ini("ephemport_leaks = error")
    suite.write(
        LEAKY
        + """
def test_next(port_allocator):
    assert port_allocator.allocated_ports == []
"""
    )
    assert suite.run().outcomes == {"passed": 4, "error": 1}


def test_each_fixture_looks(suite: Suite) -> None:
    suite.ini("ephemport_leaks = error")
    suite.write(
        """
        import pytest, socket

        @pytest.fixture(scope="session")
        def shared(session_reserve_port):
            return session_reserve_port()

        kept = []

        @pytest.fixture(scope="session", autouse=True)
        def close():
            yield
            for sock in kept:
                sock.close()

        def leak(port, kind=socket.SOCK_STREAM):
            sock = socket.socket(type=kind)
            kept.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                sock.listen()

        def test_session(shared): leak(shared.port)
        def test_reservation(reservation): leak(reservation.port)
        def test_reserve_port(reserve_port): leak(reserve_port().port)
        def test_udp(reserve_port):
            leak(reserve_port(protocol="udp", handoff="shadow").port, socket.SOCK_DGRAM)
        def test_port_allocator(port_allocator): leak(port_allocator.allocate_port())
        def test_port_pair(port_pair): leak(port_pair[1])
        def test_bound_only(server_port):
            sock = socket.socket()
            kept.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", server_port))
        """
    )
    run = suite.run()
    assert run.outcomes == {"passed": 7, "error": 6}, run.output
    said = set(re.findall(r"a server outlives (.*): this process", run.output))
    names = ("reservation", "reserve_port", "udp", "port_allocator", "port_pair")
    assert said == {"the session", *(f"test_it.py::test_{name}" for name in names)}


def test_all_servers_of_a_port_are_named(suite: Suite) -> None:
    suite.ini(filters=("default",))
    suite.write("""
        import socket

        KEPT = []

        def test_it(server_port):
            for _ in range(2):
                one = socket.socket()
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind(("127.0.0.1", server_port))
                one.listen()
                KEPT.append(one)
    """)
    warned = re.findall(r"outlives test_it.py::test_it: (.*)", suite.run().output)
    assert len(warned) == 1
    assert warned[0].count("listens on 127.0.0.1:") == 2

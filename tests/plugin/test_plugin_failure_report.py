"""The section in the report of a test that failed because its port is in use."""

import shutil

import pytest

from tests.plugin.conftest import Suite

SECTION = "ephemport: who has the port"
TAKEN = """
import asyncio, contextlib, socket, socketserver, subprocess, sys
import pytest
from ephemport import reserve

@pytest.fixture
def taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        print("taken", sock.getsockname()[1])
        yield sock.getsockname()[1]
"""


def report_of(suite: Suite, test: str) -> str:
    """The section, from a run in which the one test fails."""
    suite.write(TAKEN + test)
    run = suite.run("-rN")
    assert run.outcomes["failed"] == 1, run.output
    return run.output.partition(SECTION)[2] if SECTION in run.output else ""


@pytest.mark.parametrize(
    "body",
    [
        "with socket.socket() as sock: sock.bind(('127.0.0.1', taken))",
        "socketserver.TCPServer(('127.0.0.1', taken), None)",
        "asyncio.run(asyncio.start_server(print, '127.0.0.1', taken))",
        """
    try:
        socketserver.TCPServer(('127.0.0.1', taken), None)
    except OSError as error:
        raise RuntimeError('the server did not start') from error""",
        """
    command = [sys.executable, '-m', 'http.server', '-b', '127.0.0.1', str(taken)]
    assert subprocess.run(command).returncode == 0""",
    ],
    ids=["socket", "socketserver", "asyncio", "cause", "captured"],
)
def test_it_names_who_has_the_port(suite: Suite, body: str) -> None:
    section = report_of(suite, f"def test_it(taken):\n    {body}\n")
    assert "listens on 127.0.0.1:" in section
    assert "this process (pid " in section
    for rung in ("migrate", "reserve"):
        assert f"  {rung} " in section
    # This process has it itself: a network for each process changes nothing.
    assert "isolate" not in section


STRANGER = """
@pytest.fixture
def strange():
    source = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
    source += " print(s.getsockname()[1], flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())
        process.stdin.close()
"""


def test_against_another_process_all_rungs_help(suite: Suite) -> None:
    body = "with socket.socket() as sock: sock.bind(('127.0.0.1', strange))"
    section = report_of(suite, f"{STRANGER}\ndef test_it(strange):\n    {body}\n")
    assert "listens on 127.0.0.1:" in section
    for rung in ("isolate", "migrate", "reserve"):
        assert f"  {rung} " in section


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_isolation_is_not_advised_where_it_is_in_force(suite: Suite, workers: list[str]) -> None:
    body = "with socket.socket() as sock: sock.bind(('127.0.0.1', strange))"
    suite.write(f"{TAKEN}{STRANGER}\ndef test_it(strange):\n    {body}\n")
    run = suite.run("-rN", "--ephemport-isolate", *workers)
    section = run.output.partition(SECTION)[2]
    assert "listens on 127.0.0.1:" in section, run.output
    assert "  isolate " not in section


def test_what_node_says_is_understood(suite: Suite) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    source = "require('http').createServer().listen(+process.argv[1], '127.0.0.1')"
    body = f'subprocess.run(["node", "-e", "{source}", str(taken)], check=True)'
    assert "listens on 127.0.0.1:" in report_of(suite, f"def test_it(taken):\n    {body}\n")


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (
            "with socket.socket() as sock: sock.bind(('127.0.0.1', server_port))",
            "that tried to bind are unknown: it is closed now",
        ),
        (
            "sock = socket.socket(); sock.bind(('127.0.0.1', server_port))",
            "has SO_REUSEADDR not set and SO_REUSEPORT not set",
        ),
    ],
    ids=["closed", "open"],
)
def test_a_server_without_options_reads_what_helps(suite: Suite, body: str, reported: str) -> None:
    suite.ini("ephemport_assist = false")
    section = report_of(suite, f"def test_it(server_port):\n    {body}\n")
    assert reported in section
    assert "SO_REUSEADDR, 1)" in section
    assert "assist=True" in section
    assert "with assisted():" in section
    for rung in ("isolate", "migrate", "ephemport.reserve()"):
        assert rung not in section


def test_a_port_that_was_reserved_and_is_released_now(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    sock = socket.socket()
    with reserve() as r: sock.bind(r.address)
""",
    )
    assert "this test had reserved port " in section
    assert "(protocol 'tcp', handoff 'takeover')" in section
    assert "has released it: nobody has it now" in section
    assert "has SO_REUSEADDR not set and SO_REUSEPORT not set" in section
    assert "the hold lets in a TCP server that sets" in section
    assert "isolate" not in section
    assert "taken for a moment" not in section


def test_what_a_closed_socket_had_set_is_unknown(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    with reserve() as r, socket.socket() as sock: sock.bind(r.address)
""",
    )
    assert "this test had reserved port " in section
    assert "that tried to bind are unknown: it is closed now" in section


def test_the_report_on_udp_speaks_of_udp(suite: Suite) -> None:
    suite.ini("ephemport_assist = false")
    section = report_of(
        suite,
        """
def test_it(reserve_port):
    r = reserve_port(protocol="udp")
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(r.address)
""",
    )
    assert "has SO_REUSEADDR not set and SO_REUSEPORT set" in section
    assert "the hold lets in no UDP server, whatever it sets" in section
    assert "neither" not in section


def test_a_second_server_on_a_reserved_port(suite: Suite) -> None:
    suite.ini(filters=())  # the first server outlives the test, and a warning says so
    section = report_of(
        suite,
        """
def test_it(reservation):
    first = reservation.listen()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(reservation.address)
""",
    )
    assert "listens on 127.0.0.1:" in section
    assert "a server already has it" in section
    assert "assist" not in section


def test_output_that_names_no_port_is_not_put_down_to_the_reservation(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    source = "import socketserver as s; s.TCPServer(('127.0.0.1', int(s.sys.argv[1])), None)"
    with reserve() as r:
        command = [sys.executable, "-c", source, str(r.port)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    print(done.stderr.splitlines()[-1])
    assert done.returncode == 0
""",
    )
    assert "it is unknown which address was in use" in section
    assert ", which this test has reserved (tcp, handoff 'takeover'): the hold lets in" in section
    assert "isolate" not in section


def test_strange_objects_in_the_frames(suite: Suite) -> None:
    section = report_of(
        suite,
        """
class Proxy:
    @property
    def __class__(self): raise RuntimeError("no context")
    def __getattr__(self, name): raise RuntimeError("no context")

def test_it(taken):
    port, proxy, self = Proxy(), Proxy(), Proxy()
    with socket.socket() as sock: sock.bind(('127.0.0.1', taken + 0))
""",
    )
    assert "listens on 127.0.0.1:" in section
    section = report_of(
        suite,
        """
class Proxy:
    @property
    def __class__(self): raise RuntimeError("no context")

def test_it(taken):
    proxy = Proxy()
    raise OSError(98, "Address already in use")
""",
    )
    assert "a number in the test; the error may be about another port" in section


def test_a_reservation_of_the_other_protocol_is_not_it(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    r = reserve(protocol="tcp")
    r.release()
    other = socket.socket(type=socket.SOCK_DGRAM)
    other.bind(r.address)
    sock = socket.socket(type=socket.SOCK_DGRAM)
    with other:
        sock.bind(r.address)
""",
    )
    assert "nobody has it now; it is unknown who had it when the error was raised" in section
    assert "the hold" not in section


def test_a_port_that_nobody_has_any_more(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
""",
    )
    assert "it is unknown which address was in use" in section
    section = report_of(
        suite,
        """
def test_it():
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        where = first.getsockname()
        second.bind(where)
""",
    )
    assert "nobody has it now; it is unknown who had it when the error was raised" in section


def test_any_port_where_none_is_left(suite: Suite) -> None:
    suite.write(
        TAKEN
        + """
def test_it():
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file: file.write("40000 40001")
    one, two = socket.socket(), socket.socket()
    one.bind(("", 40000)), two.bind(("", 40001))
    socket.socket().bind(("127.0.0.1", 0))
"""
    )
    run = suite.run("-rN", alone=True)
    section = run.output.partition(SECTION)[2]
    assert "2 of the 2 ports of the ephemeral port range 40000-40001 are in use (tcp)" in section


def test_errors_of_ours_are_reported_as_they_were(suite: Suite) -> None:
    section = report_of(
        suite, "def test_it():\n    with reserve() as r:\n        r.wait_listening(0.01)\n"
    )
    assert "when the error was raised: this process (pid " in section
    assert "ephemport's open hold" in section
    assert "What prevents it" not in section
    section = report_of(suite, f"{STRANGER}\ndef test_it(strange): reserve(port=strange)\n")
    assert "when the error was raised: pid " in section
    assert "  isolate " in section
    assert "  reserve " not in section


def test_what_the_captured_output_says_is_a_condition(suite: Suite) -> None:
    section = report_of(
        suite,
        """
def test_it():
    with reserve() as r:
        print("OSError: Address already in use")
        r.wait_listening(0.01)
""",
    )
    assert "The captured output says that an address is in use. If that is this port: " in section


@pytest.mark.parametrize(
    "body",
    [
        "assert 9001 == 9002",
        "raise OSError(13, 'Permission denied')",
        "raise RuntimeError('listening on 127.0.0.1:9001')",
    ],
)
def test_other_failures_do_not(suite: Suite, body: str) -> None:
    assert report_of(suite, f"def test_it():\n    {body}\n") == ""


def test_all_servers_of_a_port_are_named(suite: Suite) -> None:
    section = report_of(
        suite,
        """
@pytest.fixture
def servers(reservation):
    families = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
    with contextlib.ExitStack() as kept:
        for address, family in families.items():
            server = socket.create_server((address, reservation.port), family=family)
            kept.enter_context(server)
        yield

def test_it(reservation, servers):
    socket.create_server(reservation.address)
""",
    )
    assert "listens on 127.0.0.1:" in section
    assert "listens on [::1]:" in section
    assert "and servers already have it. Another server meets one of them, not" in section

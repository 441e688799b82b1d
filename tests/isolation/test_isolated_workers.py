"""`pytest -n 4 --ephemport-isolate`: each worker can use the same ports."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from ephemport._isolating.networks import network_of
from tests.isolation.conftest import Suite

# Each worker starts the server, and none goes on before all have tried: without isolation one has
# the port and all others fail. Its client connects to the port that is written down.
HARD_CODED = """
import os, pathlib, socket, subprocess, sys, time, urllib.request
import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

def everybody_tried():
    pathlib.Path("tried").mkdir(exist_ok=True)
    pathlib.Path("tried", str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(os.listdir("tried")) < WORKERS:
        assert time.monotonic() < deadline
        time.sleep(0.005)

@pytest.fixture(scope="session")
def server():
    source = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 9001), " \\
        "h.SimpleHTTPRequestHandler); print('up', flush=True); s.serve_forever()"
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    try:
        up = process.stdout.readline()
        everybody_tried()
        assert up, "the server did not start"
        yield "http://127.0.0.1:9001"
    finally:
        process.kill()
        process.communicate()

@pytest.fixture(scope="session")
def on_ipv6():
    with socket.create_server(("::1", 9002), family=socket.AF_INET6) as listening:
        yield listening

@pytest.mark.parametrize("n", range(8))
def test_client(server, on_ipv6, n, tmp_path):
    with urllib.request.urlopen(f"{server}/test_it.py") as answer:
        assert answer.read() == pathlib.Path("test_it.py").read_bytes()
    with socket.create_connection(("::1", 9002)):
        on_ipv6.accept()[0].close()
    assert tmp_path.stat().st_uid == os.getuid()
    with open("networks", "a") as file:
        file.write(os.readlink("/proc/self/ns/net") + "\\n")
"""

WHERE = """
import os, signal
import pytest

def say(name):
    with open(name, "a") as file:
        file.write(f"{os.environ['PYTEST_XDIST_WORKER']} {os.readlink('/proc/self/ns/net')}\\n")

class TestIsolated:
    @pytest.mark.parametrize("n", range(5))
    def test_isolated(self, n):
        say("isolated")

class TestMixed:
    @pytest.mark.ephemport_shared
    @pytest.mark.parametrize("n", range(3))
    def test_shared(self, n):
        say("shared")

    @pytest.mark.parametrize("n", range(2))
    def test_isolated(self, n):
        say("isolated")
"""


def networks(suite: Suite, name: str) -> set[str]:
    return {line.split()[-1] for line in suite.said(name)}


def test_hard_coded_ports(anyones_suite: Suite) -> None:
    suite = anyones_suite
    suite.file("test_it.py", HARD_CODED)
    suite.run(alone=True).passed(8)
    clash = suite.run("-n", "4", alone=True)
    assert clash.status == 1
    assert {"passed", "error"} <= clash.outcomes.keys(), clash.output

    (suite.folder / "networks").unlink()
    run = suite.run("-n", "4", "--ephemport-isolate", "test_it.py")
    run.passed(8)
    used = networks(suite, "networks")
    assert len(used) == 4
    assert os.readlink("/proc/self/ns/net") not in used
    assert "ephemport: isolated, each worker" in run.output
    assert "no other host" in run.output
    assert "ephemport_shared" in run.output


def test_two_runs_side_by_side(suite: Suite) -> None:
    suite.file("test_it.py", HARD_CODED.replace('"tried"', 'os.environ["TRIED"]'))
    runs = [
        suite.start("-n", "2", "--ephemport-isolate", env={"TRIED": f"tried{n}"}) for n in range(2)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output
    assert len(networks(suite, "networks")) == 4


@pytest.mark.parametrize("dist", ["load", "loadfile", "loadscope", "loadgroup", "worksteal"])
def test_shared_tests_run_on_the_host_network(suite: Suite, dist: str) -> None:
    suite.file("test_it.py", WHERE)
    suite.run("-n", "2", "--dist", dist, "--ephemport-isolate").passed(10)
    host = os.readlink("/proc/self/ns/net")
    assert networks(suite, "shared") == {host}
    assert host not in networks(suite, "isolated")
    assert {line.split()[0] for line in suite.said("shared")} == {"gw2"}
    assert len(suite.said("isolated")) == 7


def test_shared_tests_of_an_ordinary_user(anyones_suite: Suite) -> None:
    suite = anyones_suite
    suite.file("test_it.py", WHERE)
    suite.run("-n", "2", "--ephemport-isolate").passed(10)
    assert networks(suite, "shared") == {os.readlink("/proc/self/ns/net")}
    assert not networks(suite, "shared") & networks(suite, "isolated")


def test_each_worker_runs_everything(suite: Suite) -> None:
    suite.file("test_it.py", WHERE)
    suite.run("--dist=each", "--tx=2*popen", "--ephemport-isolate").passed(17)
    assert len(suite.said("shared")) == 3
    assert len(networks(suite, "isolated")) == 2


def test_nothing_but_shared_tests(suite: Suite) -> None:
    suite.file("test_it.py", WHERE)
    suite.run("-n", "2", "--ephemport-isolate", "-m", "ephemport_shared").passed(3)


def test_without_shared_tests_there_is_no_other_worker(suite: Suite) -> None:
    suite.file("test_it.py", WHERE)
    run = suite.run("-n", "2", "--ephemport-isolate", "-m", "not ephemport_shared", "-v")
    run.passed(7)
    assert "[gw2]" not in run.output


def test_without_isolation_the_marker_means_nothing(suite: Suite) -> None:
    suite.file("test_it.py", WHERE)
    suite.run("-n", "1", "--ephemport-isolate", "--ephemport-isolate=no").passed(10)
    assert networks(suite, "shared") == networks(suite, "isolated")


# A killed worker leaves a server behind that ignores SIGTERM.
CRASH = """
import os, signal, socket, subprocess, sys
import pytest

SERVER = '''
import signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listening = socket.create_server(("127.0.0.1", 9001))
print("up", flush=True)
signal.pause()
'''

def test_crash():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE,
                               start_new_session=True)
    assert process.stdout.readline()
    with open("crashed", "a") as file:
        file.write(f"{process.pid} {os.readlink('/proc/self/ns/net')}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def test_next():
    socket.create_server(("127.0.0.1", 9001)).close()
    with open("next", "a") as file:
        file.write(os.readlink("/proc/self/ns/net") + "\\n")

@pytest.mark.ephemport_shared
def test_crash_on_the_host_network():
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.ephemport_shared
def test_next_on_the_host_network():
    with open("shared", "a") as file:
        file.write(os.readlink("/proc/self/ns/net") + "\\n")
"""


def test_a_worker_that_is_killed(anyones_suite: Suite) -> None:
    suite = anyones_suite
    suite.file("test_it.py", CRASH)
    run = suite.run("-n", "1", "--ephemport-isolate")
    assert run.outcomes == {"failed": 2, "passed": 2}, run.output
    host = os.readlink("/proc/self/ns/net")
    server, network = suite.said("crashed")[0].split()
    assert host not in {network, *suite.said("next")}
    assert suite.said("shared") == [host]
    assert network_of(int(server)) != network


FORKED = """
import multiprocessing, os, signal, socket, time
import pytest

# The fork beside xdist's thread: an error of Python 3.15, after which nobody ends the child.
pytestmark = pytest.mark.filterwarnings("ignore:This process")

def serve():
    with socket.create_server(("127.0.0.1", 9001)):
        signal.pause()

def test_crash():
    process = multiprocessing.get_context("fork").Process(target=serve)
    process.start()
    with open("crashed", "a") as file:
        file.write(f"{process.pid} {os.readlink('/proc/self/ns/net')}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def test_next():
    pass
"""


def test_a_worker_that_is_killed_while_its_fork_lives(suite: Suite) -> None:
    """The fork has the worker's connection to the controller open, and would hold up the run."""
    suite.file("test_it.py", FORKED)
    run = suite.run("-n", "1", "--ephemport-isolate")
    assert run.outcomes == {"failed": 1, "passed": 1}, run.output
    server, network = suite.said("crashed")[0].split()
    assert network_of(int(server)) != network


def test_the_run_ends_at_the_first_failure(suite: Suite) -> None:
    suite.file("test_it.py", WHERE + "\n@pytest.mark.ephemport_shared\ndef test_no(): assert 0")
    run = suite.run("-n", "2", "--ephemport-isolate", "--maxfail=1")
    assert run.status == pytest.ExitCode.INTERRUPTED, run.output
    assert "stopping after 1 failures" in run.output


def test_collections_that_differ(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        WHERE
        + """
if os.readlink("/proc/self/ns/net") == os.environ["HOST"]:
    def test_only_here(): pass
""",
    )
    host = os.readlink("/proc/self/ns/net")
    run = suite.run("-n", "2", "--ephemport-isolate", env={"HOST": host})
    assert run.status == 1, run.output
    assert "collection must not depend on the network" in run.output
    assert suite.said("shared") == []


def test_coverage_is_measured(suite: Suite) -> None:
    if importlib.util.find_spec("pytest_cov") is None:
        pytest.skip("pytest-cov is not installed")
    suite.file("pytest.ini", "")
    suite.file("test_it.py", WHERE)
    suite.run("-n", "2", "--ephemport-isolate", "--cov=.", "--cov-fail-under=100").passed(10)


def test_another_interpreter(suite: Suite) -> None:
    # Long, and with a blank.
    folder = suite.folder / "an interpreter"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\ntouch "{folder}/used"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    suite.file("test_it.py", WHERE)
    spec = f"popen//python='{python}'"
    suite.run("--dist=load", "--tx", spec, "--ephemport-isolate", "-k", "isolated").passed(7)
    assert (folder / "used").exists()
    assert os.readlink("/proc/self/ns/net") not in networks(suite, "isolated")


# What pytest-rerunfailures does: a server in the controller, and each worker connects to it.
TALKS_TO_THE_CONTROLLER = """
import socket, threading

def serve(listening):
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(connection.recv(5).upper())

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        talk = socket.create_connection(("127.0.0.1", config.workerinput["sock_port"]))
        with talk:
            talk.sendall(b"hello")
            talk.shutdown(socket.SHUT_WR)
            config.heard = talk.makefile("rb").read()
    else:
        config.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(config.listening,), daemon=True).start()

def pytest_configure_node(node):
    node.workerinput["sock_port"] = node.config.listening.getsockname()[1]
"""


def test_plugins_may_talk_to_the_controller(suite: Suite) -> None:
    suite.file("conftest.py", TALKS_TO_THE_CONTROLLER)
    suite.file(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(n, pytestconfig):
            assert pytestconfig.heard == b"HELLO"
        """,
    )
    suite.run("-n", "2", "--ephemport-isolate").passed(4)


def test_nothing_is_left_in_the_temporary_folder(suite: Suite, tmp_path: Path) -> None:
    suite.file("test_it.py", WHERE)
    folder = tmp_path / "temporary"
    folder.mkdir()
    suite.run("-n", "1", "--ephemport-isolate", env={"TMPDIR": str(folder)}).passed(10)
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["pytest"]

"""`shared_server`: one server for all workers, started once and ended with the run."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from ephemport import listeners
from ephemport._kernel.processes import command_line
from tests.core.helpers import eventually
from tests.plugin.conftest import Run, Suite

SERVER = """
import os, socket, sys
with open("starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
server = socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(sys.argv[1])))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(str(os.getpid()).encode())
"""

CONFTEST = """
import socket, sys
import pytest

@pytest.fixture(scope="session")
def server(shared_server):
    return shared_server([sys.executable, "server.py", "{port}"])

@pytest.fixture
def ask():
    def ask(server):
        with socket.create_connection(server.address, timeout=30) as connection:
            return int(connection.recv(99))
    return ask
"""

TESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(8))
def test_it(server, ask, number):
    assert ask(server) == server.pid
    assert server.url("tcp") == f"tcp://127.0.0.1:{int(server)}"
    with open(server.log) as log:
        assert log.read() == "up\\n"
    with open("seen", "a") as file:
        file.write(f"{server.pid} {server.port} {os.environ.get('PYTEST_XDIST_WORKER')}\\n")
"""


class Shared:
    """A suite with a shared server, and what it leaves behind."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.temporary = suite.folder / "tmp"
        self.temporary.mkdir()
        suite.environment["TMPDIR"] = str(self.temporary)
        suite.write(SERVER, "server.py")
        suite.write(CONFTEST, "conftest.py")
        suite.write(TESTS)

    def lines(self, name: str) -> list[str]:
        path = self.suite.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def starts(self) -> list[int]:
        return [int(line) for line in self.lines("starts")]

    def run(self, *arguments: str) -> Run:
        return self.suite.run(*arguments)

    def is_all_gone(self) -> bool:
        """Whether no server runs, and no folder of ours is left."""
        running = [pid for pid in self.starts if "server.py" in (command_line(pid) or "")]
        left = [one.name for one in self.temporary.iterdir() if "servers" in one.name]
        assert (running, left) == ([], [])
        return True


@pytest.fixture
def shared(suite: Suite) -> Shared:
    return Shared(suite)


@pytest.mark.parametrize("workers", [[], ["-n", "1"], ["-n", "3"]])
def test_one_server_for_all_workers(shared: Shared, workers: list[str]) -> None:
    shared.run(*workers).passed(8)
    (pid,) = shared.starts
    seen = [line.split() for line in shared.lines("seen")]
    assert len(seen) == 8
    assert {int(one[0]) for one in seen} == {pid}
    ports = {int(one[1]) for one in seen}
    assert len(ports) == 1
    if workers == ["-n", "3"]:
        assert len({one[2] for one in seen}) > 1
    assert shared.is_all_gone()
    assert listeners(ports.pop()) == []


def test_a_worker_that_crashes_takes_nothing_along(shared: Shared) -> None:
    shared.suite.write(
        """
        import os, time
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(server, ask, number):
            assert ask(server) == server.pid
            if number == 0:
                os._exit(3)
        """
    )
    run = shared.run("-n", "2")
    assert run.outcomes == {"passed": 3, "failed": 1}, run.output
    assert "crashed" in run.output
    assert len(shared.starts) == 1
    assert shared.is_all_gone()


def test_several_servers(shared: Shared) -> None:
    shared.suite.write(
        """
        import sys
        import pytest

        COMMAND = [sys.executable, "server.py", "{port}"]

        @pytest.mark.parametrize("number", range(4))
        def test_it(server, ask, shared_server, number):
            other = shared_server(COMMAND, name="other")
            third = shared_server([*COMMAND, 3])
            fourth = shared_server(COMMAND, env={"A": "1"}, port=[server.port, 0])
            span = range(20000, 30000)
            fifth = shared_server(COMMAND, range=span, outside_ephemeral=True)
            assert fifth.port in span
            assert len({ask(one) for one in (server, other, third, fourth, fifth)}) == 5
        """
    )
    shared.run("-n", "2").passed(4)
    assert len(shared.starts) == 5
    assert shared.is_all_gone()


def test_a_server_that_fails_is_started_once(shared: Shared) -> None:
    shared.suite.write(SERVER + "\n", "server.py")
    source = (shared.suite.folder / "server.py").read_text()
    shared.suite.write(
        source.replace("server = ", "sys.exit('no licence'); server = "), "server.py"
    )
    run = shared.run("-n", "2")
    assert run.outcomes == {"error": 8}
    assert "ServerExited" in run.output
    assert "The server's last lines:" in run.output
    assert "no licence" in run.output
    assert len(shared.starts) == 1
    assert shared.is_all_gone()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("'redis-server'", "TypeError: args must be a list such as"),
        ("['nosuch-server']", "FileNotFoundError"),
        ("[1.5]", "TypeError: each of args must be a string, a path or an int"),
        ("['true'], port=70000", "ValueError: port=70000 is no port"),
        ("['true'], env={'A': 1}", "TypeError: env must be a dict of strings, not 1"),
        ("['true'], timeout='x'", "TypeError: timeout must be a number of seconds"),
        ("['true']", "ServerExited"),
        ("['sleep', '60'], timeout=0.2", "TakeoverTimeout"),
    ],
)
def test_what_goes_wrong_comes_out(shared: Shared, call: str, words: str) -> None:
    shared.suite.write(f"def test_it(shared_server):\n    shared_server({call})\n")
    for workers in ([], ["-n", "1"]):
        run = shared.run(*workers)
        assert run.outcomes == {"failed": 1}
        assert words in run.output
    assert shared.is_all_gone()


def test_isolated_workers_have_one_each(shared: Shared) -> None:
    run = shared.run("-n", "2", "--ephemport-isolate=auto")
    if "NOT isolated" in run.output:
        pytest.skip("no network namespace here")
    run.passed(8)
    seen = {tuple(line.split()) for line in shared.lines("seen")}
    assert len({worker for _, _, worker in seen}) == len({pid for pid, _, _ in seen}) == len(seen)
    assert shared.is_all_gone()


def test_marked_tests_use_the_one_on_the_host_network(shared: Shared) -> None:
    shared.suite.write(
        TESTS.replace(
            "import pytest\n", "import pytest\n\npytestmark = pytest.mark.ephemport_shared\n"
        )
    )
    run = shared.run("-n", "2", "--ephemport-isolate=auto")
    assert run.outcomes == {"passed": 8}, run.output
    assert len(shared.starts) == 1
    assert shared.is_all_gone()


def test_a_server_that_ignores_sigterm(shared: Shared) -> None:
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    shared.suite.write(source + (shared.suite.folder / "server.py").read_text(), "server.py")
    short = "import ephemport.pytest_plugin.shared_servers as s; s._GRACE = 0.2\n"
    shared.suite.write(short + CONFTEST, "conftest.py")
    shared.run("-n", "2").passed(8)
    assert shared.is_all_gone()


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_ctrl_c_ends_it_too(shared: Shared, workers: list[str]) -> None:
    shared.suite.write(
        """
        import time

        def test_it(server, ask):
            assert ask(server) == server.pid
            open("waiting", "w").close()
            time.sleep(60)
        """
    )
    process = shared.suite.start(*workers)
    eventually(lambda: (shared.suite.folder / "waiting").exists())
    os.kill(process.pid, signal.SIGINT)
    run = shared.suite.finish(process)
    assert run.status == 2, run.output
    assert len(shared.starts) == 1
    assert shared.is_all_gone()


def test_the_server_lives_while_tests_are_torn_down(shared: Shared) -> None:
    # Ctrl-C in a terminal goes to every process of its foreground group.
    shared.suite.write("import os; os.setpgid(0, 0)\n" + CONFTEST, "conftest.py")
    shared.suite.write(
        """
        import time
        import pytest

        @pytest.fixture
        def torn_down(server, ask):
            yield
            assert ask(server) == server.pid
            open("torn down", "w").close()

        def test_it(torn_down):
            open("waiting", "w").close()
            time.sleep(60)
        """
    )
    process = shared.suite.start()
    eventually(lambda: (shared.suite.folder / "waiting").exists())
    os.killpg(process.pid, signal.SIGINT)
    run = shared.suite.finish(process)
    assert (shared.suite.folder / "torn down").exists(), run.output
    assert shared.is_all_gone()


def test_a_long_temporary_folder(shared: Shared) -> None:
    deep = shared.temporary / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    shared.suite.environment["TMPDIR"] = str(deep)
    shared.run("-n", "2").passed(8)
    assert len(shared.starts) == 1


def test_the_example_of_the_page(shared: Shared) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    page = (Path(__file__).parents[2] / "docs/one-server.md").read_text()
    conftest, tests = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    shared.suite.write(conftest, "conftest.py")
    shared.suite.write(tests)
    for workers in ([], ["-n", "2"]):
        shared.run(*workers).passed(2)
    assert shared.is_all_gone()

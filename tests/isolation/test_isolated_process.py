"""Without xdist the one process is isolated, before anything that could start a server."""

import os
import sys

import pytest

from tests.isolation.conftest import Suite

SUITE = """
import os, socket, sys
import pytest
from conftest import SERVER

def test_it(capfd):
    with SERVER:
        look(capfd)

def look(capfd):
    with socket.create_connection(("127.0.0.1", 9001)):
        SERVER.accept()[0].close()
    with pytest.raises(OSError):
        socket.create_connection(("192.0.2.77", 9001))
    print("printed")
    assert capfd.readouterr().out == "printed\\n"
    with open("said", "w") as file:
        print(os.getpid(), os.readlink("/proc/self/ns/net"), sys.flags.dev_mode, file=file)

def test_rights(tmp_path):
    path = tmp_path / "closed"
    path.touch(mode=0)
    if os.getuid() != 0:
        with pytest.raises(PermissionError):
            path.open()
        with open("/proc/self/status") as file:
            assert "CapEff:\\t0000000000000000" in file.read()
    assert os.listdir("/proc/self/fd")
"""
CONFTEST = """
import socket
SERVER = socket.create_server(("127.0.0.1", 9001))
"""


@pytest.fixture
def own_server(anyones_suite: Suite) -> Suite:
    anyones_suite.file("conftest.py", CONFTEST)
    anyones_suite.file("test_it.py", SUITE)
    return anyones_suite


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ephemport-isolate", "test_it.py"],
        ["-p", "no:xdist", "--ephemport-isolate=auto"],
        ["--ephemport-isolate", "-n", "0"],
    ],
)
def test_the_process_is_isolated(own_server: Suite, arguments: list[str]) -> None:
    process = own_server.start(*arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "2 passed" in output
    assert "ephemport: isolated, this process" in output
    pid, network, _ = own_server.said("said")[0].split()
    assert int(pid) == process.pid
    assert network != os.readlink("/proc/self/ns/net")


def test_options_from_elsewhere(suite: Suite) -> None:
    suite.file("conftest.py", CONFTEST)
    suite.file("test_it.py", SUITE)
    suite.run(env={"PYTEST_ADDOPTS": "--ephemport-isolate"}).passed(2)
    suite.file("pytest.ini", "[pytest]\naddopts = --ephemport-isolate")
    suite.run().passed(2)


# A plugin that starts a thread, so that an ordinary user's process cannot enter by itself.
THREAD = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


def test_a_plugin_has_started_a_thread(own_server: Suite) -> None:
    own_server.file("busy.py", THREAD)
    process = own_server.start(
        "-p", "busy", "--ephemport-isolate", program=("-Xdev", "-m", "pytest")
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "2 passed" in output
    pid, network, dev_mode = own_server.said("said")[0].split()
    assert (int(pid), dev_mode) == (process.pid, "True")
    assert network != os.readlink("/proc/self/ns/net")


def test_threads_in_a_program_that_calls_pytest(own_server: Suite) -> None:
    own_server.file("busy.py", THREAD)
    own_server.file("program.py", "import busy, sys, pytest; sys.exit(pytest.main())")
    run = own_server.run("--ephemport-isolate", program=("program.py",))
    if own_server.user == "root":
        run.passed(2)
    else:
        run.refused("2 threads", "ephemport run --isolate")


def test_tests_for_the_host_network_are_refused(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        """
        import pytest

        def test_isolated(): pass

        @pytest.mark.ephemport_shared
        def test_shared(): pass
        """,
    )
    suite.run("--ephemport-isolate").refused("test_it.py::test_shared", "-n 1", "-m 'not ")
    suite.run("--ephemport-isolate", "-k", "isolated").passed(1)
    assert suite.run("--ephemport-isolate", "--collect-only").status == 0
    suite.run().passed(2)


def test_standard_streams_and_status_stay(suite: Suite) -> None:
    suite.file(
        "test_it.py",
        "import sys\ndef test_it():\n    print(sys.stdin.read())\n    assert 0",
    )
    process = suite.start("-s", "--ephemport-isolate")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 failed" in output
    assert sys.executable

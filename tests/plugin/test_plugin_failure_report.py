"""The section that a failed test's report gets when it failed for want of a port."""

import shutil

import pytest

from tests.plugin.conftest import Suite

SECTION = "ephemport: who has the port"
TAKEN = """
import asyncio, socket, socketserver, subprocess, sys
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
    for rung in ("isolate", "migrate", "reserve"):
        assert f"  {rung} " in section


def test_what_node_says_is_understood(suite: Suite) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    source = "require('http').createServer().listen(+process.argv[1], '127.0.0.1')"
    body = f'subprocess.run(["node", "-e", "{source}", str(taken)], check=True)'
    assert "listens on 127.0.0.1:" in report_of(suite, f"def test_it(taken):\n    {body}\n")


def test_a_server_without_options_is_told_what_helps(suite: Suite) -> None:
    body = "with socket.socket() as sock: sock.bind(('127.0.0.1', server_port))"
    section = report_of(suite, f"def test_it(server_port):\n    {body}\n")
    assert "SO_REUSEADDR, 1)" in section
    assert "assist=True" in section
    assert "--ephemport-isolate" not in section


def test_a_takeover_timeout_gets_it_too(suite: Suite) -> None:
    section = report_of(
        suite, "def test_it():\n    with reserve() as r:\n        r.wait_listening(0.01)\n"
    )
    assert "the error's message says who had it" in section


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

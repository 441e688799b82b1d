"""The name of a Unix socket is in use: the failure report says so, and speaks of no port."""

import pytest

from tests.conftest import InNamespace
from tests.plugin.conftest import Suite
from tests.plugin.test_plugin_failure_report import SECTION

START = """
import asyncio, os, socket, socketserver, subprocess, sys
import pytest

@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

def unix():
    return socket.socket(socket.AF_UNIX)
"""


def report_of(suite: Suite, body: str, *options: str) -> str:
    suite.write(f"{START}\ndef test_it(tmp_path):\n{body}")
    run = suite.run("-rN", *options)
    assert run.outcomes["failed"] == 1, run.output
    assert SECTION in run.output
    return run.output.partition(SECTION)[2]


@pytest.mark.parametrize(
    "bind",
    [
        "with unix() as sock: sock.bind('localhost')",
        "with unix() as sock: sock.bind(b'localhost')",
        "path = tmp_path / 'localhost'; sock = unix(); sock.bind(str(path))",
        "path = tmp_path; sock = unix(); sock.bind(f'{path}/localhost')",
        "socketserver.UnixStreamServer(str(tmp_path / 'localhost'), None)",
        "print(f'bind to {tmp_path}/localhost: Address already in use'); raise SystemError",
    ],
    ids=["literal", "bytes", "path", "f-string", "socketserver", "captured"],
)
def test_a_path_is_named_and_who_listens_on_it(suite: Suite, bind: str) -> None:
    section = report_of(
        suite,
        f"    server = unix(); server.bind('localhost'); server.listen()\n    {bind}\n",
    )
    assert "/localhost: this process (pid " in section
    assert "listens on it" in section
    assert "It is a path, not a port" in section
    assert "tmp_path / 'name'" in section
    for nothing in ("--ephemport-isolate", "migrate", "reserve", "moment", "os.unlink"):
        assert nothing not in section


def test_isolation_changes_nothing_of_that(suite: Suite) -> None:
    body = """
    server = unix(); server.bind('localhost'); server.listen()
    with unix() as sock: sock.bind('localhost')
"""
    section = report_of(suite, body, "--ephemport-isolate")
    assert "listens on it" in section
    assert "isolation does not separate paths" in section
    assert "--ephemport-isolate" not in section


def test_a_file_left_behind(suite: Suite) -> None:
    section = report_of(
        suite,
        """
    with unix() as server: server.bind('left')
    with unix() as sock: sock.bind('left')
""",
    )
    assert "/left: a socket file that no visible process has open" in section
    assert "os.unlink() before bind()" in section


@pytest.mark.parametrize(
    "bind",
    [
        "with unix() as sock: sock.bind('plain')",
        "asyncio.run(asyncio.start_unix_server(print, 'plain'))",
    ],
    ids=["socket", "asyncio"],
)
def test_a_file_that_is_no_socket(suite: Suite, bind: str) -> None:
    section = report_of(suite, f"    (tmp_path / 'plain').write_text('')\n    {bind}\n")
    assert "/plain: a file that is not a socket" in section
    assert "os.unlink" not in section


def test_an_abstract_name(suite: Suite) -> None:
    body = """
    server = unix(); server.bind('\\0ephemport-' + str(tmp_path)); server.listen()
    with unix() as sock: sock.bind('\\0ephemport-' + str(tmp_path))
"""
    section = report_of(suite, body)
    assert "the abstract Unix name @ephemport-/" in section
    assert "listens on it" in section
    assert "os.getpid()" in section
    assert "tmp_path / 'name'" not in section
    # Isolation does not separate a process from itself.
    assert "--ephemport-isolate" not in section


def test_an_abstract_name_of_another_process(suite: Suite) -> None:
    program = "import socket,sys; s=socket.socket(1); s.bind(chr(0)+sys.argv[1]); s.listen()"
    body = f"""
    name = f'ephemport-{{tmp_path}}'
    with subprocess.Popen(
        [sys.executable, '-c', '{program}; print(flush=True); input()', name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        with unix() as sock: sock.bind('\\0ephemport-' + str(tmp_path))
"""
    section = report_of(suite, body)
    assert "os.getpid()" in section
    assert "--ephemport-isolate" in section
    assert "--ephemport-isolate" not in report_of(suite, body, "--ephemport-isolate")


def test_a_name_that_the_frame_does_not_have(suite: Suite) -> None:
    section = report_of(
        suite,
        """
    server = unix(); server.bind('localhost')
    with unix() as sock: sock.bind(''.join(['local', 'host']))
""",
    )
    assert "the name of a Unix socket, not a port; it is unknown which name" in section


def test_a_socket_of_another_network(in_namespace: InNamespace) -> None:
    reported = in_namespace(
        """
import os, socket, subprocess, tempfile
from ephemport._looking.unix_names import look_at_name
source = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('name'); s.listen();"
source += " print(flush=True); sys.stdin.read()"
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    command = ["unshare", "--net", sys.executable, "-c", source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        print(look_at_name(b"name"))
        process.stdin.close()
    os.chdir("/")
"""
    )
    assert "listens on it, from another network namespace" in reported

"""The command as a linter: codes, options, exit status, and what it keeps silent about."""

import json
import os
from pathlib import Path

import pytest

from ephemport import EphemportError
from ephemport.cli.migrate import _write
from tests.migrate.conftest import Folder

FOUND = """
import asyncio
import socket
import subprocess
import time

import portpicker


def free_port():
    with socket.socket() as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


def test_it(unused_tcp_port):
    server = start_server(9001)
    time.sleep(1)
    client = connect("ws://127.0.0.1:9001", port=9001)
    server.close()
"""

SILENT = '''
"""Listens on 9001."""
import asyncio
import socket
import time
from urllib.parse import urlparse

import pytest


@pytest.mark.parametrize(("url", "port"), [("http://h:9001", 9001), ("h:80", 80)])
def test_parsing(url, port):
    assert urlparse(url).port == port
    assert urlparse("http://localhost:9001").port == 9001


def test_numbers():
    assert sum(range(9001)) > 8000
    time.sleep(0.5)
    x = fetch("https://example.com:8443/", timeout=5000)
    assert 1024 <= x.port <= 65535


def listening():
    sock = socket.socket()
    sock.bind(("", 0))
    sock.listen()
    return sock, sock.getsockname()[1]


def connect_to_database():
    return create_engine("postgresql://localhost:5432/test")


async def poll():
    while not ready():
        await asyncio.sleep(0.1)
'''


def test_finds(folder: Folder) -> None:
    folder.write(test_it=FOUND)
    done = folder.migrate()
    found = [tuple(line.split()[:2]) for line in done.stdout.splitlines()]
    assert (done.status, found) == (
        1,
        [
            ("test_it.py:6:1", "EPH102"),
            ("test_it.py:11:9", "EPH101"),
            ("test_it.py:15:13", "EPH102"),
            ("test_it.py:16:27", "EPH001"),
            ("test_it.py:17:5", "EPH201"),
            ("test_it.py:18:38", "EPH003"),
            ("test_it.py:18:50", "EPH002"),
        ],
    )


def test_few_false_alarms(folder: Folder) -> None:
    folder.write(test_it=SILENT)
    done = folder.migrate()
    assert (done.status, done.stdout) == (0, "")


def test_json_select_and_ignore(folder: Folder) -> None:
    folder.write(test_it=FOUND)
    done = folder.migrate("--json", "--select", "EPH1,EPH201", "--ignore", "EPH102")
    found = json.loads(done.stdout)
    assert [one["code"] for one in found] == ["EPH101", "EPH201"]
    assert set(found[0]) == {"file", "line", "column", "code", "message"}


def test_noqa_silences(folder: Folder) -> None:
    folder.write(test_it="start_server(9001)  # noqa: EPH001\nstart_server(9002)  # noqa: E501\n")
    assert [line.split()[0] for line in folder.migrate().stdout.splitlines()] == ["test_it.py:2:14"]


def test_diff_writes_nothing(folder: Folder) -> None:
    folder.write(test_it="start_server(9001)\n")
    before = folder.snapshot()
    done = folder.migrate("--diff", "--style", "map")
    assert "+start_server(port_map[9001])" in done.stdout
    assert folder.snapshot() == before


@pytest.mark.parametrize("arguments", [("--select", "X1"), ("nowhere",), ("--style", "odd")])
def test_bad_usage(folder: Folder, arguments: tuple[str, ...]) -> None:
    assert folder.migrate(*arguments).status == 2


def test_explain(folder: Folder) -> None:
    done = folder.migrate("--explain", "EPH101")
    assert (done.status, done.stdout.startswith("EPH101: bind to 0")) == (0, True)


def test_ignored_folders_are_skipped(folder: Folder) -> None:
    for name in ("node_modules", "ignored"):
        (folder.path / name).mkdir()
        (folder.path / name / "test_x.py").write_text("start_server(9001)\n")
    (folder.path / ".gitignore").write_text("ignored/\n")
    assert folder.migrate().status == 0


def test_shared_numbers_stay_with_style_fixtures(folder: Folder) -> None:
    folder.write(
        test_it="""
        def test_a():
            with start_server(9001), start_server(9002):
                connect("ws://localhost:9001")

        def test_b():
            with start_server(9002):
                pass
        """
    )
    done = folder.migrate("--write", "--style", "fixtures")
    text = folder.read("test_it.py")
    assert "def test_a(server_port):" in text
    assert "start_server(server_port), start_server(9002):" in text
    assert done.stdout.count("several functions share it") == 2


def test_without_libcst(folder: Folder) -> None:
    code = (
        "import sys; sys.modules['libcst'] = None; from ephemport.cli import main; sys.exit(main())"
    )
    done = folder.python("-c", code, "migrate")
    assert done.status == 2
    assert "pip install 'ephemport[migrate]'" in done.stderr


def test_writes_nothing_over_what_was_changed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    for other in ("their = 'edit'\n", "# coding: nonsense\n"):
        path.write_text(other)
        with pytest.raises(EphemportError, match="was changed while the command ran"):
            _write(path, "port = 9001\n", "port = 40123\n")
        assert path.read_text() == other
        assert [one.name for one in tmp_path.iterdir()] == ["test_it.py"]


def test_a_rewritten_file_keeps_its_mode_and_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text("port = 9001\n")
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    _write(path, "port = 9001\n", "port = 40123\n")
    after = path.stat()
    assert path.read_text() == "port = 40123\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f"PORT = 9001\nx = {' + '.join(['a'] * 1000)}\n", "too deeply nested"),
        (f"PORT = 9001\nx = {' + '.join(['a'] * 8000)}\n", "too deeply nested"),
        (f"x = {'(' * 3000}9001{')' * 3000}\n", "too deeply nested"),
        (f"x = {'-' * 20000}9001\n", "too deeply nested"),
        ("if a: x = 9001\n" + "elif b: x = 2\n" * 800, "too deeply nested"),
        ("# coding: rot13\nx = 9001\n", "rot13"),
        (f"PORT = 9001\nx = {'1' * 5000}\n", "Exceeds the limit"),
    ],
    ids=["1000 terms", "8000 terms", "parentheses", "signs", "elif", "codec", "digits"],
)
def test_an_odd_file_is_reported_and_the_rest_is_examined(
    folder: Folder, source: str, why: str
) -> None:
    folder.write(test_odd=source, test_it="import server\nserver.start(port=9002)\n")
    done = folder.migrate()
    assert done.status == 1, done.stderr
    (line,) = (one for one in done.stdout.splitlines() if "EPH900" in one)
    assert line.startswith("test_odd.py:1:1 EPH900 cannot be read, and is left: ")
    assert why in line
    assert "test_it.py:2" in done.stdout
    assert "Traceback" not in done.stderr

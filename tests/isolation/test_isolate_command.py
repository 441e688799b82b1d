"""`ephemport run --isolate`: whole commands with the same hard-coded ports, side by side."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.isolation.conftest import NO_MORE_NETWORKS

pytestmark = pytest.mark.usefixtures("isolation")

RUN = (sys.executable, "-m", "ephemport", "run", "--isolate")

SERVER = """
import os, socket, sys
own = socket.create_server(("127.0.0.1", 9001))
given = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(os.readlink("/proc/self/ns/net"), flush=True)
sys.stdin.read()
sys.exit(7)
"""


def start(*command: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*prefix, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_side_by_side() -> None:
    command = (*RUN, "--wait-listening", "30", "--", sys.executable, "-c", SERVER, "{PORT}")
    with start(*command) as one, start(*command) as two:
        networks = set()
        for process in (one, two):
            assert process.stdout is not None
            assert process.stderr is not None
            networks.add(process.stdout.readline())
            assert process.stderr.readline().startswith("ephemport: PORT=")
            assert "listens on 127.0.0.1" in process.stderr.readline()
        for process in (one, two):
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (7, "")
    assert len(networks) == 2
    assert "" not in networks


@pytest.mark.parametrize("option", ["--assist", "--activate"])
def test_with_other_help(option: str) -> None:
    source = {
        "--assist": "import socketserver as s; s.TCPServer(('', int({PORT})), None)",
        "--activate": "import socket; assert socket.socket(fileno=3).getsockname()[1] == {PORT}",
    }[option]
    process = start(*RUN, option, "--", sys.executable, "-c", source)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_refused() -> None:
    process = start(*RUN, "--", "true", prefix=NO_MORE_NETWORKS)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("ephemport: cannot isolate: ")
    assert said.count("\n") == 1

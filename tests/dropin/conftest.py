"""Drop-ins run in child processes here: they change the sockets of their process."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.conftest import ROOT, run_python

# What the scripts below share: servers that set no option, here and in another process.
COMMON = """
import errno, os, socket, subprocess, sys, threading

def bare(port, address="127.0.0.1", kind=socket.SOCK_STREAM, listen=True):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.bind((address, port))
    if listen and kind == socket.SOCK_STREAM:
        sock.listen()
    return sock

def elsewhere(port, *options, address="127.0.0.1", kind="SOCK_STREAM"):
    source = f'''
import socket
sock = socket.socket(socket.{"AF_INET6" if ":" in address else "AF_INET"}, socket.{kind})
for option in {list(options)!r}:
    sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
sock.bind(({address!r}, {port}))
if "{kind}" == "SOCK_STREAM":
    sock.listen()
'''
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    if done.returncode and "Address already in use" not in done.stderr:
        raise AssertionError(done.stderr)
    return done.returncode == 0

def everything_that_the_kernel_gives():
    found, socks = set(), []
    try:
        while True:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            socks.append(sock)
            sock.bind(("127.0.0.1", 0))
            found.add(sock.getsockname()[1])
    except OSError as error:
        assert error.errno == errno.EADDRINUSE, error
    finally:
        for sock in socks:
            sock.close()
    return found
"""


@pytest.fixture
def script() -> Callable[..., str]:
    """Run a script after COMMON in a child that turns warnings into errors; return its output."""

    def run(source: str, *argv: str, env: Mapping[str, str] | None = None) -> str:
        done = run_python(COMMON + dedent(source), *argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    return run


class Suite:
    """Test files that a whole pytest run is made of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        installed = importlib.util.find_spec("pytest_asyncio") is not None
        ini = "[pytest]\nasyncio_default_fixture_loop_scope = function" if installed else ""
        self.file("pytest.ini", ini)
        self.file("helpers.py", COMMON)

    def file(self, name: str, text: str) -> None:
        """Write one of its files."""
        (self.folder / name).write_text(dedent(text))

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run it; the exit status and what was said."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(ROOT), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout

    def passes(self, count: int, *arguments: str, **how: Any) -> None:
        """Run it: so many tests pass, and nothing else happens."""
        status, output = self.run(*arguments, **how)
        assert status == 0, output
        assert re.search(rf"\b{count} passed in ", output), output


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)

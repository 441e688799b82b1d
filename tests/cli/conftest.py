"""The command as users start it, and what it leaves open."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT

COMMAND = [sys.executable, "-m", "ephemport"]


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def ports(self) -> list[int]:
        return [int(line) for line in self.stdout.splitlines()]


class Cli:
    """Starts `ephemport` with a clean environment, and ends what it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "EPHEMPORT_", "PORTSERVER_"))
        } | {"PYTHONPATH": str(ROOT), "EPHEMPORT_LOCK_DIR": str(folder / "locks")}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **kwargs: Any) -> subprocess.Popen[str]:
        """A running `ephemport` with pipes for its streams."""
        return self.start_anything(*COMMAND, *arguments, **kwargs)

    def start_anything(self, *command: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Another command that is ended with the test."""
        kwargs["env"] = {**self.environment, **(kwargs.get("env") or {})}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process: subprocess.Popen[str] = subprocess.Popen(
            command, cwd=self.folder, text=True, **{**streams, **kwargs}
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, input: str = "", **kwargs: Any) -> Done:  # noqa: A002
        """A command that ends of itself."""
        process = self.start(*arguments, **kwargs)
        stdout, stderr = process.communicate(input, timeout=60)
        return Done(process.returncode, stdout, stderr)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                # Forwarded: a command that is left over from a failed test ends as well.
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.end()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Ask again until the answer is true, and return it."""

    def wait(question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while not (result := question()):
            assert time.monotonic() < deadline, "still not so after 30 s"
            time.sleep(0.005)
        return result

    return wait


def line(process: subprocess.Popen[str]) -> str:
    """The next line of its output: it has come that far."""
    assert process.stdout
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> Done:
    """The rest of what it says, and its status."""
    stdout, stderr = process.communicate(timeout=60)
    return Done(process.returncode, stdout, stderr)


def reported(stderr: str) -> dict[str, int]:
    """The names and ports of the one line on standard error."""
    found = re.fullmatch(r"ephemport: ((?:[A-Za-z_]\w*=\d+ ?)+)\n", stderr)
    assert found, stderr
    return {name: int(port) for name, port in (p.split("=") for p in found[1].split())}


def can_bind(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    """Whether we, who are another process, could have the port on any address."""
    had = []
    for address in "127.0.0.1", "0.0.0.0", "127.0.0.7":
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind((address, port))
            except OSError:
                continue
            had.append(address)
    return bool(had)


def processes_with(*words: str) -> list[int]:
    """The processes whose command line has these words in a row."""
    wanted, found = "\0".join(words).encode() + b"\0", []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().endswith(wanted):
                found.append(int(path.parent.name))
    return found

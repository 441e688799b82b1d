"""Servers that really run, below an assisted start or not."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemport._holding.acquire import hold
from ephemport._holding.hold import Hold
from ephemport._serving.assist import start_assisted

PATIENCE = 20.0
ROOT = Path(__file__).parents[2]


class Server:
    """A child process and its conversation: it writes lines, and reads some."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._seen = b""

    def line(self) -> str:
        """Return the next line of its output, "" at the end of it. Fails when none comes."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._seen:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                pytest.fail(f"no line in {PATIENCE} s; so far: {self._seen!r}")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                break
            self._seen += data
        text, _, self._seen = self._seen.partition(b"\n")
        return text.decode()

    def say(self, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


Start = Callable[..., Server]
NewHold = Callable[..., Hold]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program, assisted for `holds` unless that is None."""
    started: list[Server] = []

    def start_one(args: list[str], holds: Iterable[Hold] | None = None, **kwargs: Any) -> Server:
        def popen() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kwargs)

        server = Server(popen() if holds is None else start_assisted(popen, holds))
        started.append(server)
        return server

    yield start_one
    for server in started:
        server.end()


@pytest.fixture
def start_python(start: Start) -> Start:
    """Like `start`, for the text of a Python program."""

    def start_one(program: str, holds: Iterable[Hold] | None = None, **kwargs: Any) -> Server:
        kwargs.setdefault("cwd", ROOT)
        return start([sys.executable, "-c", program], holds, **kwargs)

    return start_one


@pytest.fixture
def new_hold() -> Iterator[NewHold]:
    """A new hold, open to TCP servers."""
    made: list[Hold] = []

    def make(protocol: str = "tcp") -> Hold:
        made.append(hold(0, protocol))
        made[-1].open()
        return made[-1]

    yield make
    for each in made:
        each.close()

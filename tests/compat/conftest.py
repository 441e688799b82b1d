"""A neighbour process that wants our ports, and an environment without our settings."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT

# Tries to have a port as a stranger would: on each address, with no option set.
_NEIGHBOUR = """
import socket, sys
wanted = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "127.0.0.7")]
if socket.has_ipv6:
    wanted.append((socket.AF_INET6, "::"))
for line in sys.stdin:
    had = 0
    for family, address in wanted:
        with socket.socket(family) as sock:
            try:
                sock.bind((address, int(line)))
            except OSError:
                continue
            had += 1
    print(had, flush=True)
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EPHEMPORT_MODE", "EPHEMPORT_LOCK_DIR", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def neighbour_can_bind() -> Iterator[Callable[[int], bool]]:
    """Whether another process can bind a port on any address."""
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _NEIGHBOUR],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers

        def can_bind(port: int) -> bool:
            asked.write(f"{port}\n")
            asked.flush()
            return int(answers.readline()) > 0

        yield can_bind
        asked.close()

"""Whole pytest runs of a suite that a test writes, each in an interpreter of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest

from tests.conftest import REFUSED, ROOT

_IN_A_NETWORK_OF_ITS_OWN = f"""
import os, sys
from ephemport._kernel.namespaces import enter_new_network
try:
    enter_new_network()
except OSError as error:
    print(error)
    sys.exit({REFUSED})
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Run(NamedTuple):
    """How a pytest run ended, and what it said."""

    status: int
    output: str

    @property
    def outcomes(self) -> dict[str, int]:
        """As in the last line: {"passed": 3, "error": 1}."""
        last = self.output.rstrip().rpartition("\n")[2]
        found = re.findall(r"(\d+) (passed|failed|errors?|warnings?|skipped)", last)
        return {name.removesuffix("s"): int(count) for count, name in found}

    def passed(self, count: int) -> None:
        """Check that exactly so many tests passed, and nothing else happened."""
        assert (self.status, self.outcomes) == (0, {"passed": count}), self.output


class Suite:
    """Test files, and the environment that they are run in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock_dir = folder / "locks"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "EPHEMPORT_", "PORTSERVER_"))
        } | {"PYTHONPATH": str(ROOT), "EPHEMPORT_LOCK_DIR": str(self.lock_dir)}
        self.ini()

    def ini(self, *lines: str, filters: tuple[str, ...] = ("error",)) -> None:
        """Write the ini file: strict in everything, and the given lines."""
        warnings = "\n    ".join(["filterwarnings =", *filters])
        text = ["[pytest]", "addopts = --strict-markers", warnings, *lines]
        (self.folder / "pytest.ini").write_text("\n".join(text))

    def write(self, source: str, name: str = "test_it.py") -> None:
        """Write one of its files."""
        (self.folder / name).write_text(dedent(source))

    def start(
        self, *arguments: str, alone: bool = False, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a run, if wanted alone in a new network."""
        prefix = ["-c", _IN_A_NETWORK_OF_ITS_OWN] if alone else []
        command = [*prefix, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **how: Any) -> Run:
        """Run it to its end."""
        return self.finish(self.start(*arguments, **how))

    def finish(self, process: subprocess.Popen[str]) -> Run:
        """The end of a run that was started."""
        output, _ = process.communicate(timeout=120)
        if process.returncode == REFUSED:
            pytest.skip(f"no network namespace here: {output}")
        return Run(process.returncode, output)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)

"""The suites are run as they are, in processes of their own; here nothing of them is collected."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

collect_ignore_glob = ["suites/*"]

SUITES = Path(__file__).parent / "suites"


# Hard-coded ports as they were need a machine to themselves, or a network at least.
ALONE = """
import os, sys
from ephemport._kernel.namespaces import enter_new_network
try:
    enter_new_network()
except OSError as error:
    print("shares the network:", error)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def outcomes(self) -> dict[str, str]:
        """Each test of a pytest run with -rA, and how it ended."""
        found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (\S+::\S+)", self.stdout, re.M)
        return {name: outcome for outcome, name in found}


class Folder:
    """Files to migrate, and to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str) -> None:
        """Write files: `test_a="..."` is test_a.py, `settings_yaml` is settings.yaml."""
        for name, text in files.items():
            stem, _, ending = name.rpartition("_")
            known = ending in ("yaml", "json", "toml", "ini", "cfg", "md")
            target = self.path / (f"{stem}.{ending}" if known else f"{name}.py")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(dedent(text).lstrip("\n"))

    def read(self, name: str) -> str:
        """The text of a file."""
        return (self.path / name).read_text()

    def snapshot(self) -> dict[str, bytes]:
        """All files and what is in them."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def python(self, *arguments: str, alone: bool = False) -> Done:
        """Run an interpreter in the folder, with this tree's ephemport; alone in a network."""
        if alone:
            arguments = ("-c", ALONE, *arguments)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "EPHEMPORT_"))
        } | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def migrate(self, *arguments: str) -> Done:
        """Run the command."""
        return self.python("-m", "ephemport", "migrate", *arguments)

    def pytest(self, *arguments: str, alone: bool = False) -> Done:
        """Run the suite, without whatever else is installed here."""
        plugins = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:anyio")
        return self.python("-m", "pytest", "-rA", *plugins, *arguments, alone=alone)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[str], Folder]:
    """A copy of one of the suites."""

    def copy(name: str) -> Folder:
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
        return Folder(Path(shutil.copytree(SUITES / name, tmp_path / name, ignore=ignored)))

    return copy

"""Whole pytest runs of suites with hard-coded ports, as root and as an ordinary user."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest

from ephemport._isolating import wrapper
from tests.conftest import ROOT

NOBODY = 65534

# What is started through this is in a user namespace in which nobody may make another network.
NO_MORE_NETWORKS = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"',
    "sh",
)

# A private view of this machine in which an ordinary user may read what is in root's home: the
# interpreter (as a virtual environment, without what is installed beside it), its packages, this
# tree, and the suite's folder. $1 to $4, $5 is the interpreter's name, then comes the command.
_READABLE_BY_ANYONE = """
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/python /mnt/packages /mnt/tree /mnt/suite /mnt/venv/bin
ln -s "/mnt/python/bin/$5" /mnt/venv/bin/python
printf 'home = /mnt/python/bin\\ninclude-system-site-packages = false\\n' > /mnt/venv/pyvenv.cfg
mount --bind "$1" /mnt/python
mount --bind "$2" /mnt/packages
mount --bind "$3" /mnt/tree
mount --bind "$4" /mnt/suite
shift 5
cd /mnt/suite
exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all "$@"
"""


class Run(NamedTuple):
    """How a pytest run ended, and what it said."""

    status: int
    output: str

    @property
    def outcomes(self) -> dict[str, int]:
        """As in the last line: {"passed": 3, "error": 1}."""
        found = re.findall(
            r"(\d+) (passed|failed|errors?|warnings?|skipped)",
            next((x for x in reversed(self.output.splitlines()) if " in " in x), ""),
        )
        return {name.removesuffix("s"): int(count) for count, name in found}

    def passed(self, count: int) -> None:
        """Check that exactly so many tests passed, and nothing else happened."""
        assert (self.status, self.outcomes) == (0, {"passed": count}), self.output

    def refused(self, *words: str) -> None:
        """Check that pytest ended before the first test, with one line that has these words."""
        assert self.status == pytest.ExitCode.USAGE_ERROR, self.output
        line = next(x for x in self.output.splitlines() if x.startswith("ERROR: ephemport: "))
        assert all(word in line for word in words), line
        assert "passed" not in self.output
        assert "Traceback" not in self.output


class Suite:
    """Test files, and the user and the network that they are run as and in."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder = folder
        self.user = user
        ini = ["[pytest]", "addopts = --strict-markers", "filterwarnings = error"]
        if importlib.util.find_spec("pytest_asyncio") is not None:
            ini.append("asyncio_default_fixture_loop_scope = function")
        self.file("pytest.ini", "\n".join(ini))

    def file(self, name: str, text: str) -> None:
        """Write one of its files."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))

    def said(self, name: str) -> list[str]:
        """The lines that tests wrote to a file of the suite."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def start(
        self,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        alone: bool = False,
        program: tuple[str, ...] = ("-m", "pytest"),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a run: through `prefix`, or alone in a network, behind the change of user."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "EPHEMPORT_", "COV_"))
        } | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        python, tree, before = sys.executable, str(ROOT), []
        if self.user == "nobody":
            packages = sysconfig.get_path("purelib")
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
            folders = [sys.base_prefix, packages, str(ROOT), str(self.folder)]
            name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            before = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
            before += [_READABLE_BY_ANYONE, "sh", *folders, name]
            python = "/mnt/venv/bin/python"
            tree = "/mnt/tree"
            environment |= {"PYTHONPATH": f"{tree}:/mnt/packages", "HOME": "/mnt/suite"}
            environment |= {"LD_LIBRARY_PATH": "/mnt/python/lib"}
            environment |= {"TMPDIR": "/mnt/suite"}
        if alone:
            prefix = (python, *wrapper.wrapper()[1:-1], f"{tree}/ephemport")
        return subprocess.Popen(
            [*before, *prefix, python, *program, "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **how: Any) -> Run:
        """Run it to its end."""
        process = self.start(*arguments, **how)
        output, _ = process.communicate(timeout=120)
        return Run(process.returncode, output)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`anyones_suite` as root and as an ordinary user; all others as the current user."""
    if "anyones_suite" in metafunc.fixturenames:
        users = ["root", "nobody"] if os.geteuid() == 0 else ["user"]
        metafunc.parametrize("anyones_suite", users, indirect=True)


@pytest.fixture(scope="session")
def isolation() -> None:
    """Skip where nothing can be isolated."""
    reason = wrapper.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def suite(tmp_path: Path, isolation: None) -> Suite:
    return Suite(tmp_path, "root" if os.geteuid() == 0 else "user")


@pytest.fixture
def anyones_suite(tmp_path: Path, isolation: None, request: pytest.FixtureRequest) -> Suite:
    return Suite(tmp_path, request.param)

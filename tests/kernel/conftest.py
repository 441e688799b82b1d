"""Children that read the kernel from elsewhere: as another user, in another network."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ephemport._kernel

NOBODY = 65534

# An interpreter in somebody's home directory cannot import once it is another user: so all
# imports come first. A change of user also takes /proc/self away, until PR_SET_DUMPABLE.
PRELUDE = f"""
import codecs, ctypes, errno, fcntl, json, os, shlex, socket, struct, sys
from ephemport._kernel import namespaces, port_range, processes, sockets
from ephemport._kernel.sockets import State
codecs.lookup("ascii")
codecs.lookup("idna")

def become_nobody():
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
        os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)

def answer(value):
    print(json.dumps(value))
"""


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Run a script after PRELUDE in a child; return what it gave to answer()."""

    def run(script: str, *arguments: object) -> Any:
        root = Path(ephemport._kernel.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Ask again until the answer is true, and return it."""

    def wait(question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (result := question()):
            assert time.monotonic() < deadline, "still not so after 20 s"
            time.sleep(0.002)
        return result

    return wait


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2500:
        pytest.skip(f"only {hard} open files allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def allowed(*command: str) -> bool:
    """Whether util-linux may do it: a second opinion on what this machine permits."""
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="session")
def root_may_unshare() -> None:
    if not allowed("unshare", "--net", "true"):
        pytest.skip("no network namespace without a user namespace here")


@pytest.fixture(scope="session")
def anyone_may_unshare() -> None:
    drop = () if os.getuid() else ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}",
                                   "--clear-groups")  # fmt: skip
    if not allowed(*drop, "unshare", "--user", "--net", "true"):
        pytest.skip("no user namespace for ordinary users here")


@pytest.fixture
def as_root() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root")

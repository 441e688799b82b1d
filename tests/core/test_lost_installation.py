"""A process that no longer sees its installation: named errors, and no ModuleNotFoundError."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ephemport

HELD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import ephemport
with ephemport.reserve(), ephemport.reserve(handoff="fd"):
    pass
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.path_importer_cache.clear()
"""
ROOTLESS = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
import ephemport
from ephemport.compat import PortAllocator
ephemport.wait_listening, ephemport.reserve
try:
    ephemport.wait_listening(9, 0)
except ephemport.TakeoverTimeout:
    pass
os.chroot(sys.argv[2])
os.chdir("/")
sys.path_importer_cache.clear()
"""
NOT_BEFORE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import ephemport
os.chroot(sys.argv[2])
os.chdir("/")
sys.path_importer_cache.clear()
"""


@pytest.fixture
def only_root_sees_it(tmp_path: Path) -> Path:
    if os.getuid() != 0:
        pytest.skip("needs two users")
    folder = tmp_path / "roots"
    folder.mkdir(mode=0o700)
    package = Path(ephemport.__file__).parent
    shutil.copytree(package, folder / "ephemport", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(source: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        ("ephemport.reserve(port=80)", "PortUnavailable: cannot reserve port 80 (tcp): Permission"),
        (
            "a = ephemport.reserve(); ephemport.reserve(port=a.port)",
            "PortUnavailable: cannot reserve port",
        ),
        ("ephemport.wait_listening(9, 0)", "TakeoverTimeout: nothing listened on port 9"),
        ("ephemport.diagnose(9); print('well')", "well"),
        ("print(ephemport.listeners() == [], 'well')", "well"),
        # What /proc says is read as text, and a codec is a module as well.
        ("ephemport.reserve(exclude=range(1, 65536))", "PortsExhausted: no port left"),
        ("ephemport.reserve(host='::1', protocol='udp').listen(); print('well')", "well"),
    ],
)
def test_after_another_user(only_root_sees_it: Path, use: str, answer: str) -> None:
    said = run(f"{HELD}{use}", only_root_sees_it)
    assert answer in said
    assert "ModuleNotFoundError" not in said
    assert "LookupError" not in said


@pytest.mark.parametrize(
    "use", ["ephemport.reserve", "ephemport.wait_listening", "ephemport.compat"]
)
def test_what_was_never_asked_for_is_named(
    only_root_sees_it: Path, tmp_path: Path, use: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    said = run(f"{NOT_BEFORE}{use}", only_root_sees_it, empty)
    if use == "ephemport.compat":
        assert said.splitlines()[-1] == (
            "AttributeError: module 'ephemport' has no attribute 'compat'"
        )
    else:
        assert f"EphemportError: cannot use {use}: " in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        (
            "r = ephemport.reserve(); s = r.listen(); "
            "print('found', r.wait_listening(.5, process=os.getpid()))",
            "found an unseen process (uid 0) listens on 127.0.0.1:",
        ),
        (
            "PortAllocator(mode='fixed')",
            "EphemportError: cannot find the modes: ",
        ),
        (
            "ephemport.reserve(protocol='udp', host='::').listen(); print('well')",
            "well",
        ),
        (
            "r = ephemport.reserve(); pid = os.fork(); print(r) if pid == 0 else os.wait()",
            "released here, kept by pid ",
        ),
    ],
    ids=["its own listener", "modes", "UDP on every address", "forked"],
)
def test_without_proc_nothing_false_is_said(
    only_root_sees_it: Path, tmp_path: Path, use: str, answer: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    said = run(f"{ROOTLESS}{use}", only_root_sees_it, empty)
    assert answer in said
    assert "has ended" not in said
    assert "ModuleNotFoundError" not in said.splitlines()[-1]

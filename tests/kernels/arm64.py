"""A root for arm64: packages of Debian, unpacked, and the packages that the tests need.

None of the packages is configured, because their scripts cannot run here: what the tests need of
that is done below. pip chooses the wheels of the other architecture by itself.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernels.debian import CACHE, Suite, cached

SUITE = Suite("trixie", "arm64")
# Where the guest has the sources, and Python with the packages.
CLONE = "/opt/ephemport"
VENV = "/opt/venv"
_PACKAGES = (
    *(
        "bash",
        "coreutils",
        "dash",
        "findutils",
        "gcc",
        "grep",
        "hostname",
        "kmod",
        "libc6-dev",
        "memcached",
    ),
    *(
        "mount",
        "nodejs",
        "perl",
        "procps",
        "python3",
        "redis-server",
        "sed",
        "strace",
        "util-linux",
    ),
)
# Where debian.py's apt does not: pip asks for each of these in turn (PEP 600).
_PLATFORMS = ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64")


def root(clone: Path) -> Path:
    """Return the root, made if the cache has none; `clone` is this machine's clone."""

    def make(folder: Path) -> None:
        SUITE.update()
        SUITE.unpack(SUITE.closure(_PACKAGES), folder)
        _configure(folder)
        _install(folder, clone)

    return cached(CACHE / "root-arm64", make)


def _configure(folder: Path) -> None:
    base = folder / "usr/share/base-passwd"
    for name in ("passwd", "group"):
        (folder / "etc" / name).write_bytes((base / f"{name}.master").read_bytes())
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "mnt"):
        (folder / name).mkdir(exist_ok=True)
    shell = folder / "usr/bin/sh"
    if not shell.exists():
        shell.symlink_to("dash")


def _install(folder: Path, clone: Path) -> None:
    (python,) = (folder / "usr/bin").glob("python3.[0-9]*[0-9]")
    version = python.name.removeprefix("python")
    venv = Path(f"{folder}{VENV}")
    packages = venv / "lib" / python.name / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to(f"/usr/bin/{python.name}")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    with tempfile.TemporaryDirectory() as wheels:
        # A wheel of the project first: pip takes no sources for another platform.
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, str(clone))
        (wheel,) = Path(wheels).glob("ephemport-*.whl")
        platforms = [word for one in _PLATFORMS for word in ("--platform", one)]
        _pip(
            *("install", "--target", str(packages), "--python-version", version, *platforms),
            *("--implementation", "cp", "--only-binary=:all:", f"{wheel}[test]"),
        )
    # The sources of the clone are imported, as after `pip install -e`.
    shutil.rmtree(packages / "ephemport")
    (packages / "ephemport").symlink_to(f"{CLONE}/ephemport")
    for script in (packages / "bin").iterdir():
        if script.is_file():
            _, _, rest = script.read_bytes().partition(b"\n")
            here = venv / "bin" / script.name
            here.write_bytes(f"#!{VENV}/bin/python\n".encode() + rest)
            here.chmod(0o755)


def _pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", *arguments],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
        timeout=600,
    )

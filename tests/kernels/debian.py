"""Kernels and other packages of Debian, unpacked into a cache outside of the clone."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("EPHEMPORT_CI_CACHE", "/var/cache/ephemport-ci"))
MIRROR = os.environ.get("EPHEMPORT_CI_MIRROR", "http://deb.debian.org/debian")

# What a kernel is made of: since 7.0 the modules and the kernel itself are packages of their own.
_PARTS = ("linux-image-", "linux-modules-", "linux-binary-")


class Suite(NamedTuple):
    """A release of Debian for one architecture, read by apt beside what this machine uses."""

    name: str
    architecture: str

    @property
    def folder(self) -> Path:
        return CACHE / "apt" / f"{self.name}-{self.architecture}"

    def apt(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc": f"{self.folder}/etc",
            "Dir::Etc::trusted": "/etc/apt/trusted.gpg",
            "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d",
            "Dir::State": f"{self.folder}/state",
            "Dir::State::status": f"{self.folder}/status",
            "Dir::Cache": f"{self.folder}/cache",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        done = subprocess.run(
            [command, "-q", *(f"-o{name}={value}" for name, value in options.items()), *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode != 0:
            raise OSError(f"{command} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def update(self) -> None:
        for folder in ("etc/preferences.d", "etc/apt.conf.d", "state/lists/partial",
                       "cache/archives/partial"):  # fmt: skip
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "etc/sources.list").write_text(f"deb {MIRROR} {self.name} main\n")
        self.apt("apt-get", "update")

    def depends(self, package: str) -> list[str]:
        lines = self.apt("apt-cache", "depends", package).splitlines()
        return [line.split()[-1] for line in lines if line.split()[0] == "Depends:"]

    def closure(self, packages: Sequence[str]) -> list[str]:
        """Return what apt would install on an empty machine."""
        plan = self.apt("apt-get", "install", "-s", "--no-install-recommends", *packages)
        lines = [line.split() for line in plan.splitlines()]
        return sorted({words[1].partition(":")[0] for words in lines if words[:1] == ["Inst"]})

    def unpack(self, packages: Sequence[str], folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as downloads:
            self.apt("apt-get", "download", *packages, cwd=Path(downloads))
            for archive in sorted(Path(downloads).iterdir()):
                subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)


class Kernel(NamedTuple):
    """A kernel's file, and the folder that has a folder of modules for its release."""

    image: Path
    modules: Path

    @property
    def release(self) -> str:
        return next(self.modules.iterdir()).name


def kernel(suite: Suite) -> Kernel:
    """Return the kernel of a suite, downloaded if the cache has none."""
    return _found(cached(CACHE / "kernels" / f"{suite.name}-{suite.architecture}", _unpack(suite)))


def _unpack(suite: Suite) -> Callable[[Path], None]:
    def unpack(folder: Path) -> None:
        suite.update()
        parts: list[str] = []
        wanted = [f"linux-image-{suite.architecture}"]
        while wanted:
            for package in suite.depends(wanted.pop()):
                if package.startswith(_PARTS) and package not in parts:
                    parts.append(package)
                    wanted.append(package)
        suite.unpack(parts, folder)
        found = _found(folder)
        base = found.modules.parent.parent
        subprocess.run(["/sbin/depmod", "-b", str(base), found.release], check=True)

    return unpack


def _found(folder: Path) -> Kernel:
    for modules in (folder / "lib/modules", folder / "usr/lib/modules"):
        if modules.is_dir():
            images = [*folder.glob("boot/vmlinu*"), *modules.glob("*/vmlinu*")]
            return Kernel(images[0], modules)
    raise FileNotFoundError(f"no kernel in {folder}")


def busybox(architecture: str) -> Path:
    """Return a busybox that needs no library: the guest's first programs."""
    suite = Suite("bookworm", architecture)

    def unpack(folder: Path) -> None:
        suite.update()
        suite.unpack(["busybox-static"], folder)

    return cached(CACHE / f"busybox-{architecture}", unpack) / "bin/busybox"


def cached(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, made if it is not there; two runs at a time make one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
            try:
                new.chmod(0o755)
                make(new)
                new.rename(folder)
            except BaseException:
                shutil.rmtree(new)
                raise
    return folder

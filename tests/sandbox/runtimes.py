"""Real sandboxes: each puts a command into one. Debian has all of them."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import ROOT

# The default profile of Docker 20.10.24, as Debian has it in golang-github-docker-docker-dev.
# Copyright the Moby authors, Apache License 2.0.
DOCKER = Path(__file__).parent / "profiles/docker-20.10.24.json"
_EPERM = 1
# Those that Docker gives a container.
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
]
_MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Runtime(NamedTuple):
    """A program that runs a command in a sandbox.

    program: what must be installed. command: gets a folder of its own, a folder that the sandbox
    must show, and the command. refused and doctor: as of a Condition.
    """

    program: str
    command: Callable[[Path, Path, list[str]], list[str]]
    refused: Mapping[str, str]
    doctor: Mapping[str, tuple[str, str]]


# crun wants to see one kind of cgroups. It makes none, and this machine's own stay as they are.
_OTHER_CGROUPS = """
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup && exec "$@"
"""


def oci(profile: Path, *more: str) -> Callable[[Path, Path, list[str]], list[str]]:
    """A container of crun with an engine's profile, as Docker makes it, of this machine's files.

    more: capabilities beside the default ones (docker run --cap-add).
    """
    capabilities = [*CAPABILITIES, *more]

    def make(folder: Path, shown: Path, command: list[str]) -> list[str]:
        root = folder / "rootfs"
        root.mkdir()
        (folder / "config.json").write_text(
            json.dumps(_config(root, shown, command, profile, capabilities))
        )
        name = f"ephemport-{os.getpid()}-{folder.name}"
        return [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", _OTHER_CGROUPS, "sh"),
            *("crun", "--cgroup-manager=disabled", "--root", str(folder / "state")),
            *("run", "--bundle", str(folder), name),
        ]

    return make


def _config(
    root: Path, shown: Path, command: list[str], profile: Path, capabilities: list[str]
) -> dict[str, Any]:
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": [f"{name}={value}" for name, value in _environment().items()],
            "cwd": str(ROOT),
            "capabilities": dict.fromkeys(sets, capabilities),
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [*_mounts(root, shown)],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            "seccomp": _translated(profile, capabilities),
        },
    }


def _environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"TMPDIR": "/tmp"}


def _mounts(root: Path, shown: Path) -> Iterator[dict[str, Any]]:
    for name in os.listdir("/"):
        path = f"/{name}"
        if os.path.islink(path):
            (root / name).symlink_to(os.readlink(path))
        elif name not in ("proc", "sys", "dev", "tmp") and os.path.isdir(path):
            (root / name).mkdir()
            yield _mount(path, path, "bind", "rbind", "ro")
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir()
    yield _mount("proc", "/proc", "proc")
    yield _mount("tmpfs", "/dev", "tmpfs", "nosuid", "mode=755")
    yield _mount("shm", "/dev/shm", "tmpfs", "nosuid", "mode=1777")
    yield _mount("sysfs", "/sys", "sysfs", "nosuid", "ro")
    yield _mount("tmpfs", "/tmp", "tmpfs", "nosuid", "mode=1777")
    for path in _below_tmp(shown):
        yield _mount(path, path, "bind", "rbind", "ro")


def _below_tmp(shown: Path) -> list[str]:
    """What is needed of the machine's own /tmp, which another one hides there."""
    needed = [str(ROOT), str(shown), sys.prefix, sys.base_prefix]
    # The interpreter of a virtual environment is a link, maybe to another one.
    interpreter = sys.executable
    while os.path.islink(interpreter):
        interpreter = os.path.join(os.path.dirname(interpreter), os.readlink(interpreter))
        needed.append(os.path.dirname(interpreter))
    # An outer folder first: mounted later, it would hide the inner one.
    return sorted({path for path in needed if path.startswith("/tmp/")})


def _mount(source: str, target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"source": source, "destination": target, "type": kind, "options": [*options]}


def _translated(profile: Path, capabilities: list[str]) -> dict[str, Any]:
    """Translate an engine's profile for this machine, as it does it (moby, profiles/seccomp)."""
    given = json.loads(profile.read_text(encoding="utf-8"))
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    kernel = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))

    def fits(one: dict[str, Any]) -> bool:
        return (
            architecture in one.get("arches", [architecture])
            and set(one.get("caps", ())) <= set(capabilities)
            and kernel >= tuple(map(int, one.get("minKernel", "0.0").split(".")))
        )

    calls = []
    for rule in given["syscalls"]:
        excludes = rule.get("excludes") or {}
        if not fits(rule.get("includes") or {}) or (excludes and fits(excludes)):
            continue
        kept = {"names": rule["names"], "action": rule["action"]}
        if rule.get("args"):
            kept["args"] = rule["args"]
        if "errnoRet" in rule:
            kept["errnoRet"] = rule["errnoRet"]
        calls.append(kept)
    return {
        "defaultAction": given["defaultAction"],
        "defaultErrnoRet": given.get("defaultErrnoRet", _EPERM),
        "architectures": [f"SCMP_ARCH_{platform.machine().upper()}"],
        "syscalls": calls,
    }


def bubblewrap(folder: Path, shown: Path, command: list[str]) -> list[str]:
    binds = [word for path in _below_tmp(shown) for word in ("--ro-bind", path, path)]
    return [
        *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *(*binds, "--unshare-all", "--die-with-parent", "--chdir", str(ROOT), *command),
    ]


def as_a_unit(folder: Path, shown: Path, command: list[str]) -> list[str]:
    """As systemd-run -p NoNewPrivileges= -p CapabilityBoundingSet= -p RestrictAddressFamilies=...

    With RestrictAddressFamilies="AF_INET AF_INET6", RestrictNamespaces=yes and the groups of
    SystemCallFilter= that @system-service leaves out, as far as they are known here.
    """
    refusing = [sys.executable, "-m", "tests.sandbox.refusing"]
    return [
        *("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
        *(*refusing, "EAFNOSUPPORT", "AF_UNIX,AF_NETLINK", "--"),
        *(*refusing, "EPERM", "unshare,setns,clone with namespaces,ptrace,process_vm_readv", "--"),
        *command,
    ]

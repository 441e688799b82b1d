"""Change what this process sees of the machine: its mounts, its network, its rights. For good."""

import ctypes
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

# include/uapi/linux/sched.h, mount.h, prctl.h, capability.h, sockios.h
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, 0x8000, 1
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFNETMASK = 0x891C


class Refused(Exception):
    """This machine does not let us make the sandbox."""


def _libc(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise Refused(f"{name}{arguments}: {os.strerror(number)}")


def _unshare(flags: int) -> None:
    """Also for ordinary users, who become root of a user namespace."""
    uid, gid = os.geteuid(), os.getegid()
    _libc("unshare", flags | (_CLONE_NEWUSER if uid else 0))
    if uid:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)


def _mount(source: str, target: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    _libc(
        "mount",
        source.encode(),
        target.encode(),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )


def own_mounts() -> None:
    _unshare(_CLONE_NEWNS)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def proc_that_hides() -> None:
    """Mount /proc so that it shows only processes that this one may trace: those that it starts."""
    own_mounts()
    # Root is in the group that sees all of them otherwise (0).
    _mount("proc", "/proc", "proc", data="hidepid=2,gid=65534")
    without_capabilities()


def no_proc() -> None:
    own_mounts()
    _mount("tmpfs", "/proc", "tmpfs", _MS_RDONLY)


def read_only(*paths: str) -> None:
    own_mounts()
    for path in paths:
        if os.path.isdir(path):
            _mount(path, path, None, _MS_BIND | _MS_REC)
            _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def read_only_root() -> None:
    """Nothing can be written anywhere, as with docker run --read-only without --tmpfs."""
    own_mounts()
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    _libc("syscall", _MOUNT_SETATTR, -100, b"/", _AT_RECURSIVE, attributes, len(attributes))


def no_shared_memory() -> None:
    """Give /dev what every container has, without /dev/shm."""
    own_mounts()
    devices = ("null", "zero", "full", "random", "urandom", "tty")
    kept = {name: os.open(f"/dev/{name}", os.O_PATH) for name in devices}
    _mount("tmpfs", "/dev", "tmpfs")
    for name, descriptor in kept.items():
        Path(f"/dev/{name}").touch()
        _mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", None, _MS_BIND)
        os.close(descriptor)


def hide(*programs: str) -> None:
    """Make programs such that nobody may execute them."""
    own_mounts()
    for program in programs:
        if os.path.exists(program):
            _mount("/dev/null", os.path.realpath(program), None, _MS_BIND)


def _own_network(up: bool) -> None:
    from ephemport._kernel.namespaces import _raise_loopback

    _unshare(_CLONE_NEWNET)
    if up:
        _raise_loopback()


def no_ipv6() -> None:
    _own_network(up=True)
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")


def one_loopback_address() -> None:
    """127.0.0.1/32: there is no 127.0.0.2."""
    import fcntl
    import socket

    _own_network(up=True)
    mask = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, b"\xff" * 4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFNETMASK, mask)


def no_loopback() -> None:
    """The loopback interface is down: this machine has no address at all."""
    _own_network(up=False)


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def without_capabilities() -> None:
    """As docker run --cap-drop ALL."""
    library = ctypes.CDLL(None, use_errno=True)
    for number in range(64):
        library.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _libc("capset", header, bytes(24))


Enter = Callable[[], None]

"""A network namespace for the calling process (network_namespaces(7), user_namespaces(7))."""

import errno
import os

from ephemport._kernel.libc import libc

__all__ = ["enter_new_network", "may_enter_without_user_namespace", "set_ephemeral_range"]

# include/uapi/linux/sched.h, capability.h, if.h, sockios.h
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_IFF_UP = 1
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914

_WHO_REFUSES_A_NAMESPACE = {
    errno.EPERM: (
        "commonly refused by kernel.unprivileged_userns_clone=0 (Debian), "
        "kernel.apparmor_restrict_unprivileged_userns=1 (Ubuntu), "
        "or a container's seccomp profile or missing CAP_SYS_ADMIN"
    ),
    errno.EACCES: (
        "commonly refused by kernel.apparmor_restrict_unprivileged_userns=1 (Ubuntu), SELinux, "
        "or because the process changed its user id since its last exec()"
    ),
    errno.ENOSPC: "user.max_user_namespaces or user.max_net_namespaces is used up, or set to 0",
    errno.EUSERS: "user namespaces are nested too deep",
    errno.EINVAL: (
        "a user namespace can only be entered by a process with a single thread, "
        "and needs a kernel with CONFIG_USER_NS and CONFIG_NET_NS"
    ),
    errno.ENOSYS: "commonly refused by a container's seccomp profile",
}

_NOT_THE_OWNER = (
    "needs CAP_NET_ADMIN over the network namespace; an ordinary user has it only "
    "in a namespace of their own, until the next exec()"
)
_WHO_REFUSES_A_SETTING = {
    errno.EPERM: _NOT_THE_OWNER,
    errno.EACCES: _NOT_THE_OWNER,
    errno.EROFS: "/proc/sys is mounted read-only, as containers do",
    errno.EINVAL: (
        "high is below low, or the range is not within net.ipv4.ip_unprivileged_port_start to 65535"
    ),
}


def enter_new_network(*, user_namespace: bool | None = None) -> None:
    """Move the calling process into a network of its own: a loopback that is up, nothing else.

    Processes that it starts from then on share that network; it ends with the last of them. Open
    sockets and other threads stay in the old one.

    With `user_namespace` the process first enters a user namespace, which has only its own user
    and group id. An ordinary user needs that, and only a single-threaded process can do it. There
    the process has all capabilities until it calls exec(), then none (root keeps them). None: with
    one, unless the process has CAP_SYS_ADMIN and CAP_NET_ADMIN.

    The settings under /proc/sys/net have the kernel's defaults there, also the ephemeral range.

    Raises OSError, whose message says what was refused and what commonly refuses it. The process
    may then be left half-way, with its loopback down or its ids not mapped, and should exit.
    """
    if user_namespace is None:
        user_namespace = not may_enter_without_user_namespace()
    # Read before: in a user namespace without maps every user is the overflow user 65534.
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWNET | (_CLONE_NEWUSER if user_namespace else 0))
    if user_namespace:
        # A process without privilege must give up setgroups() before it can map a group.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    _raise_loopback()


def may_enter_without_user_namespace() -> bool:
    """Whether this process needs no user namespace: root has CAP_SYS_ADMIN and CAP_NET_ADMIN."""
    return _has_capabilities(_CAP_SYS_ADMIN, _CAP_NET_ADMIN)


def set_ephemeral_range(low: int, high: int) -> None:
    """Set net.ipv4.ip_local_port_range of the current network namespace, both ends included.

    Needs CAP_NET_ADMIN over it: an ordinary user has it after `enter_new_network`, until exec().

    Raises OSError where it is refused, and for a range that the kernel does not take (high below
    low, or below net.ipv4.ip_unprivileged_port_start).
    """
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    _write(path, f"{low} {high}", _WHO_REFUSES_A_SETTING)


def _has_capabilities(*numbers: int) -> bool:
    import ctypes
    import struct

    # Not from /proc, which may be out of sight. Twice: effective, permitted, inheritable.
    data = ctypes.create_string_buffer(24)
    if libc().capget(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), data) != 0:
        return False
    low, _, _, high, _, _ = struct.unpack("6I", data.raw)
    effective = high << 32 | low
    return all(effective >> number & 1 for number in numbers)


def _unshare(flags: int) -> None:
    import ctypes

    if libc().unshare(flags) != 0:  # Python has os.unshare() only from 3.12 on.
        names = "CLONE_NEWNET" + ("|CLONE_NEWUSER" if flags & _CLONE_NEWUSER else "")
        raise _refusal(ctypes.get_errno(), f"unshare({names})")


def _raise_loopback() -> None:
    import fcntl
    import socket
    import struct

    ifreq = struct.Struct("16sH22x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, ifreq.pack(b"lo", 0))
            flags = ifreq.unpack(answer)[1] | _IFF_UP
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, ifreq.pack(b"lo", flags))
        except OSError as error:
            raise _refusal(error.errno, "bringing the loopback interface up") from error


def _write(path: str, text: str, who_refuses: dict[int, str] = _WHO_REFUSES_A_NAMESPACE) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise _refusal(error.errno, f"writing {text!r} to {path}", who_refuses) from error


def _refusal(
    number: int | None, action: str, who_refuses: dict[int, str] = _WHO_REFUSES_A_NAMESPACE
) -> OSError:
    number = number or 0
    reason = who_refuses.get(number)
    return OSError(number, f"{action}: {os.strerror(number)}" + (f" ({reason})" if reason else ""))

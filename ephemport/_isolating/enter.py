"""Entering: a network of its own for the calling thread, and for what it starts.

What `pytest --ephemport-isolate` and `ephemport run --isolate` have in common. Inside are the
loopback (127.0.0.1 and ::1), the addresses that the machine has itself, and its settings for port
numbers; the same numbers as outside are free there. There is no way to any other host, and none to
what listens outside, on this machine's own 127.0.0.1 either.

The network ends with its last process; nobody has to clean up after it.
"""

import errno
import os
import sys

from ephemport._errors import EphemportError
from ephemport._isolating.along import (
    addresses_of_this_network,
    setting,
    settings_of_this_network,
)
from ephemport._kernel.namespaces import enter_new_network

# include/uapi/linux/capability.h, prctl.h
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE = 4


def not_on_this_system() -> str | None:
    """Why this operating system has no networks to enter, in one line; None on Linux."""
    if sys.platform == "linux":
        return None
    return f"network namespaces are Linux's, and this is {sys.platform}; run it in a container"


def enter() -> None:
    """Move the calling thread, and what it starts from now on, into a network of its own.

    With CAP_SYS_ADMIN and CAP_NET_ADMIN (root has them) that is all. Others get a user namespace
    with it, in which they keep their user and group id, and no more rights than they had; that
    takes a process with a single thread. Sockets that are open stay where they are.

    Raises EphemportError: one line that says why not, and what would allow it.
    """
    if (reason := not_on_this_system()) is not None:
        raise EphemportError(f"cannot isolate: {reason}")
    restore_settings, restore_addresses = settings_of_this_network(), addresses_of_this_network()
    owner = os.readlink("/proc/thread-self/ns/user")
    try:
        enter_new_network()
    except OSError as error:
        raise EphemportError(f"cannot isolate: {error}. {_what_would_allow(error)}") from error
    restore_settings()
    restore_addresses()
    if os.readlink("/proc/thread-self/ns/user") != owner and os.geteuid() != 0:
        _drop_capabilities()


def _drop_capabilities() -> None:
    """Give up what entering a user namespace gave: a file of mode 0 is still the user's own there.

    exec() would do it. Without it, a test that expects PermissionError would not get one.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise EphemportError(f"cannot isolate: capset(): {os.strerror(number)}")
    # Otherwise /proc/self may belong to root now, and nothing below it could be opened.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _what_would_allow(error: OSError) -> str:
    """The setting that stands in the way on this machine, as a command; else the usual ones."""
    if error.errno == errno.ENOSPC:
        return (
            "What would allow it: sysctl -w user.max_user_namespaces=10000 "
            "user.max_net_namespaces=10000"
        )
    threads = len(os.listdir("/proc/self/task"))
    if error.errno == errno.EINVAL and threads > 1:
        return f"This process has {threads} threads already: start it with ephemport run --isolate"
    for name, refusing, allowing in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
        ("user/max_net_namespaces", "0", "10000"),
    ):
        if setting(f"/proc/sys/{name}") == refusing:
            return f"What would allow it: sysctl -w {name.replace('/', '.')}={allowing}"
    return (
        "What would allow it: root with CAP_SYS_ADMIN and CAP_NET_ADMIN; in a container "
        "--cap-add SYS_ADMIN --cap-add NET_ADMIN, or --security-opt seccomp=unconfined"
    )

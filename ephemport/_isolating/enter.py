"""Entering: a network of its own for the calling thread, and for what it starts.

`pytest --ephemport-isolate` and `ephemport run --isolate` share this. The new network has the
loopback (127.0.0.1 and ::1), the machine's own addresses, and its settings for ports. Every port is
free there, also one that is taken outside. No other host can be reached from it, and no server
outside, not even one on this machine's own 127.0.0.1.

The network ends with its last process, without cleaning up.
"""

import errno
import os
import sys
from contextlib import suppress

from ephemport._errors import EphemportError
from ephemport._isolating.along import (
    addresses_of_this_network,
    setting,
    settings_of_this_network,
)
from ephemport._kernel.namespaces import enter_new_network
from ephemport._kernel.processes import thread_count

# include/uapi/linux/capability.h, prctl.h
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE = 4


def not_on_this_system() -> str | None:
    """Return why this system has no networks to enter, in one line; None on Linux."""
    if sys.platform == "linux":
        return None
    return f"network namespaces are Linux's, and this is {sys.platform}; run it in a container"


def enter() -> None:
    """Move the calling thread, and what it starts from now on, into a network of its own.

    With CAP_SYS_ADMIN and CAP_NET_ADMIN (root has them) that is all. Others also get a user
    namespace, which only a single-threaded process can enter. They keep their user and group id in
    it, and get no more rights. Open sockets stay in the old network.

    Raises EphemportError: one line that says why not, and what would allow it.
    """
    if (reason := not_on_this_system()) is not None:
        raise EphemportError(f"cannot isolate: {reason}")
    restore_settings, restore_addresses = settings_of_this_network(), addresses_of_this_network()
    owner = _user_namespace()
    try:
        enter_new_network()
    except OSError as error:
        raise EphemportError(f"cannot isolate: {error}. {_what_would_allow(error)}") from error
    restore_settings()
    restore_addresses()
    if _user_namespace() != owner and os.geteuid() != 0:
        _drop_capabilities()


def _user_namespace() -> int | None:
    with suppress(OSError):
        return os.stat("/proc/thread-self/ns/user").st_ino
    return None


def _drop_capabilities() -> None:
    """Give up the rights of a new user namespace, with which a file of mode 0 can be opened.

    exec() would drop them too. With them, a test that expects PermissionError would not get one.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise EphemportError(f"cannot isolate: capset(): {os.strerror(number)}")
    # Otherwise /proc/self may belong to root now, and no file below it could be opened.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _what_would_allow(error: OSError) -> str:
    """Return the setting that is in the way here, as a command; else the usual ones."""
    if error.errno == errno.ENOSPC:
        return (
            "What would allow it: sysctl -w user.max_user_namespaces=10000 "
            "user.max_net_namespaces=10000"
        )
    threads = thread_count()
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

"""The seccomp filter, the machines that it supports, and what refuses it."""

import errno
import os
import struct
import sys
from typing import NamedTuple

from ephemport import _spelling
from ephemport._errors import EphemportError
from ephemport._kernel.libc import libc, syscall

# include/uapi/linux/prctl.h, seccomp.h, filter.h
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_FLAG_SPEC_ALLOW = 1 << 2
_FLAG_NEW_LISTENER = 1 << 3
_FLAG_WAIT_KILLABLE_RECV = 1 << 5
_RET_USER_NOTIF = 0x7FC00000
_RET_ALLOW = 0x7FFF0000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_OF_NR, _OFFSET_OF_ARCH = 0, 4

_WHO_REFUSES = {
    errno.EPERM: "commonly refused by a container's seccomp profile",
    errno.ENOSYS: "commonly refused by a container's seccomp profile, or not in this kernel",
    errno.EINVAL: "this kernel has no SECCOMP_FILTER_FLAG_NEW_LISTENER",
    errno.EBUSY: (
        "this process is itself below a seccomp listener, of another assisted take-over or of its "
        "container (LXD, Sysbox), and the kernel allows only one"
    ),
}


class Machine(NamedTuple):
    """The numbers that differ from one architecture to the next."""

    audit_arch: int  # include/uapi/linux/audit.h
    bind: int
    seccomp: int
    gettid: int


_MACHINES = {
    "x86_64": Machine(0xC000003E, bind=49, seccomp=317, gettid=186),
    "aarch64": Machine(0xC00000B7, bind=200, seccomp=277, gettid=178),
}


def this_machine() -> Machine:
    """Return this machine. Raises EphemportError for one that is not supported."""
    try:
        system = os.uname()
    except OSError as error:
        raise refused("uname()", error.errno or 0) from error
    # 32-bit programs make other system calls, on the same machine.
    machine = _MACHINES.get(system.machine) if sys.maxsize > 1 << 32 else None
    if machine is None:
        raise impossible(f"it supports 64-bit x86-64 and arm64, this is {system.machine}")
    major, minor, *_ = system.release.split(".")
    if (int(major), int(minor.partition("-")[0])) < (5, 9):
        raise impossible(f"it needs Linux 5.9, this is {system.release}")
    return machine


def install_filter() -> int:
    """Put the calling thread under the filter and return the listener. Raises EphemportError."""
    import ctypes

    machine = this_machine()
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [
            (_LOAD_WORD, 0, 0, _OFFSET_OF_ARCH),
            (_JUMP_IF_EQUAL, 0, 2, machine.audit_arch),
            (_LOAD_WORD, 0, 0, _OFFSET_OF_NR),
            # The system call numbers of x32 have one more bit, so this leaves them out.
            (_JUMP_IF_EQUAL, 1, 0, machine.bind),
            (_RETURN, 0, 0, _RET_ALLOW),
            (_RETURN, 0, 0, _RET_USER_NOTIF),
        ]
    )
    code = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    # Without SPEC_ALLOW, kernels before 5.16 slow down everything the child does (SSBD).
    flags = _FLAG_NEW_LISTENER | _FLAG_SPEC_ALLOW
    if libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise refused("prctl(PR_SET_NO_NEW_PRIVS)", ctypes.get_errno())
    # A UDP bind() that was made from here must not be restarted by a signal: WAIT_KILLABLE_RECV.
    for more in (_FLAG_WAIT_KILLABLE_RECV, 0):
        try:
            return syscall(
                machine.seccomp, _SECCOMP_SET_MODE_FILTER, flags | more, ctypes.addressof(fprog)
            )
        except OSError as error:
            refusal = error.errno or 0
            if refusal != errno.EINVAL:
                break
    raise refused("seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)", refusal)


def impossible(why: str) -> EphemportError:
    """Return an error that says what else can be done."""
    return EphemportError(
        f"assisted take-over does not work here: {why}. For a server that sets neither "
        f"SO_REUSEADDR nor SO_REUSEPORT use {_spelling.SHADOW}, or, if it takes a listening "
        f"socket, {_spelling.ACTIVATE}"
    )


def refused(action: str, number: int) -> EphemportError:
    """Return the error for an errno of the kernel."""
    reason = _WHO_REFUSES.get(number)
    return impossible(f"{action}: {os.strerror(number)}" + (f" ({reason})" if reason else ""))


def cannot_look_into_a_child(action: str, error: OSError) -> EphemportError:
    """Return the error for an action that needs the right to trace a child."""
    if error.errno != errno.EPERM:
        return refused(f"{action} on a child", error.errno or 0)
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="utf-8") as file:
            scope = file.read().strip()
    except OSError:
        scope = "absent"
    return impossible(
        f"{action} on a child: {os.strerror(errno.EPERM)} (commonly refused by a container's "
        "seccomp profile, which SYS_PTRACE among its capabilities may open, by SELinux's "
        f"deny_ptrace, or by kernel.yama.ptrace_scope above 1, which is {scope} here)"
    )

"""Refuse system calls as a sandbox does: a seccomp filter that answers them with an error.

python -m tests.sandbox.refusing ENOSYS pidfd_open,AF_NETLINK -- ephemport doctor
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tests.sandbox.numbers import NUMBERS


class Argument(NamedTuple):
    """What the argument at `position` of a call is, or, for `bits`, has one of."""

    position: int
    value: int
    bits: bool = False


class Call(NamedTuple):
    """A system call; with `only`, just that with all of these arguments."""

    name: str
    only: tuple[Argument, ...] = ()

    @property
    def number(self) -> int | None:
        """Its number on this machine, None where the machine does not have it."""
        return NUMBERS[self.name][("x86_64", "aarch64").index(os.uname().machine)]


# include/uapi/linux/audit.h, filter.h, prctl.h, seccomp.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NR, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_SECCOMP_MODE_FILTER = 2
# All of include/uapi/linux/sched.h that makes a namespace.
_NAMESPACES = 0x7E020000
_SO_COOKIE, _SO_NETNS_COOKIE, _SO_DOMAIN, _SO_PROTOCOL = 57, 71, 39, 38
_P_PIDFD = 3


def _option(call: str, level: int, name: int) -> Call:
    return Call(call, (Argument(1, level), Argument(2, name)))


# Calls with certain arguments, by the name of what they are refused for.
PARTS: dict[str, Call] = {
    "AF_NETLINK": Call("socket", (Argument(0, socket.AF_NETLINK),)),
    "AF_INET6": Call("socket", (Argument(0, socket.AF_INET6),)),
    "AF_UNIX": Call("socket", (Argument(0, socket.AF_UNIX),)),
    "clone with namespaces": Call("clone", (Argument(0, _NAMESPACES, bits=True),)),
    "PR_SET_SECCOMP": Call("prctl", (Argument(0, _PR_SET_SECCOMP),)),
    "PR_SET_NO_NEW_PRIVS": Call("prctl", (Argument(0, _PR_SET_NO_NEW_PRIVS),)),
    "MAP_SHARED": Call("mmap", (Argument(3, 1, bits=True),)),
    "F_DUPFD_CLOEXEC": Call("fcntl", (Argument(1, 1030),)),
    "P_PIDFD": Call("waitid", (Argument(0, _P_PIDFD),)),
    "PIDFD_THREAD": Call("pidfd_open", (Argument(1, os.O_EXCL),)),
    "SO_COOKIE": _option("getsockopt", socket.SOL_SOCKET, _SO_COOKIE),
    "SO_NETNS_COOKIE": _option("getsockopt", socket.SOL_SOCKET, _SO_NETNS_COOKIE),
    "SO_DOMAIN": _option("getsockopt", socket.SOL_SOCKET, _SO_DOMAIN),
    "SO_PROTOCOL": _option("getsockopt", socket.SOL_SOCKET, _SO_PROTOCOL),
    "SO_TYPE": _option("getsockopt", socket.SOL_SOCKET, socket.SO_TYPE),
    "SO_PEERCRED": _option("getsockopt", socket.SOL_SOCKET, socket.SO_PEERCRED),
    "SO_REUSEADDR": _option("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEADDR),
    "SO_REUSEPORT": _option("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEPORT),
    "SO_RCVBUF": _option("setsockopt", socket.SOL_SOCKET, socket.SO_RCVBUF),
    "IPV6_V6ONLY": _option("setsockopt", socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
}


def call_named(name: str) -> Call:
    """Return one of PARTS, or the system call of this name."""
    return PARTS.get(name) or Call(name)


def refuse(*calls: Call, error: int = errno.EPERM) -> None:
    """Answer these calls with `error` from now on, in this thread and in all that it starts."""
    program = _program(calls, error)
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(filter_)), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl()")


def _program(calls: Sequence[Call], error: int) -> bytes:
    code = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[os.uname().machine]),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for call in calls:
        if call.number is None:
            continue
        # From each test that fails, go on behind the block of this call.
        length = 3 + 2 * len(call.only)
        code.append((_LOAD_WORD, 0, 0, _NR))
        code.append((_JUMP_IF_EQUAL, 0, length - 2, call.number))
        for number, one in enumerate(call.only, 1):
            jump = _JUMP_IF_BITS if one.bits else _JUMP_IF_EQUAL
            code.append((_LOAD_WORD, 0, 0, _ARGUMENTS + 8 * one.position))
            code.append((jump, 0, length - 2 - 2 * number, one.value))
        code.append((_RETURN, 0, 0, _ERRNO | error))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def main() -> None:
    error, names, _, *command = sys.argv[1:]
    refuse(*map(call_named, names.split(",")), error=getattr(errno, error))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()

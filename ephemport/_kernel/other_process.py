"""What is done with another process: reading its memory, changing its socket.

Both ask for the right to trace it, PTRACE_MODE_ATTACH_REALCREDS in ptrace(2). A process has it over
its children unless they changed their user id or the machine is set up more strictly.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SO_REUSEADDR, SOL_SOCKET

from ephemport._kernel.libc import libc, syscall
from ephemport._kernel.processes import thread_group

_PIDFD_OPEN = 434  # the same everywhere
_PIDFD_GETFD = 438
_PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h
_SO_NETNS_COOKIE = 71


@contextmanager
def duplicate(tid: int, descriptor: int) -> Iterator[int]:
    """A descriptor of another process, duplicated. Raises OSError.

    No socket object is made of it: that one would set O_NONBLOCK, which both processes share,
    wherever socket.setdefaulttimeout() was called.
    """
    try:
        pidfd = syscall(_PIDFD_OPEN, tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 6.9: the process, whose first thread has nearly always the same descriptors.
        pidfd = syscall(_PIDFD_OPEN, thread_group(tid) or 0, 0)
    try:
        fd = syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    try:
        yield fd
    finally:
        os.close(fd)


def read_memory(tid: int, pointer: int, length: int) -> bytes:
    """What stands at an address of another process, all of it. Raises OSError."""
    import ctypes

    buffer = ctypes.create_string_buffer(length)
    iovec = ctypes.c_size_t * 2
    here, there = iovec(ctypes.addressof(buffer), length), iovec(pointer, length)
    count = libc().process_vm_readv(tid, here, 1, there, 1, 0)
    if count < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv()")
    if count < length:
        raise OSError(errno.EFAULT, "process_vm_readv()")
    return buffer.raw


def socket_option(fd: int, name: int) -> int:
    """An option of the level SOL_SOCKET. Raises OSError, ENOTSOCK for what is no socket."""
    import ctypes

    value, size = ctypes.c_uint64(0), ctypes.c_uint(8)
    if libc().getsockopt(fd, SOL_SOCKET, name, ctypes.byref(value), ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt()")
    return int.from_bytes(bytes(value)[: size.value], sys.byteorder)


def network(fd: int) -> int | None:
    """A number for the network namespace of a socket, None where the kernel tells none."""
    try:
        return socket_option(fd, _SO_NETNS_COOKIE)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # before Linux 5.14
            raise
        return None


def set_reuse_address(fd: int, value: int) -> None:
    """Set SO_REUSEADDR. Raises OSError."""
    import ctypes

    option = ctypes.c_int(value)
    if libc().setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ctypes.byref(option), 4) != 0:
        raise OSError(ctypes.get_errno(), "setsockopt(SO_REUSEADDR)")


def bind(fd: int, address: bytes) -> int:
    """Bind to an address as the kernel reads it. Returns 0 or the error number."""
    import ctypes

    return ctypes.get_errno() if libc().bind(fd, address, len(address)) != 0 else 0

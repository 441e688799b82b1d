"""Access to another process: reading its memory, changing its socket.

Both need the right to trace it, PTRACE_MODE_ATTACH_REALCREDS in ptrace(2). A process has it over
its children, unless they changed their user id or the machine has stricter settings.
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
    """Yield a duplicate of another process's descriptor. Raises OSError.

    It is not a socket object. Where socket.setdefaulttimeout() was called, a socket object would
    set O_NONBLOCK, which both processes share.
    """
    pidfd = open_process(tid)
    try:
        fd = syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    try:
        yield fd
    finally:
        os.close(fd)


def open_process(tid: int) -> int:
    """Return a pidfd of the process that thread `tid` belongs to. Raises OSError."""
    try:
        return syscall(_PIDFD_OPEN, tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.9: by the process; its first thread nearly always has the same descriptors.
    return syscall(_PIDFD_OPEN, thread_group(tid) or 0, 0)


def socket_options(pidfd: int, descriptor: int, *names: int) -> list[int]:
    """Return options of the level SOL_SOCKET of a process's socket. Raises OSError."""
    fd = syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    try:
        return [socket_option(fd, name) for name in names]
    finally:
        os.close(fd)


def read_memory(tid: int, pointer: int, length: int) -> bytes:
    """Return `length` bytes of another process's memory, all or none. Raises OSError."""
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
    """Return an option of the level SOL_SOCKET. Raises OSError, ENOTSOCK for another file."""
    import ctypes

    value, size = ctypes.c_uint64(0), ctypes.c_uint(8)
    if libc().getsockopt(fd, SOL_SOCKET, name, ctypes.byref(value), ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt()")
    return int.from_bytes(bytes(value)[: size.value], sys.byteorder)


def network(fd: int) -> int | None:
    """Return the cookie of a socket's network namespace; None: the kernel has none, or refuses."""
    try:
        return socket_option(fd, _SO_NETNS_COOKIE)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
        return None  # ENOPROTOOPT: Linux before 5.14


def set_reuse_address(fd: int, value: int) -> None:
    """Set SO_REUSEADDR. Raises OSError."""
    import ctypes

    option = ctypes.c_int(value)
    if libc().setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ctypes.byref(option), 4) != 0:
        raise OSError(ctypes.get_errno(), "setsockopt(SO_REUSEADDR)")


def bind(fd: int, address: bytes) -> int:
    """Bind to an address in the kernel's form. Returns 0 or the errno."""
    import ctypes

    return ctypes.get_errno() if libc().bind(fd, address, len(address)) != 0 else 0

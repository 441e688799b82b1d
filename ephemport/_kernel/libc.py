"""The C library, for the system calls that Python does not have."""

import errno
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes


@cache
def libc() -> "ctypes.CDLL":
    """Return the library; `ctypes.get_errno()` has its errno. Other threads run during calls."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    library.process_vm_readv.restype = ctypes.c_ssize_t
    library.process_vm_readv.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]
    library.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return library


def syscall(number: int, *arguments: int) -> int:
    """Make the system call of this number. Raises OSError, also where ctypes cannot be had."""
    try:
        import ctypes
    except ImportError as error:  # after a chroot(), or as a user who may not read it
        raise OSError(errno.ELIBACC, f"ctypes cannot be imported: {error}") from error

    result = libc().syscall(*map(ctypes.c_long, (number, *arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return int(result)

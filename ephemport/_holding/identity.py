"""The identity of a socket. The number of its descriptor is none: other files get it later."""

import errno
import os
import sys
from contextlib import suppress
from operator import methodcaller
from socket import SOL_SOCKET, SocketType

# The kernel gives each socket an identity that it never gives again until the next boot (SO_COOKIE
# in include/uapi/asm-generic/socket.h, Linux 4.12).
_SO_COOKIE = 57
cookie_of = methodcaller("getsockopt", SOL_SOCKET, _SO_COOKIE, 8)

Identity = bytes | tuple[int, int]


def identity_of(sock: SocketType) -> Identity:
    """An identity that no other socket and no other file has. Raises OSError: it is closed."""
    try:
        cookie: bytes = cookie_of(sock)
        return cookie
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
    # Linux before 4.12, gVisor, or no socket any more.
    found = os.fstat(sock.fileno())
    return found.st_dev, found.st_ino


def is_still(sock: SocketType, identity: Identity) -> bool:
    """Whether a socket's descriptor is still the same socket."""
    try:
        return identity_of(sock) == identity
    except OSError:
        return False


def close_unless_lost(sock: SocketType, identity: Identity) -> None:
    """Close a socket, but not another file that has its descriptor by now."""
    if is_still(sock, identity):
        sock.close()
    else:
        sock.detach()


def close_by_identity(identity: Identity) -> None:
    """Close a socket that another thread of the parent was closing during the fork.

    The socket object had no descriptor any more, but the kernel had not closed the socket.
    """
    from ephemport._kernel.other_process import socket_option

    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            found = os.fstat(descriptor)
            known: Identity = (found.st_dev, found.st_ino)
            if isinstance(identity, bytes):
                cookie = socket_option(descriptor, _SO_COOKIE)
                known = cookie.to_bytes(len(identity), sys.byteorder)
            if known == identity:
                os.close(descriptor)

"""The Unix sockets (unix(7)) that are bound in the current network namespace.

There are two readers, as in `sockets`. `read_netlink` asks sock_diag(7), which also names the file
of each socket (unix_diag, Linux 3.3). `read_proc_net` parses /proc/net/unix, which has names only.
"""

import errno
import os
import socket
import struct
from enum import IntEnum
from typing import NamedTuple

from ephemport._kernel import sockets

# Kept at import: tests patch socket.socket, and netlink must still answer.
_Socket = socket.socket

__all__ = ["UnixSocket", "UnixState", "read_netlink", "read_proc_net", "read_unix_sockets"]


class UnixState(IntEnum):
    """A Unix socket's state, in the kernel's numbers (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    CLOSE = 7
    LISTEN = 10


class UnixSocket(NamedTuple):
    """One bound Unix socket.

    `name` is what was bound, as bytes: a path as it was written, relative or not, or an abstract
    name, which begins with a zero byte. `inode` is the number in ``socket:[...]`` under
    ``/proc/PID/fd``. `file` is the device and the inode of the socket's file, as in
    `os.stat_result`; None for an abstract name, and where the kernel does not say.
    """

    name: bytes
    state: UnixState
    inode: int
    file: tuple[int, int] | None = None


_STATES = {int(state): state for state in UnixState}

# include/uapi/linux/unix_diag.h
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, pad, states, inode, show, cookie
_MESSAGE = struct.Struct("=BBBxIII")  # family, type, state, inode, cookie
_SHOW_NAME, _SHOW_VFS = 1, 2
_DIAG_NAME, _DIAG_VFS = 0, 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ERRNO = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_NLM_F_DUMP_REQUEST = 0x301
_NLMSG_DONE = 3
_RECEIVE_BYTES = 1 << 16
# How the kernel packs a device (include/linux/kdev_t.h).
_MINOR_BITS = 20
# /proc/net/unix: __SO_ACCEPTCON (include/uapi/linux/net.h), and socket states of its own.
_ACCEPTS = 0x10000
_CONNECTED = 3


def read_unix_sockets() -> list[UnixSocket]:
    """Return the bound Unix sockets. Raises OSError where neither source can be read."""
    try:
        return read_netlink()
    except OSError:
        return read_proc_net()


def read_netlink() -> list[UnixSocket]:
    """As `read_unix_sockets`, through NETLINK_SOCK_DIAG only. Raises OSError where it is refused.

    ENOENT means that the kernel has no unix_diag.
    """
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_VFS, 0, 0)
    header = _HEADER.pack(16 + len(body), sockets.SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0)
    found: list[UnixSocket] = []
    with _Socket(socket.AF_NETLINK, socket.SOCK_RAW, sockets.NETLINK_SOCK_DIAG) as diag:
        diag.send(header + body)
        while _parse(diag.recv(_RECEIVE_BYTES), found):
            pass
    return found


def _parse(data: bytes, found: list[UnixSocket]) -> bool:
    """Append what one datagram holds; return whether more follow."""
    offset = 0
    while offset < len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if kind in (_NLMSG_DONE, sockets.NLMSG_ERROR):
            failure = -_ERRNO.unpack_from(data, offset + 16)[0]
            if failure > 0:
                raise OSError(failure, f"sock_diag: {errno.errorcode.get(failure, failure)}")
            return False
        _, _, state, inode, _, _ = _MESSAGE.unpack_from(data, offset + 16)
        name, file = _attributes(data, offset + 16 + _MESSAGE.size, offset + length)
        if name:
            found.append(UnixSocket(name, _STATES.get(state, UnixState.CLOSE), inode, file))
        offset += (length + 3) & ~3
    return True


def _attributes(data: bytes, offset: int, end: int) -> tuple[bytes, tuple[int, int] | None]:
    name, file = b"", None
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        value = data[offset + 4 : offset + length]
        if kind == _DIAG_NAME:
            name = value if value.startswith(b"\0") else value.rstrip(b"\0")
        elif kind == _DIAG_VFS:
            inode, device = struct.unpack("=II", value)
            major, minor = device >> _MINOR_BITS, device & ((1 << _MINOR_BITS) - 1)
            file = (os.makedev(major, minor), inode)
        offset += (length + 3) & ~3
    return name, file


def read_proc_net(process: int | str = "thread-self") -> list[UnixSocket]:
    """As `read_unix_sockets`, from /proc/PID/net/unix only, in that process's network namespace.

    It names no files. In an abstract name the kernel writes a zero byte as "@", and nothing
    distinguishes the two. Raises OSError where it cannot be read.
    """
    found = []
    with open(f"/proc/{process}/net/unix", "rb") as file:
        lines = file.read().splitlines()
    for line in lines[1:]:
        _, _, _, flags, _, state, inode, *rest = line.split(None, 7)
        if rest:
            name = b"\0" + rest[0][1:] if rest[0].startswith(b"@") else rest[0]
            if int(flags, 16) & _ACCEPTS:
                known = UnixState.LISTEN
            else:
                known = UnixState.ESTABLISHED if int(state) == _CONNECTED else UnixState.CLOSE
            found.append(UnixSocket(name, known, int(inode)))
    return found

"""Answers to the reported bind() calls: one thread for each listener."""

import errno
import fcntl
import os
import select
import struct
import sys
from queue import SimpleQueue
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SO_TYPE, SOCK_DGRAM, SOCK_STREAM
from typing import NamedTuple

from ephemport._holding.hold import Hold
from ephemport._kernel.descriptors import Descriptor
from ephemport._kernel.fork import lock
from ephemport._kernel.other_process import (
    bind,
    duplicate,
    network,
    read_memory,
    set_reuse_address,
    socket_option,
)

# include/uapi/linux/seccomp.h, asm-generic/socket.h, in6.h
_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_NOTIF_ID_VALID = 0x40082102
_NOTIF = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
# More than any kernel's struct: SECCOMP_GET_NOTIF_SIZES warns that they may grow.
_BUFFER_SIZE = 512

_SO_PROTOCOL = 38
_SO_DOMAIN = 39
_SMALLEST_ADDRESS = {int(AF_INET): 16, int(AF_INET6): 24}  # 24: SIN6_LEN_RFC2133, without the scope
_SOCKADDR_STORAGE_SIZE = 128
# IPPROTO_TCP, IPPROTO_MPTCP (shares the ports of TCP), IPPROTO_UDP. Not SCTP, not UDP-Lite.
_ASSISTED = {(SOCK_STREAM, 6), (SOCK_STREAM, 262), (SOCK_DGRAM, 17)}

# The listeners of this process. Changes need `lock`, so that a forked child knows its copies.
listeners: set[Descriptor] = set()


class _BindCall(NamedTuple):
    notification: int
    tid: int
    fd: int
    pointer: int
    length: int


class _Answer(NamedTuple):
    error: int
    flags: int


_CONTINUE = _Answer(0, 1)  # SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel makes the call as it was


def supervise(inbox: "SimpleQueue[Descriptor | None]", holds: tuple[Hold, ...]) -> None:
    """Answer what the listener from `inbox` reports, until no process is left below its filter.

    None from `inbox` means that there is no listener. At the end the listener is closed.
    """
    owned = inbox.get()
    if owned is None:
        return
    listener = owned.number
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:  # POLLHUP alone: nobody has the filter any more
            if not owned.is_open():
                return  # closed by other code of this process, and perhaps opened by it since
            _serve_one(listener, holds)
    finally:
        # If this thread fails, the callers get ENOSYS and do not wait for it without end.
        with lock:
            listeners.discard(owned)
            owned.close()


def _serve_one(listener: int, holds: tuple[Hold, ...]) -> None:
    notification = bytearray(_BUFFER_SIZE)
    try:
        fcntl.ioctl(listener, _NOTIF_RECV, notification, True)
    except OSError as error:
        if error.errno in (errno.EINTR, errno.ENOENT):  # ENOENT: the caller was killed meanwhile
            return
        raise
    identity, tid, _, _, _, _, fd, pointer, length, *_ = _NOTIF.unpack_from(notification)
    # The kernel reads both as an int and ignores the upper half of the register.
    call = _BindCall(identity, tid, fd & 0xFFFFFFFF, pointer, length & 0xFFFFFFFF)
    try:
        answer = _assist(listener, call, holds)
    except Exception:
        # The caller has ended, may not be looked into, or gave no socket or a bad pointer: the
        # kernel answers it.
        answer = _CONTINUE
    response = _RESPONSE.pack(identity, 0, answer.error, answer.flags)
    try:
        fcntl.ioctl(listener, _NOTIF_SEND, response.ljust(_BUFFER_SIZE, b"\0"))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _assist(listener: int, call: _BindCall, holds: tuple[Hold, ...]) -> _Answer:
    """Do what the call needs and return how it goes on. Raises OSError where we cannot help."""
    if call.length > _SOCKADDR_STORAGE_SIZE:
        return _CONTINUE
    address = read_memory(call.tid, call.pointer, call.length)
    family = int.from_bytes(address[:2], sys.byteorder)
    port = int.from_bytes(address[2:4], "big")
    if family not in _SMALLEST_ADDRESS or call.length < _SMALLEST_ADDRESS[family]:
        return _CONTINUE
    ours = [hold for hold in holds if hold.port == port]
    if not ours:
        return _CONTINUE
    # A bind() of `start` itself may be made under the lock that is needed below.
    if os.path.exists(f"/proc/self/task/{call.tid}"):
        return _CONTINUE
    # Under the lock no fork can carry away a copy of the server's socket.
    with lock, duplicate(call.tid, call.fd) as fd:
        kind, protocol = socket_option(fd, SO_TYPE), socket_option(fd, _SO_PROTOCOL)
        if (kind, protocol) not in _ASSISTED or socket_option(fd, _SO_DOMAIN) != family:
            return _CONTINUE
        hold = _in_the_way(ours, kind, fd)
        if hold is None:
            return _CONTINUE
        # Checks that the memory and the descriptor were the caller's, not those of a later process
        # with the same id.
        fcntl.ioctl(listener, _NOTIF_ID_VALID, struct.pack("=Q", call.notification))
        if kind == SOCK_STREAM:
            set_reuse_address(fd, 1)
            return _CONTINUE
        before = socket_option(fd, SO_REUSEADDR)
        set_reuse_address(fd, 1)
        try:
            with hold.ajar(SOCK_DGRAM):
                return _Answer(-bind(fd, address), 0)
        finally:
            set_reuse_address(fd, before)


def _in_the_way(holds: list[Hold], kind: int, fd: int) -> Hold | None:
    """Return the hold of the port that this socket meets: of its kind, in its network."""
    for hold in holds:
        for sock in hold.sockets:
            if sock.type == kind and network(sock.fileno()) == network(fd):
                return hold
    return None

"""A repeated question to the kernel: which sockets would a packet to some addresses reach?

A listing walks all listening sockets of the network namespace. This asks for one: the kernel looks
it up as for an arriving packet (inet_diag_find_one_icsk in net/ipv4/inet_diag.c, udp_dump_one in
net/ipv4/udp_diag.c), in 2 microseconds an address.
"""

import errno
import socket
import struct
from collections.abc import Iterable

from ephemport._kernel import sockets

# Kept at import: tests patch socket.socket, and netlink must still answer.
_Socket = socket.socket

_NLM_F_REQUEST = 1
_KIND = struct.Struct("=H")
_KIND_OFFSET = 4
_INODE = struct.Struct("=I")
# nlmsghdr, then the inode is the last word of inet_diag_msg.
_INODE_OFFSET = 16 + 68


class Lookup:
    """One prepared question: who receives packets to `port` on any of `addresses`.

    addresses: socket.AF_INET or AF_INET6, the address as text, and the index of the interface by
    which the packet comes in. Raises OSError where netlink is refused. Close it after use.
    """

    def __init__(self, protocol: str, port: int, addresses: Iterable[tuple[int, str, int]]) -> None:
        number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
        self._requests = [
            _request(family, number, socket.inet_pton(family, address), port, interface)
            for family, address, interface in addresses
        ]
        self._diag = _Socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, sockets.NETLINK_SOCK_DIAG
        )

    def inodes(self) -> set[int]:
        """Return the inodes of the sockets that would receive one now; empty if there are none.

        Raises OSError where netlink is refused.
        """
        found = set()
        for request in self._requests:
            self._diag.send(request)
            inode = _inode(self._diag.recv(4096))
            if inode is not None:
                found.add(inode)
        return found

    def close(self) -> None:
        """Close the netlink socket."""
        self._diag.close()


def _inode(answer: bytes) -> int | None:
    """The inode in an answer, None for no socket. Raises OSError for any other answer."""
    try:
        kind = _KIND.unpack_from(answer, _KIND_OFFSET)[0]
        if kind == sockets.SOCK_DIAG_BY_FAMILY:
            inode: int = _INODE.unpack_from(answer, _INODE_OFFSET)[0]
            return inode
        failure = sockets.failure_in(answer, 0)
    except struct.error:  # cut off
        raise sockets.malformed() from None
    if kind != sockets.NLMSG_ERROR or failure == 0:
        raise sockets.malformed()
    if failure != errno.ENOENT:
        raise OSError(failure, "sock_diag")
    return None


def _request(family: int, protocol: int, address: bytes, port: int, interface: int) -> bytes:
    local = struct.pack("!H", port), address.ljust(16, b"\0")
    nobody = bytes(2), bytes(16)
    # "src and dst are swapped for historical reasons" (udp_dump_one).
    source, target = (local, nobody) if protocol == socket.IPPROTO_TCP else (nobody, local)
    identity = source[0] + target[0] + source[1] + target[1]
    identity += struct.pack("=I", interface) + b"\xff" * 8
    body = struct.pack("=BBBxI", family, protocol, 0, 0xFFFFFFFF) + identity
    header = struct.pack(
        "=IHHII", 16 + len(body), sockets.SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0
    )
    return header + body

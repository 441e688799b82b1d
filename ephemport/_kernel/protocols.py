"""The protocols of ports, by the names that arguments take."""

import errno
from socket import SOCK_DGRAM, SOCK_STREAM

from ephemport._arguments import shown

# "both" is the same port on TCP and UDP.
PARTS = {"tcp": ("tcp",), "udp": ("udp",), "both": ("tcp", "udp")}
KINDS = {"tcp": (SOCK_STREAM,), "udp": (SOCK_DGRAM,), "both": (SOCK_STREAM, SOCK_DGRAM)}

# What socket() answers where a family is not in the kernel, or where a sandbox refuses it.
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.ENOSYS)


def check_protocol(protocol: str) -> None:
    """Raise ValueError, which names the known ones, unless `protocol` is one of them."""
    if not isinstance(protocol, str) or protocol not in PARTS:
        raise ValueError(f"unknown protocol {shown(protocol)}; known are {', '.join(PARTS)}")

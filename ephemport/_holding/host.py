"""The host of a reservation: the address that a server will bind, and how it is written.

A hold covers every address of the machine, so the host does not change what is held, except for a
shadow. The host is where `listen()` listens, and it is part of URLs.
"""

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ephemport._arguments import shown, text
from ephemport._kernel.protocols import NO_SUCH_FAMILY
from ephemport._looking.reach import Target, target_of

# Kept here before a test patches socket.socket: such a test still gets its ports.
_Socket = socket.socket

_IP_BIND_ADDRESS_NO_PORT = 24  # include/uapi/linux/in.h, Linux 4.2

# Addresses that every machine has, so the kernel need not be asked.
CERTAIN_HOSTS = frozenset({"127.0.0.1", "localhost", "0.0.0.0"})


class Endpoint(NamedTuple):
    """The address that a server of this host binds. `family` is AF_INET or AF_INET6."""

    family: int
    address: str
    scope_id: int = 0

    def sockaddr(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address tuple that `socket.bind()` takes for `port`."""
        if self.family == socket.AF_INET6:
            return (self.address, port, 0, self.scope_id)
        return (self.address, port)

    @property
    def is_wildcard(self) -> bool:
        """Whether this is 0.0.0.0 or ::."""
        return self.address in ("0.0.0.0", "::")


def endpoint(host: str) -> Endpoint:
    """Resolve `host` to the address that a server binds. "localhost" is 127.0.0.1.

    Raises TypeError if it is not a string, ValueError if it is not an address of this machine.
    """
    text(host, "host must be a string such as '127.0.0.1'")
    if host in CERTAIN_HOSTS:
        return Endpoint(socket.AF_INET, "127.0.0.1" if host == "localhost" else host)
    if not host:
        raise ValueError("host is empty; for every address write '0.0.0.0' or '::'")
    if "\0" in host:  # getaddrinfo() would read only what stands before it
        raise ValueError(f"host {shown(host)} is no address: it contains a NUL")
    # As bytes, a name needs no codec: one that is loaded only now may be out of sight by now.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, LookupError) as error:
        raise ValueError(
            f"host {shown(host)} is no address and cannot be looked up: {error}"
        ) from None
    candidates = [_from_addrinfo(family, sockaddr) for family, _, _, _, sockaddr in found]
    for candidate in candidates:
        if is_of_this_machine(candidate):
            return candidate
    raise ValueError(_stranger(host, candidates))


def targets(host: str) -> tuple[Target, ...]:
    """Return the addresses that a client of `host` tries, in its order: one, unless it is a name.

    `host` is one that `endpoint()` takes. A name that cannot be looked up any more stands for the
    address that a server binds, and "localhost" for both loopback addresses.
    """
    if host in CERTAIN_HOSTS and host != "localhost":
        return (target_of(socket.AF_INET, host),)
    try:
        found = socket.getaddrinfo(host.encode() if host.isascii() else host, None)
    except (OSError, UnicodeError, LookupError):
        if host != "localhost":
            return (target_of(*endpoint(host)),)
        return (target_of(socket.AF_INET6, "::1"), target_of(socket.AF_INET, "127.0.0.1"))
    # Once for each type of socket.
    return tuple(
        dict.fromkeys(
            target_of(*_from_addrinfo(family, sockaddr)) for family, _, _, _, sockaddr in found
        )
    )


def _from_addrinfo(family: int, sockaddr: Sequence[object]) -> Endpoint:
    scope_id = int(str(sockaddr[3])) if family == socket.AF_INET6 else 0
    return Endpoint(family, str(sockaddr[0]).partition("%")[0], scope_id)


def is_of_this_machine(candidate: Endpoint) -> bool:
    # The kernel checks the address before it looks for a port (net/ipv4/af_inet.c, __inet_bind:
    # EADDRNOTAVAIL). So a UDP socket is enough, and no TCP port is touched.
    try:
        probe = _Socket(candidate.family, socket.SOCK_DGRAM)
    except OSError as error:
        return error.errno not in NO_SUCH_FAMILY
    try:
        with probe:
            # Without a port: a child that is forked meanwhile would keep the port.
            with suppress(OSError):
                probe.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            probe.bind(candidate.sockaddr(0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV)
    return True


def _stranger(host: str, candidates: Sequence[Endpoint]) -> str:
    message = f"host {shown(host)} is no address of this machine"
    if any(candidate.address in ("::1", "::") for candidate in candidates):
        return f"{message}: IPv6 is switched off here (net.ipv6.conf.all.disable_ipv6)"
    addresses = ", ".join(sorted({candidate.address for candidate in candidates}))
    if addresses != host:
        message += f" (it stands for {addresses})"
    return f"{message}; 'ip address' lists those that it has"


def bracketed(host: str) -> str:
    """`host` as URLs write it: IPv6 addresses in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def make_url(scheme: str, host: str, port: int, path: str = "") -> str:
    """`scheme://host:port/path`, with a slash before the path if it has none."""
    for one in (scheme, host, path):
        text(one, "the parts of a URL must be strings")
    if path and not path.startswith(("/", "?", "#")):
        path = f"/{path}"
    return f"{scheme}://{bracketed(host)}:{port}{path}"

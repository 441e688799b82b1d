"""What comes along into a new network: the machine's addresses, and its settings for ports.

Each function reads them in the old network, and returns a function that sets them in the new one.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# A new network has the kernel's defaults, and these settings decide what a suite may bind. They are
# written in this order: the range may not reach below the unprivileged ports.
_SETTINGS = (
    "core/somaxconn",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_nonlocal_bind",
    "ipv6/bindv6only",
)
# include/uapi/linux/sockios.h
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_LOOPBACK_INDEX = 1
_LINK_LOCAL = "20"


def settings_of_this_network() -> Callable[[], None]:
    """Read the settings for ports; return a function that makes them in another network."""
    values = {name: value for name in _SETTINGS if (value := setting(_path(name))) is not None}

    def restore() -> None:
        for name, value in values.items():
            # Refused where /proc/sys is mounted read-only: then the defaults stay.
            if setting(_path(name)) != value:
                with suppress(OSError):
                    Path(_path(name)).write_text(value, encoding="utf-8")

    return restore


def addresses_of_this_network() -> Callable[[], None]:
    """Read the machine's addresses; return a function that adds them to another network's loopback.

    Servers bind what socket.gethostname() resolves to, and getaddrinfo() with AI_ADDRCONFIG leaves
    out a family that has only the loopback.
    """
    found = _own_addresses()

    def restore() -> None:
        for add, address in found:
            with suppress(OSError):
                add(address)

    return restore


def setting(path: str) -> str | None:
    """Return the text of a file below /proc/sys; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _path(name: str) -> str:
    return f"/proc/sys/net/{name}"


def _own_addresses() -> Sequence[tuple[Callable[[str], None], str]]:
    from functools import partial

    found: list[tuple[Callable[[str], None], str]] = []
    with suppress(OSError, ValueError):
        trie = Path("/proc/thread-self/net/fib_trie").read_text(encoding="utf-8")
        local = dict.fromkeys(re.findall(r"\|-- ([\d.]+)\n\s+/32 host LOCAL", trie))
        others = [address for address in local if not address.startswith("127.")]
        found += [(partial(_add_ipv4, number), one) for number, one in enumerate(others, 1)]
    with suppress(OSError, ValueError):
        for line in Path("/proc/thread-self/net/if_inet6").read_text(encoding="utf-8").splitlines():
            address, _, _, scope, _, interface = line.split()
            if interface != "lo" and scope != _LINK_LOCAL:
                found.append((_add_ipv6, address))
    return found


def _add_ipv4(number: int, address: str) -> None:
    import fcntl
    import socket
    import struct

    # struct ifreq with a sockaddr_in; an alias "lo:1" makes a second address of the interface.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            name, raw = f"lo:{number}".encode(), socket.inet_aton(value)
            fcntl.ioctl(
                any_socket, request, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, raw)
            )


def _add_ipv6(address: str) -> None:
    import fcntl
    import socket
    import struct

    # struct in6_ifreq: the address, the length of its prefix, the interface.
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as any_socket:
        packed = struct.pack("16sIi", bytes.fromhex(address), 128, _LOOPBACK_INDEX)
        fcntl.ioctl(any_socket, _SIOCSIFADDR, packed)

"""The ephemeral port range, and what stands in it.

Every function reads afresh: the settings belong to the network namespace (ip(7), and
Documentation/networking/ip-sysctl.rst in the kernel), and a process may enter another one.
"""

from ephemport._kernel.sockets import State, read_sockets

__all__ = [
    "autobind_reuse",
    "bindv6only",
    "ephemeral_range",
    "ports_in_use",
    "reserved_ports",
    "widest_range",
]


def ephemeral_range() -> range:
    """Return the port numbers that the kernel hands out, as net.ipv4.ip_local_port_range has them.

    The setting's upper end is inclusive and so is in the range. Where it cannot be read (no /proc,
    a sandbox), the kernel's default, range(32768, 61000). It serves IPv6 as well.
    """
    try:
        low, high = _read("ipv4/ip_local_port_range").split()
    except OSError:
        return range(32768, 61000)
    return range(int(low), int(high) + 1)


def widest_range() -> range:
    """Return what net.ipv4.ip_local_port_range can be set to at most.

    The kernel refuses a lower end below net.ipv4.ip_unprivileged_port_start, 1024 by default.
    """
    try:
        low = int(_read("ipv4/ip_unprivileged_port_start"))
    except OSError:
        low = 1024
    return range(max(low, 1), 65536)


def reserved_ports() -> frozenset[int]:
    """Return the port numbers that the kernel never hands out of itself.

    From net.ipv4.ip_local_reserved_ports, which reads like ``8080,9148-9150``. Empty where it
    cannot be read. An explicit bind() to one of them succeeds.
    """
    try:
        text = _read("ipv4/ip_local_reserved_ports").strip()
    except OSError:
        return frozenset()
    ports: set[int] = set()
    for part in text.split(",") if text else []:
        low, _, high = part.partition("-")
        ports.update(range(int(low), int(high or low) + 1))
    return frozenset(ports)


def ports_in_use(protocol: str = "tcp") -> set[int]:
    """Return the distinct local port numbers of all sockets of `protocol`, in any state.

    TCP sockets that are bound and do not listen are among them where the kernel shows them
    (`ephemport._kernel.sockets.can_see_bound_inactive`). Raises as `read_sockets` does.
    """
    return {record.port for record in read_sockets(protocol, tuple(State))}


def bindv6only() -> bool:
    """Tell whether an IPv6 socket is IPV6_V6ONLY unless told otherwise (net.ipv6.bindv6only).

    False where there is no such setting: the kernel's default, or a machine without IPv6.
    """
    return _is_on("ipv6/bindv6only")


def autobind_reuse() -> bool:
    """Tell whether bind() to port 0 may share a number that SO_REUSEADDR sockets are bound to.

    From net.ipv4.ip_autobind_reuse (Linux 5.7); False where there is no such setting.
    """
    return _is_on("ipv4/ip_autobind_reuse")


def _is_on(name: str) -> bool:
    try:
        return _read(name).strip() != "0"
    except OSError:
        return False


def _read(name: str) -> str:
    with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
        return file.read()

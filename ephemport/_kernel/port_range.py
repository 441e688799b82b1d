"""The ephemeral port range, and the ports in it that are in use.

Every function reads anew: the settings belong to the network namespace (ip(7), and
Documentation/networking/ip-sysctl.rst in the kernel), and a process may enter another one.
"""

from ephemport._kernel.sockets import State, read_sockets

__all__ = [
    "autobind_reuse",
    "bindv6only",
    "ephemeral_range",
    "ports_in_use",
    "reserved_ports",
    "unassigned_ranges",
    "widest_range",
]


def ephemeral_range() -> range:
    """Return the ports that the kernel assigns, by net.ipv4.ip_local_port_range.

    The setting's upper end is inclusive, so it is in the range. Where it cannot be read (no /proc,
    a sandbox), this is the kernel's default, range(32768, 61000). It applies to IPv6 as well.
    """
    try:
        low, high = map(int, _read("ipv4/ip_local_port_range").split())
    except OSError:
        return range(32768, 61000)
    # gVisor writes how many ports there are where Linux writes the last one.
    return range(low, high + 1) if low <= high else range(low, low + high)


def widest_range() -> range:
    """Return the widest range that net.ipv4.ip_local_port_range can be set to.

    The kernel refuses a lower end below net.ipv4.ip_unprivileged_port_start, 1024 by default.
    """
    try:
        low = int(_read("ipv4/ip_unprivileged_port_start"))
    except OSError:
        low = 1024
    return range(max(low, 1), 65536)


def unassigned_ranges() -> list[range]:
    """Return the ranges of ports around the ephemeral one, those for private use first.

    No port below net.ipv4.ip_unprivileged_port_start is in them. IANA assigns no ports from 49152
    up (RFC 6335, section 6). The ports of well-known servers crowd below 20000, so these are last.
    """
    assigned, lowest = ephemeral_range(), widest_range().start
    found = []
    for low, high in ((49152, 65536), (20000, 49152), (1, 20000)):
        above = range(max(low, lowest, assigned.stop), high)
        below = range(max(low, lowest), min(high, assigned.start))
        found += [ports for ports in (above, below) if ports]
    return found


def reserved_ports() -> frozenset[int]:
    """Return the ports that the kernel never assigns (net.ipv4.ip_local_reserved_ports).

    The setting reads like ``8080,9148-9150``. Empty where it cannot be read. An explicit bind() to
    one of these ports succeeds.
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
    """Return the local ports of all sockets of `protocol`, in any state.

    That includes TCP sockets that are bound and do not listen, where the kernel shows them
    (`ephemport._kernel.sockets.can_see_bound_inactive`). Raises as `read_sockets` does.
    """
    return {record.port for record in read_sockets(protocol, tuple(State))}


def bindv6only() -> bool:
    """Return whether an IPv6 socket is IPV6_V6ONLY by default (net.ipv6.bindv6only).

    False, the kernel's default, where there is no such setting: on a machine without IPv6.
    """
    return _is_on("ipv6/bindv6only")


def autobind_reuse() -> bool:
    """Return whether bind() to port 0 may share a port to which SO_REUSEADDR sockets are bound.

    From net.ipv4.ip_autobind_reuse (Linux 5.7). False where there is no such setting.
    """
    return _is_on("ipv4/ip_autobind_reuse")


def _is_on(name: str) -> bool:
    try:
        return _read(name).strip() != "0"
    except OSError:
        return False


def _read(name: str) -> str:
    with open(f"/proc/sys/net/{name}", encoding="utf-8") as file:
        return file.read()

"""The address of a shadow: one that the server does not use."""

from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

from ephemport import _spelling
from ephemport._errors import NoShadow
from ephemport._holding.host import Endpoint, is_of_this_machine
from ephemport._kernel.protocols import KINDS

_V6_LOOPBACK = Endpoint(AF_INET6, "::1")
_V4_LOOPBACK = Endpoint(AF_INET, "127.0.0.1")


def shadow_addresses(host: str, endpoint: Endpoint, protocol: str) -> dict[int, Endpoint]:
    """The address of the shadow of a server on `host`, by socket kind.

    Raises NoShadow where there is no such address. Whether this machine has the address is found
    out by the bind: `no_address()` is the error for that.
    """
    return {kind: _shadow_address(host, endpoint, kind, protocol) for kind in KINDS[protocol]}


def no_address(host: str, shadows: dict[int, Endpoint], protocol: str) -> NoShadow:
    """The error for a machine that does not have the address of a shadow."""
    missing = next(
        (one.address for one in shadows.values() if not is_of_this_machine(one)),
        next(iter(shadows.values())).address,
    )
    why = f"it would be held on {missing}, and this machine has no such address"
    if not is_of_this_machine(_V4_LOOPBACK):
        why += " (it has no IPv4 loopback: 'ip address add 127.0.0.1/8 dev lo' adds it)"
    return NoShadow(
        f"no shadow can exist for a server on {host!r} ({protocol}): {why}. {_instead(protocol)}",
        protocol=protocol,
    )


def _shadow_address(host: str, endpoint: Endpoint, kind: int, protocol: str) -> Endpoint:
    v4_other = Endpoint(AF_INET, "127.0.0.2" if endpoint.address != "127.0.0.2" else "127.0.0.3")
    no_shadow = f"no shadow can exist for a server on {host!r}"
    if endpoint.family == AF_INET6 and endpoint.is_wildcard:
        raise NoShadow(
            f"{no_shadow}: it would conflict with a hold on any address. {_instead(protocol)}",
            protocol=protocol,
        )
    if endpoint.is_wildcard:
        if is_of_this_machine(_V6_LOOPBACK):
            return _V6_LOOPBACK
        raise NoShadow(
            f"{no_shadow} without IPv6: it would conflict with a hold on any IPv4 address. "
            f"{_instead(protocol)}; or {_spelling.ON_LOOPBACK}",
            protocol=protocol,
        )
    # A server on "localhost" may bind either family or both. Only another IPv4 address is left.
    v4_only = endpoint.family == AF_INET and host != "localhost"
    if kind == SOCK_STREAM and v4_only and is_of_this_machine(_V6_LOOPBACK):
        return _V6_LOOPBACK
    return v4_other


def _instead(protocol: str) -> str:
    """What to use where there can be no shadow."""
    if SOCK_DGRAM in KINDS[protocol]:
        return (
            f"Use instead: {_spelling.ASSIST_UDP}, which lets in UDP servers under a full hold; "
            f"or {_spelling.FD}"
        )
    return (
        f"Use instead: {_spelling.TAKEOVER}, which keeps the full hold and lets in servers that "
        f"set SO_REUSEADDR; {_spelling.ASSIST}, which sets it for them; or {_spelling.FD}"
    )

"""The address of a shadow: one that the server does not use."""

from socket import AF_INET, AF_INET6, SOCK_STREAM

from ephemport import _spelling
from ephemport._holding.host import Endpoint, is_of_this_machine
from ephemport._kernel.protocols import KINDS


def shadow_addresses(host: str, endpoint: Endpoint, protocol: str) -> dict[int, Endpoint]:
    """The address of the shadow of a server on `host`, by socket kind. ValueError: no such one."""
    return {kind: _shadow_address(host, endpoint, kind) for kind in KINDS[protocol]}


def _shadow_address(host: str, endpoint: Endpoint, kind: int) -> Endpoint:
    v6_loopback = Endpoint(AF_INET6, "::1")
    v4_loopback = Endpoint(AF_INET, "127.0.0.2" if endpoint.address != "127.0.0.2" else "127.0.0.3")
    if endpoint.family == AF_INET6 and endpoint.is_wildcard:
        raise ValueError(
            f"no shadow can exist for a server on {host!r}: it would conflict with a hold on any "
            f"address. Use instead: {_spelling.TAKEOVER}, which keeps the full hold and lets in "
            f"servers that set SO_REUSEADDR; {_spelling.ASSIST}, which sets it for them; or "
            f"{_spelling.FD}"
        )
    if endpoint.is_wildcard:
        if is_of_this_machine(v6_loopback):
            return v6_loopback
        raise ValueError(
            f"no shadow can exist for a server on {host!r} without IPv6: it would conflict "
            f"with a hold on any IPv4 address. Use instead: {_spelling.HOST} 127.0.0.1, "
            f"{_spelling.TAKEOVER}, or {_spelling.FD}"
        )
    # A server on "localhost" may bind either family or both. Only another IPv4 address is left.
    v4_only = endpoint.family == AF_INET and host != "localhost"
    if kind == SOCK_STREAM and v4_only and is_of_this_machine(v6_loopback):
        return v6_loopback
    return v4_loopback

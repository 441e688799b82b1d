"""The terms of a reservation on a node: the arguments of `reserve()`, checked here, sent there."""

from collections.abc import Iterable
from typing import Any, SupportsIndex

from ephemport._arguments import text
from ephemport._holding.request import Request

HOST_MUST_BE = "host must be a string such as '10.0.0.7'"

Terms = dict[str, Any]
Ports = SupportsIndex | Iterable[SupportsIndex] | None


def terms_of(
    host: str,
    protocol: str,
    port: Ports,
    exclude: Iterable[SupportsIndex],
    handoff: str,
    allowed: Iterable[SupportsIndex] | None,
    outside_ephemeral: bool,
) -> Terms:
    """The terms for the agent. What does not depend on the node is checked here."""
    text(host, HOST_MUST_BE)
    if isinstance(exclude, Iterable) and not isinstance(exclude, (str, bytes)):
        exclude = list(exclude)
    if isinstance(port, Iterable) and not isinstance(port, (str, bytes)):
        port = list(port)
    request = Request("0.0.0.0", protocol, port, exclude, "takeover", allowed)
    Request(handoff=handoff, protocol=protocol)
    wanted = request.wanted
    return {
        "host": host,
        "protocol": protocol,
        "port": None if wanted is None else wanted[0] if request.lone else list(wanted),
        "exclude": sorted(request.excluded),
        "range": None if request.span is None else list(request.span.named or ()),
        "outside_ephemeral": bool(outside_ephemeral),
        "handoff": handoff,
    }

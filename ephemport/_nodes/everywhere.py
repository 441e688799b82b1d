"""`reserve_everywhere()`: ports on several nodes at once, all or none."""

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from ephemport._arguments import at_most, shown, text
from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._nodes.node import Node, NodeReservation, NodeReservationGroup
from ephemport._nodes.terms import HOST_MUST_BE, Ports, Terms, terms_of

# So many ports that one node had free and another had not: then the search ends.
_TRIES = 200
_MOST_NODES = 10_000


def reserve_everywhere(
    nodes: Iterable[Node],
    *,
    host: str | Sequence[str],
    same: bool = True,
    protocol: str = "tcp",
    port: Ports = None,
    exclude: Iterable[SupportsIndex] = (),
    range: Iterable[SupportsIndex] | None = None,  # noqa: A002 - as in reserve()
    outside_ephemeral: bool = False,
    handoff: str = "takeover",
) -> NodeReservationGroup:
    """Reserve a port on each of several nodes: on all of them or, after an error, on none.

    Programs such as Erlang's distribution or license servers want one port that is free on every
    host:

        with on(["ssh", "n1"]) as n1, on(["ssh", "n2"]) as n2:
            group = reserve_everywhere([n1, n2], host=["10.0.0.1", "10.0.0.2"])
            group[0].port == group[1].port

    Args:
        nodes: The nodes, each one once. `on([])` is this host.
        host: The address that the server on each node will bind: one string for each node, in
            order, or one for all of them, such as "0.0.0.0".
        same: Whether all of them get the same port.
        protocol: As for `reserve()`.
        port: As for `reserve()`. With `same`, one port that is taken on one of the nodes is an
            error; of several, the next one is tried on all nodes.
        exclude: As for `reserve()`.
        range: As for `reserve()`.
        outside_ephemeral: As for `reserve()`, by the settings of each node.
        handoff: As for `reserve()`.

    Returns:
        The group of reservations, one for each node, in order.

    Raises:
        PortsExhausted: A node has no port left. Or no port was found that is free on all of them.
        PortUnavailable: The ports in `port` are taken on one of the nodes.
        NodeLost: A node cannot be reached any more. Ports that others had reserved were let go.
        TypeError: An argument is of the wrong type. Nothing was bound.
        ValueError: An argument makes no sense, or a `host` is no address of its node.
    """
    terms = terms_of("0.0.0.0", protocol, port, exclude, handoff, range, outside_ephemeral)
    places = _places(nodes, host, terms)
    if not same or len(places) < 2:
        return _on_each(places)
    wanted = places[0][1]["port"]
    if wanted is None:
        return _any_port(places)
    ports = [wanted] if isinstance(wanted, int) else wanted
    ends_in_any = ports[-1:] == [0]
    refusals: list[PortUnavailable] = []
    for one in ports[:-1] if ends_in_any else ports:
        if one in places[0][1]["exclude"]:
            continue
        try:
            return _on_each([(node, {**terms, "port": one}) for node, terms in places])
        except PortUnavailable as error:
            refusals.append(error)
    if ends_in_any:
        return _any_port(places)
    if len(refusals) == 1:
        raise refusals[0]
    last = refusals[-1] if refusals else None
    raise PortUnavailable(
        f"none of {len(ports)} ports is free on all of {len(places)} nodes"
        f"{f'; the last refusal: {last}' if last else ', since all of them are excluded'}",
        port=last.port if last else None,
        protocol=protocol,
        diagnosis=last.diagnosis if last else None,
    )


def _any_port(places: "list[tuple[Node, Terms]]") -> NodeReservationGroup:
    """One node chooses a port, the others try it. A node that refused it chooses the next."""
    barred: list[int] = []
    leader = 0
    refusal: PortUnavailable | None = None
    while len(barred) < _TRIES:
        node, terms = places[leader]
        chosen = {**terms, "port": None, "exclude": [*terms["exclude"], *barred]}
        (first,) = node._reserve([chosen])
        others = [place for place in places if place[0] is not node]
        try:
            group = _on_each([(other, {**t, "port": first.port}) for other, t in others])
        except PortUnavailable as error:
            first.release()
            barred.append(first.port)
            refusal = error
            leader = (leader + 1) % len(places)
        except BaseException:
            first.release()
            raise
        else:
            found = list(group)
            found.insert(leader, first)
            return NodeReservationGroup(found)
    raise PortsExhausted(
        f"no port was found that is free on all of {len(places)} nodes, after {len(barred)} ports "
        f"that one of them had free; the last refusal: {refusal}",
        protocol=places[0][1]["protocol"],
    )


def _on_each(places: "list[tuple[Node, Terms]]") -> NodeReservationGroup:
    found: list[NodeReservation] = []
    try:
        for node, terms in places:
            found += node._reserve([terms])
    except BaseException:
        NodeReservationGroup(found)._end()
        raise
    return NodeReservationGroup(found)


def _places(
    nodes: Iterable[Node], host: str | Sequence[str], terms: Terms
) -> "list[tuple[Node, Terms]]":
    """Each node, checked, with its host in the terms for it."""
    if not isinstance(nodes, Iterable):
        raise TypeError(f"nodes must be several nodes, not {shown(nodes)}")
    every = list(at_most(nodes, _MOST_NODES, "nodes"))
    for one in every:
        if not isinstance(one, Node):
            raise TypeError(f"nodes has what is no node: {shown(one)}; on(command) opens one")
    if len(set(every)) < len(every):
        raise ValueError("nodes has a node twice")
    if not isinstance(host, Iterable) or isinstance(host, (bytes, bytearray)):
        raise TypeError(f"host must be one address, or one for each node, not {shown(host)}")
    hosts = (
        [host] * len(every)
        if isinstance(host, str)
        else list(at_most(host, len(every), "host, which has one address for each node,"))
    )
    if len(hosts) != len(every):
        raise ValueError(f"host names {len(hosts)} addresses for {len(every)} nodes")
    return [
        (node, {**terms, "host": text(where, HOST_MUST_BE)})
        for node, where in zip(every, hosts, strict=True)
    ]

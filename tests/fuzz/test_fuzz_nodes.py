"""on(), nodes and their reservations, with whatever a caller may pass; a far end that babbles."""

import sys
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ephemport import Node, NodeReservation, NodeReservationGroup, on, reserve_everywhere
from ephemport._nodes.wire import answer_in
from tests.fuzz import values
from tests.fuzz.calls import Call, Calls, call_of, put_away, try_all, with_what_it_is_called_on
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples
from tests.fuzz.test_fuzz_reserving import TERMS

# Commands that are certainly harmless: what is started must not be up to chance.
COMMANDS = st.sampled_from(
    [
        *([], ["env"], ["true"], ["cat", "--"], ["no such command"], ["sh", "-c", "kill $$"]),
        *("env", "env -u A", "", " ", "'", b"env", None, 7, [7], [""], ["\0"], ["env", None]),
    ]
)
GOOD = st.fixed_dictionaries(
    {"host": values.hosts}, optional={"protocol": values.protocols, "handoff": values.handoffs}
)


@cache
def node() -> Node:
    """This host, once a process."""
    return on([], python=sys.executable)


def of_node(method: str, **takes: Any) -> Call:
    def call(**arguments: Any) -> object:
        return getattr(node(), method)(**arguments)

    return call_of(getattr(Node, method), **takes)._replace(call=call)


def of_reservation(method: str, **takes: Any) -> Call:
    checked = call_of(getattr(NodeReservation, method), **takes)

    def call(_terms: dict[str, Any], _released: bool, **arguments: Any) -> None:
        with node().reserve(**_terms) as reservation:
            if _released:
                reservation.release()
            put_away(getattr(reservation, method)(**arguments))

    return with_what_it_is_called_on(checked, call, _terms=GOOD, _released=st.booleans())


def release_group(count: int, terms: dict[str, Any]) -> None:
    with node().reserve_many(count, **terms) as group:
        group.release()


def open_and_close(**arguments: Any) -> None:
    with on(**arguments):
        pass


def reserve_on_all(nodes: Any, **arguments: Any) -> object:
    if isinstance(nodes, list):
        nodes = [node() if one is Node else one for one in nodes]
    return reserve_everywhere(nodes, **arguments)


MANY = {
    "count": st.one_of(values.counts, st.none()),
    "contiguous": st.booleans(),
    "offsets": values.offsets,
    "multiple_of": st.one_of(st.integers(1, 9), values.wrong_ints),
}
NODES: Calls = {
    "on": Call(
        open_and_close,
        {
            "command": COMMANDS,
            "python": st.sampled_from([sys.executable, "no-such-python", "", 7]),
            "lease": st.sampled_from([30.0, None, 0, -1, float("nan"), float("inf"), "x"]),
            "timeout": st.sampled_from([20.0, 0, -1, float("nan"), None]),
            "ship": st.booleans(),
        },
        needed=frozenset({"command"}),
    ),
    "Node": call_of(Node, channel=st.none())._replace(call=lambda channel: None),
    "Node.close": Call(lambda: on([], python=sys.executable).close(), {}),
    "Node.reserve": of_node("reserve", **TERMS),
    "Node.reserve_many": of_node("reserve_many", **MANY, **TERMS),
    "NodeReservation": Call(lambda: None, {}),
    "NodeReservation.url": of_reservation("url", scheme=values.texts, path=values.texts),
    "NodeReservation.release": of_reservation("release"),
    "NodeReservation.share": of_reservation("share"),
    "NodeReservationGroup": Call(lambda: NodeReservationGroup([]), {}),
    "NodeReservationGroup.release": Call(
        release_group, {"count": st.integers(0, 3), "terms": GOOD}, frozenset({"count", "terms"})
    ),
    "reserve_everywhere": call_of(
        reserve_everywhere,
        nodes=st.lists(st.sampled_from([Node, None, "n7"]), max_size=2),
        same=st.booleans(),
        **TERMS,
    )._replace(call=reserve_on_all),
}


def fuzz_nodes() -> None:
    node()
    try:
        try_all(NODES, 120)
    finally:
        node().close()


def fuzz_lines() -> None:
    @given(st.one_of(st.binary(), st.binary().map(lambda some: b"ephemport-agent: " + some)))
    @examples(500)
    def one_line(line: bytes) -> None:
        assert answer_in(line) is None or isinstance(answer_in(line), dict)

    one_line()


def test_nodes(fuzz: Fuzz) -> None:
    fuzz(fuzz_nodes)


def test_lines_of_a_far_end(fuzz: Fuzz) -> None:
    fuzz(fuzz_lines)

"""reserve(), reserve_many(), reservations and groups, with whatever a caller may pass."""

from typing import Any

from hypothesis import strategies as st

from ephemport import Reservation, ReservationGroup, reserve, reserve_many
from tests.fuzz import values
from tests.fuzz.calls import Call, Calls, call_of, put_away, try_all, with_what_it_is_called_on
from tests.fuzz.conftest import Fuzz

TERMS = {
    "host": st.one_of(values.hosts, values.strange_hosts),
    "protocol": values.protocols,
    "port": values.wanted,
    "exclude": values.excluded,
    "range": values.allowed,
    "outside_ephemeral": st.booleans(),
    "handoff": values.handoffs,
}
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "host": values.hosts,
        "protocol": values.protocols,
        "handoff": values.handoffs,
    },
)


def of_reservation(method: str, **takes: Any) -> Call:
    """A method of a reservation, which is released already now and then."""
    checked = call_of(getattr(Reservation, method), **takes)

    def call(_terms: dict[str, Any], _released: bool, **arguments: Any) -> None:
        with reserve(**_terms) as reservation:
            if _released:
                reservation.release()
            put_away(getattr(reservation, method)(**arguments))

    return with_what_it_is_called_on(checked, call, _terms=GOOD, _released=st.booleans())


def of_group(method: str, **takes: Any) -> Call:
    checked = call_of(getattr(ReservationGroup, method), **takes)

    def call(_count: int, _terms: dict[str, Any], **arguments: Any) -> None:
        with reserve_many(_count, **_terms) as group:
            put_away(getattr(group, method)(**arguments))

    return with_what_it_is_called_on(checked, call, _terms=GOOD, _count=st.integers(0, 3))


RESERVING: Calls = {
    "reserve": call_of(reserve, **TERMS),
    "reserve_many": call_of(
        reserve_many,
        count=st.one_of(values.counts, st.none()),
        contiguous=st.booleans(),
        offsets=values.offsets,
        multiple_of=st.one_of(st.integers(1, 9), values.wrong_ints),
        **TERMS,
    ),
    "Reservation": call_of(
        Reservation,
        hold=values.ports,
        host=values.hosts,
        protocol=values.protocols,
        handoff=values.handoffs,
    ),
    "ReservationGroup": call_of(ReservationGroup, reservations=st.just(())),
    "Reservation.url": of_reservation("url", scheme=values.texts, path=values.texts),
    "Reservation.listen": of_reservation(
        "listen", backlog=st.one_of(st.none(), st.integers(-1, 5000))
    ),
    "Reservation.release": of_reservation("release"),
    "Reservation.share": of_reservation("share"),
    "ReservationGroup.release": of_group("release"),
    "ReservationGroup.__getitem__": of_group(
        "__getitem__", position=st.one_of(st.integers(-4, 4), st.builds(slice, st.integers(-4, 4)))
    )._replace(also=(IndexError,), lenient=True),  # a tuple's
}


def fuzz_reserving() -> None:
    try_all(RESERVING, 250)


def test_reserving(fuzz: Fuzz) -> None:
    fuzz(fuzz_reserving)

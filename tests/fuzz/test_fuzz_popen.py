"""popen() of reservations and groups: arguments of every kind, activation, assistance."""

import subprocess
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ephemport import Reservation, ReservationGroup, reserve, reserve_many
from tests.fuzz import values
from tests.fuzz.calls import Calls, call_of, put_away, try_all, with_what_it_is_called_on
from tests.fuzz.conftest import Fuzz
from tests.fuzz.test_fuzz_reserving import GOOD

# What Popen raises, passed on.
OF_POPEN = (OSError, TypeError, ValueError, subprocess.SubprocessError)

program = st.sampled_from(["/bin/true", "true", "/bin/false", Path("/bin/true"), b"/bin/true"])
no_program = st.sampled_from(["", "nosuch", "/", "/dev/null", "\0", "{port}", "{", Path("/nosuch")])
argument = st.sampled_from(
    ["{port}", "{url}", "{port0}{host0}", "{{}}", "${x}", b"{port}", 8080, Path("x"), "\udc80", ""]
)
wrong_argument = st.one_of(
    st.sampled_from(["{nosuch}", "{", "}", "a\0b", None, 1.5, True]), values.anything
)


def commands() -> st.SearchStrategy[Any]:
    one = st.tuples(
        st.sampled_from((program, program, program, no_program)).flatmap(lambda kind: kind),
        st.lists(
            st.sampled_from((argument, argument, argument, wrong_argument)).flatmap(
                lambda kind: kind
            ),
            max_size=3,
        ),
    ).map(lambda parts: [parts[0], *parts[1]])
    return st.one_of(one, one.map(tuple), one.map(iter), program, st.just([]), st.just("true"))


options = st.fixed_dictionaries(
    {},
    optional={
        "env": st.sampled_from([None, {}, {"A": "1"}, {"A": 1}, {"A\0": ""}]),
        "cwd": st.sampled_from([None, "/", "/nosuch", "\0", 1]),
        "shell": st.booleans(),
        "pass_fds": st.sampled_from([(), (0,), (9,), (3,), (-1,), ("x",), 1]),
        "executable": st.sampled_from([None, "/bin/true", "nosuch", b"/bin/true", 1]),
        "stdout": st.sampled_from([None, subprocess.DEVNULL, subprocess.PIPE, 99]),
        "start_new_session": st.booleans(),
        "bufsize": st.sampled_from([-1, 0, "x"]),
    },
)


def of_reservation(_terms: dict[str, Any], _options: dict[str, Any], **arguments: Any) -> None:
    with reserve(**_terms) as reservation:
        put_away(reservation.popen(**arguments, **_options))


def of_group(
    _terms: dict[str, Any], _count: int, _options: dict[str, Any], **arguments: Any
) -> None:
    with reserve_many(_count, **_terms) as group:
        put_away(group.popen(**arguments, **_options))


TAKES = {"args": commands(), "activate": st.booleans(), "assist": st.booleans()}
STARTING: Calls = {
    "Reservation.popen": with_what_it_is_called_on(
        call_of(Reservation.popen, **TAKES).may_raise(*OF_POPEN),
        of_reservation,
        _terms=GOOD,
        _options=options,
    ),
    "ReservationGroup.popen": with_what_it_is_called_on(
        call_of(ReservationGroup.popen, **TAKES).may_raise(*OF_POPEN),
        of_group,
        _terms=GOOD,
        _options=options,
        _count=st.integers(0, 3),
    ),
}


def fuzz_starting() -> None:
    try_all(STARTING, 100)


def test_starting(fuzz: Fuzz) -> None:
    fuzz(fuzz_starting)

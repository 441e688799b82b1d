"""What the fuzzers found, each kept as a test of its own: what is raised, and what it says."""

import os
import subprocess
from collections.abc import Callable
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from ephemport import (
    Reservation,
    ReservationGroup,
    adopt,
    listeners,
    port_map,
    reserve,
    reserve_many,
    wait_listening,
)
from ephemport.compat import PortAllocator, TestPortManager, worker_range
from tests.cli.conftest import COMMAND
from tests.conftest import ROOT
from tests.core.helpers import open_descriptors

LONG = "x" * 100_000
HUGE = 10**5000


class NoIndex:
    def __index__(self) -> int:
        return "8080"  # type: ignore[return-value]


def listen(backlog: Any) -> None:
    with reserve() as reservation:
        reservation.listen(backlog).close()


def popen(*args: Any, **kwargs: Any) -> None:
    with reserve() as reservation, reservation.popen(*args, **kwargs) as process:
        process.wait()


FOUND: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a NUL in the host": (lambda: reserve(host="127.0.0.1\0"), ValueError, "is no address"),
    "a long host": (lambda: reserve(host=LONG), ValueError, r"100,002 letters"),
    "a long protocol": (lambda: reserve(protocol=LONG), ValueError, "known are tcp, udp, both"),
    "a long handoff": (lambda: reserve(handoff=LONG), ValueError, "known are takeover"),
    "no int from __index__": (lambda: reserve(port=NoIndex()), TypeError, r"returns '8080'"),
    "the class int": (lambda: listeners(int), TypeError, "not <class 'int'>"),  # type: ignore[arg-type]
    "more digits than Python writes": (lambda: reserve(port=HUGE), ValueError, "port=<int> is no"),
    "as many for a port": (lambda: listeners(HUGE), ValueError, "<int> is no port"),
    "as many for a count": (lambda: reserve_many(-HUGE), ValueError, "must not be negative"),
    "range without end": (lambda: reserve(range=repeat(1)), ValueError, "more than 65,536"),
    "as many for a range": (lambda: reserve(range=[HUGE]), ValueError, "range= has <int>"),
    "exclude without end": (lambda: reserve(exclude=repeat(1)), ValueError, "more than 65,536"),
    "port without end": (lambda: reserve(port=repeat(1)), ValueError, "more than 65,536"),
    "ports without end": (lambda: reserve(port=count(1)), ValueError, "port=65536 is no port"),
    "a reservation made by hand": (
        lambda: Reservation(8080, "127.0.0.1", "tcp", "takeover"),  # type: ignore[arg-type]
        TypeError,
        r"write reserve\(\)",
    ),
    "a group of ports": (lambda: ReservationGroup([8080]), TypeError, "made of reservations"),  # type: ignore[list-item]
    "a URL of bytes": (lambda: listen_url(b"http"), TypeError, "must be strings, not b'http'"),
    "a backlog that is no int": (lambda: listen("5"), TypeError, "backlog must be an int or None"),
    "a pid that no process has": (
        lambda: wait_listening(8080, 0, process=2**40),
        ValueError,
        "must be the id of a process",
    ),
    "an empty command": (lambda: popen([]), ValueError, "the program to start"),
    "a command that is a port": (lambda: popen(8080), TypeError, "args must be a sequence"),
    "a command without end": (lambda: popen(repeat(b"x")), ValueError, "more than 1,000,000 items"),
    "an argument that is no text": (
        lambda: popen(["true", None]),
        TypeError,
        "or an int, not None",
    ),
    "an argument that is a bool": (lambda: popen(["true", True]), TypeError, "or an int, not True"),
    "pass_fds that is none": (
        lambda: popen(["true"], activate=True, pass_fds=1),
        TypeError,
        "pass_fds must be a sequence",
    ),
    "a token that is too long": (
        lambda: adopt(f"ephemport-share:{LONG}:a"),
        ValueError,
        "no token",
    ),
    "a token with a NUL": (lambda: adopt("ephemport-share:\0:a"), ValueError, "no token"),
    "a token with no ASCII": (lambda: adopt("ephemport-share:\ud800:a"), ValueError, "no token"),
    "a worker with 5,000 digits": (
        lambda: worker_range("nosuch", "gw" + "9" * 5000),
        ValueError,
        "unknown category",
    ),
    "no allocator": (lambda: TestPortManager(1), TypeError, "must be a PortAllocator"),  # type: ignore[arg-type]
    "no port to release": (
        lambda: PortAllocator().release_port("1"),  # type: ignore[arg-type]
        TypeError,
        "port must be an int",
    ),
}


def listen_url(scheme: Any) -> None:
    with reserve() as reservation:
        reservation.url(scheme)


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found(what: str) -> None:
    call, error, says = FOUND[what]
    before = open_descriptors()
    with pytest.raises(error, match=says) as caught:
        call()
    assert type(caught.value) is error
    assert len(str(caught.value)) < 1000
    assert open_descriptors() == before


def test_ints_and_reservations_are_arguments() -> None:
    with reserve() as reservation:
        with reservation.popen(
            ["echo", reservation.port, reservation, 7], stdout=-1, text=True
        ) as process:
            told, _ = process.communicate()
        assert told == f"{reservation.port} {reservation.port} 7\n"
    with reserve_many(2) as group:
        with group.popen(["echo", *group], stdout=-1, text=True) as process:
            told, _ = process.communicate()
        assert told == f"{group.ports[0]} {group.ports[1]}\n"


def test_a_backlog_may_be_any_int() -> None:
    for backlog in (-1, 0, 2**40):
        listen(backlog)


def test_a_time_may_be_any_int() -> None:
    with reserve() as reservation, reservation.listen():
        assert wait_listening(reservation, HUGE).port == reservation.port


def test_a_number_that_is_no_port_is_nobodys_stand_in() -> None:
    assert port_map.as_written(HUGE) is None
    assert worker_range("testing", "gw" + "9" * 5000).start >= 13000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["migrate", "loop"], "no such file or folder"),
        (["migrate", "--exclude=--", "."], "0 findings"),
        (["reserve", "--host=--"], "host '--' is no address"),
        (["who", "h\udc80://x"], "names no port"),
    ],
    ids=lambda value: "",
)
def test_what_was_found_in_commands(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    ran = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr

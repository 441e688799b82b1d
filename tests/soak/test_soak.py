"""The soak finds what it is there to find: each fault is made here, and reported by its name."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ephemport import Reservation, reserve
from tests.conftest import ROOT, InNamespace

Faults = list[list[str]]


def _faults(starts: int) -> Faults:
    """What a small soak in this network finds broken: promise, explanation, event."""
    from benchmarks.soak.network import cell

    *_, last = cell(seed=1, workers=2, starts=starts, seconds=60)
    assert last["done"]
    assert last["counts"]["starts"] >= starts or last["faults"]
    return [[one["promise"], one["what"], one.get("kind", "")] for one in last["faults"]]


def _patch_reserve(reserve: Any) -> None:
    from benchmarks.soak import books, children, events

    books._BETWEEN_SAMPLES = 0.0  # enough of them in a short run

    for module in (children, events):
        setattr(module, "reserve", reserve)  # noqa: B010


def _nothing_broken() -> Faults:
    return _faults(500)


def _closing_picker() -> Faults:
    def pick(**terms: Any) -> Reservation:
        picked = reserve(**terms)
        picked.release()
        return picked

    _patch_reserve(pick)
    return _faults(500)


def _leaked_hold() -> Faults:
    leaked: list[Reservation] = []

    def leak(**terms: Any) -> Reservation:
        given = reserve(**terms)
        if len(leaked) < 3:
            leaked.append(reserve())
        return given

    _patch_reserve(leak)
    return _faults(500)


def _shares_ports(ports: Iterable[int]) -> Callable[..., Reservation]:
    import socket

    from benchmarks.soak import events
    from ephemport._holding.acquire import adopt_sockets

    def trap(**terms: Any) -> Reservation:
        sock = socket.SocketType(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("::", next(following)))
        except OSError:  # a server on it, which shares with nobody
            sock.close()
            return reserve(**terms)
        return Reservation(adopt_sockets(sock.getsockname()[1], (sock,)), "127.0.0.1", "udp", "fd")

    # Few servers: each lets nobody else in on its port.
    events.EVENTS[events.start] //= 20
    following = iter(ports)
    return trap


def _double_within() -> Faults:
    each_twice = (port for port in itertools.cycle(range(40000, 40060)) for _ in range(2))
    _patch_reserve(_shares_ports(each_twice))
    return _faults(100)


def _double_across() -> Faults:
    # Each worker by itself never has one twice.
    _patch_reserve(_shares_ports(itertools.cycle(range(40000, 40060))))
    return _faults(100)


def _open_files() -> Faults:
    forgotten: list[int] = []

    def forget_a_file(**terms: Any) -> Reservation:
        if len(forgotten) < 2:
            forgotten.append(os.open("/dev/null", os.O_RDONLY))
        return reserve(**terms)

    _patch_reserve(forget_a_file)
    return _faults(500)


def _memory() -> Faults:
    kept: list[bytes] = []

    def remember(**terms: Any) -> Reservation:
        kept.append(bytes(20_000))
        return reserve(**terms)

    _patch_reserve(remember)
    return _faults(2500)


def _objects() -> Faults:
    kept: list[object] = []

    def remember(**terms: Any) -> Reservation:
        kept.append(object())
        return reserve(**terms)

    _patch_reserve(remember)
    return _faults(2500)


def _deadly() -> Faults:
    def die(**terms: Any) -> Reservation:
        os.kill(os.getpid(), signal.SIGKILL)
        return reserve(**terms)

    _patch_reserve(die)
    return _faults(500)


def _kept_by_children() -> Faults:
    given: list[Reservation] = []
    copies: list[int] = []

    def remember(**terms: Any) -> Reservation:
        given.append(reserve(**terms))
        return given[-1]

    def copy() -> None:
        copies.extend(
            os.dup(sock.fileno()) for one in given if not one.released for sock in one._hold.sockets
        )

    def close_copies() -> None:
        while copies:
            os.close(copies.pop())

    os.register_at_fork(before=copy, after_in_parent=close_copies)
    _patch_reserve(remember)
    return _faults(500)


def _lost_in_a_signal() -> Faults:
    import time

    from benchmarks.soak import events

    lost: list[Reservation] = []

    def slow(**terms: Any) -> Reservation:
        lost.append(reserve(**terms))
        until = time.perf_counter() + 300e-6
        while time.perf_counter() < until:
            pass
        return lost.pop()

    events.EVENTS[events.interrupt_reserve] *= 10
    _patch_reserve(slow)
    return _faults(500)


def test_a_small_soak_finds_nothing(in_namespace: InNamespace) -> None:
    assert in_namespace(_nothing_broken, ports=(40000, 40199)) == []


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (
            _closing_picker,
            [("lost", "no server could start on <Res"), ("lost", "is gone, and not released")],
        ),
        (_leaked_hold, [("left behind", "in nobody's books")]),
        (_double_within, [("double", "was given to this process twice")]),
        (_double_across, [("double", "was given to this process and is pid")]),
        (_kept_by_children, [("left behind", "is open in a forked child")]),
        (_lost_in_a_signal, [("left behind", "in nobody's books")]),
        (_open_files, [("not flat", "descriptors are open")]),
        (_memory, [("not flat", "bytes of memory became")]),
        (_objects, [("not flat", "objects became")]),
        (_deadly, [("unexpected", "the worker ended without a word")]),
    ],
)
def test_it_finds(
    in_namespace: InNamespace, broken: Callable[[], Faults], found: list[tuple[str, str]]
) -> None:
    faults = in_namespace(broken, ports=(40000, 40199))
    for promise, words in found:
        assert [what for kind, what, _ in faults if kind == promise and words in what], faults


def _soak(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak", "--seed", "7", "--workers", "2", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_command_covers_both_ranges(tmp_path: Path) -> None:
    with _soak("--starts", "200", "--json", str(tmp_path / "soak.json")) as soak:
        said, complaints = soak.communicate(timeout=120)
    assert (soak.returncode, complaints) == (0, "")
    assert said.startswith("seed 7,")
    assert said.endswith("no promise broken\n")
    written = json.loads((tmp_path / "soak.json").read_text())
    assert written["seed"] == 7
    assert [row["counts"]["starts"] >= 100 for row in written["ranges"].values()] == [True, True]


def test_ctrl_c_says_what_was_done_until_then() -> None:
    with _soak() as soak:
        assert soak.stdout is not None
        soak.stdout.readline()  # the seed: it runs
        soak.send_signal(signal.SIGINT)
        said, complaints = soak.communicate(timeout=60)
    assert soak.returncode == 130
    assert said.startswith("stopped; until then:\n")
    assert "not finished: " in said
    assert "Traceback" not in complaints

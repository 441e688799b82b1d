"""A group: all servers up, or the error of the first that is not."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ephemport import (
    ReservationReleased,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
    reserve_many,
)

# Longer than any test.
LONG = 600

LISTENS = """
import socket, sys, time
kept = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
sys.stdin.read()
"""


@contextmanager
def server(*ports: int, source: str = LISTENS) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(
        [sys.executable, "-c", source, *map(str, ports)], stdin=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_server_of_all_ports_and_one_for_each(asynchronous: bool) -> None:
    with reserve_many(3) as group, ExitStack() as started:
        whole = started.enter_context(server(*group.ports))
        found = (
            asyncio.run(group.wait_listening_async(30, whole))
            if asynchronous
            else group.wait_listening(30, whole)
        )
        assert [one.port for one in found] == group.ports
        assert {one.pid for one in found} == {whole.pid}
    with reserve_many(3) as group, ExitStack() as started:
        each = [started.enter_context(server(port)) for port in group.ports]
        found = (
            asyncio.run(group.wait_listening_async(30, each))
            if asynchronous
            else group.wait_listening(30, each)
        )
        assert [one.pid for one in found] == [one.pid for one in each]
        with pytest.raises(WrongListener):
            group.wait_listening(30, each[::-1])


def test_without_a_process_any_listener_counts() -> None:
    with reserve_many(2) as group, group[0].listen(), group[1].listen():
        assert [one.port for one in group.wait_listening()] == group.ports


def test_an_empty_group_is_up() -> None:
    with reserve_many(0) as group:
        assert group.wait_listening(LONG) == []


def test_the_error_is_that_of_the_first_that_is_not_up() -> None:
    with reserve_many(3) as group, group[0].listen():
        with pytest.raises(TakeoverTimeout, match=r"within 0\.05 s") as caught:
            group.wait_listening(0.05)
        assert caught.value.port == group[1].port


def test_one_that_ends_is_reported_while_another_is_waited_for() -> None:
    with reserve_many(2) as group, server() as slow, server(source="raise SystemExit(3)") as ended:
        with pytest.raises(ServerExited, match="status 3") as caught:
            group.wait_listening(LONG, [slow, ended])
        assert caught.value.port == group[1].port


def test_the_time_is_for_all_together() -> None:
    with reserve_many(2) as group, group[0].listen(), group[1].listen():
        threading.Timer(0.01, int).start()
        assert len(group.wait_listening(0)) == 2


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_servers_as_ports(count: int) -> None:
    with reserve_many(2) as group, pytest.raises(ValueError, match=f"has {count} servers"):
        group.wait_listening(1, [None] * count)


def test_a_group_that_has_lost_a_port_says_so() -> None:
    with reserve_many(2) as group:
        group[1].release()
        with pytest.raises(ReservationReleased, match=str(group[1].port)):
            group.wait_listening(LONG)

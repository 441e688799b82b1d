"""A preference that is used up: the error names what was in the way of each port."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ephemport import PortUnavailable, reserve, reserve_many
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import become_nobody, bound, can_be_two_users, leave_time_wait

SERVER = """
import socket, sys
socks = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def server(*ports: int) -> Iterator[int]:
    """Another process that listens on these ports; its pid."""
    command = [sys.executable, "-c", SERVER, *map(str, ports)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.pid
        process.communicate()


def refused(call: Any, *arguments: Any, **asked: Any) -> PortUnavailable:
    with pytest.raises(PortUnavailable) as caught:
        call(*arguments, **asked)
    return caught.value


def test_every_port_that_is_taken_and_by_whom(in_namespace: InNamespace) -> None:
    in_namespace(_every_port)


def _every_port() -> None:
    with (
        server(8000, 8003, 8004) as one,
        server(8007) as two,
        bound(8009) as own,
        reserve(port=8005),
    ):
        error = refused(reserve_many, 5, port=range(8000, 8010))
        text = str(error)
        assert text.startswith(
            "cannot reserve 5 of the ports 8000-8009 (tcp): 4 of them are free; 8000 is taken: "
            f"pid {one} ("
        )
        assert "listens on 127.0.0.1:8000 (tcp) (likewise 8003, 8004); " in text
        assert f"; 8007 is taken: pid {two} (" in text
        if can_see_bound_inactive():
            assert "; 8005 is taken: this process" in text
            assert "; 8009 is taken: this process" in text
        else:
            by = f"the kernel does not show by whom; {HOLDERS_UNSEEN}"
            assert f"; 8005 is taken: {by}" in text
            assert "Linux 6.8 does (likewise 8009)" in text
        for free in (8001, 8002, 8006, 8008):
            assert str(free) not in text
        seen = can_see_bound_inactive()
        step = "Close or release it in this process, and end the others"
        assert text.endswith(
            f". {step if seen else 'End those processes'}. End port= in 0 to fall back to any port"
        )
        assert (error.port, error.protocol) == (8000, "tcp")
        assert error.diagnosis is not None
        assert error.diagnosis.found[0].pid == one
        own.close()
        with reserve_many(5, port=range(8000, 8010)) as group:
            assert group.ports == [8001, 8002, 8006, 8008, 8009]


def test_one_of_several(in_namespace: InNamespace) -> None:
    in_namespace(_one_of_several)


def _one_of_several() -> None:
    with server(8080) as one, server(8081) as two:
        text = str(refused(reserve, port=[8080, 8081]))
        assert text.startswith("cannot reserve any of 8080, 8081 (tcp): 8080 is taken: pid ")
        assert f"pid {one} (" in text
        assert f"8081 is taken: pid {two} (" in text
        assert ". End those processes. End port= in 0 to fall back to any port" in text
        text = str(refused(reserve, port=[8080, 8090], exclude=[8090]))
        assert f"8080: pid {one} (" in text
        assert "; 8090 is excluded. End that process, or exclude fewer ports. End port=" in text
    with server(8080) as one:
        text = str(refused(reserve_many, 2, port=[8080, 8081], protocol="both"))
        assert f"(both): 1 of them is free; 8080: pid {one} (" in text
        text = str(refused(reserve_many, 3, port=[8081, 8082]))
        assert "2 of them are free; there are no others. End port= in 0" in text
        # One of the steps is enough, or both are needed.
        text = str(refused(reserve_many, 2, port=[8080, 8081, 8090], exclude=[8090]))
        assert "End that process, or exclude fewer ports" in text
        text = str(refused(reserve_many, 3, port=[8080, 8081, 8090], exclude=[8090]))
        assert "End that process and exclude fewer ports" in text
        text = str(refused(reserve_many, 2, contiguous=True, port=8080, exclude=[8081]))
        assert "End that process and exclude fewer ports, or ask for other ports" in text


def test_many_are_counted(in_namespace: InNamespace) -> None:
    in_namespace(_many)


def _many() -> None:
    alone = range(8000, 8030)
    from contextlib import ExitStack

    with ExitStack() as stack:
        # Each of another kind or family, so that no two of them are alike.
        for port in alone:
            stack.enter_context(server(port))
            if port == 8010:
                break
        stack.enter_context(reserve_many(19, port=range(8011, 8030)))
        text = str(refused(reserve_many, 1, port=alone))
        assert text.count("is taken: pid") == 8
        assert "22 more ports are taken (8008-8029)" in text
    if not can_see_bound_inactive():
        return
    with reserve_many(100, port=range(8000, 8100)):
        text = str(refused(reserve_many, 5, port=range(8000, 8100)))
        assert "0 of them are free; 8000 is taken: this process" in text
        assert "(likewise 8001-8031)" in text
        assert "68 more ports are taken (8032-8099)" in text
        assert len(text) < 1000


def test_rows_and_offsets(in_namespace: InNamespace) -> None:
    in_namespace(_rows)


def _rows() -> None:
    with server(8001, 8005) as one, server(18011) as two:
        text = str(refused(reserve_many, 5, contiguous=True, port=8001))
        assert text.startswith("cannot reserve the 5 ports 8001-8005 (tcp): 8001 is taken: pid")
        assert "(likewise 8005). End that process, or ask for other ports" in text
        text = str(refused(reserve_many, 2, contiguous=True, port=[8000, 8004]))
        assert text.startswith(
            "cannot reserve 2 ports in a row beginning with any of 8000, 8004 (tcp): 8001 is taken"
        )
        assert f"pid {one} (" in text
        assert "(likewise 8005). End that process. End port= in 0" in text
        text = str(refused(reserve_many, offsets=[0, 10000], port=[8001, 8011, 60000]))
        assert f"8001 is taken: pid {one} (" in text
        assert f"18011 is taken: pid {two} (" in text
        assert "60000 is not possible: ports end at 65535, and 70000 is none" in text
        text = str(refused(reserve_many, offsets=[0, 1], multiple_of=2, port=[8001, 8000]))
        assert "8001 is no multiple of 2" in text
        assert "8001: pid" not in text.partition("8001 is no multiple")[2]


def test_connections_in_time_wait_are_not_in_the_way(in_namespace: InNamespace) -> None:
    in_namespace(_time_wait)


def _time_wait() -> None:
    leave_time_wait(8001)
    with server(8000):
        with reserve_many(1, port=[8000, 8001]) as group:
            assert group.ports == [8001]
        text = str(refused(reserve_many, 2, port=[8000, 8001]))
        assert "TIME_WAIT" not in text


def test_ports_that_only_root_may_bind(in_namespace: InNamespace) -> None:
    if not can_be_two_users():
        pytest.skip("needs root to be two users")
    in_namespace(_root_only)


def _root_only() -> None:
    become_nobody()
    text = str(refused(reserve, port=[80, 443]))
    assert text.startswith("cannot reserve any of 80, 443 (tcp): 80, 443 are below net.ipv4.ip_")
    assert ". Ask for higher ports. End port= in 0" in text

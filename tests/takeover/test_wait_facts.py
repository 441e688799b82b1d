"""The messages of a wait that failed say what the kernel says, and call unknown what is unknown."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ephemport import ServerExited, TakeoverTimeout, WrongListener, reserve, wait_listening
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._looking.process_sockets import what_processes_have
from tests.abilities import Ability, needs, without
from tests.conftest import InNamespace

PROGRAM = """
import socket, sys
port = int(sys.argv[1])
tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
{body}
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def program(body: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that has done `body` and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_without_a_process_nothing_is_said_of_a_server() -> None:
    with reserve() as r, pytest.raises(TakeoverTimeout) as caught:
        r.wait_listening(0.01)
    text = str(caught.value)
    assert "It is unknown here whether a server was started" in text
    assert "it sets neither" not in text
    assert "If one reports 'Address already in use': the hold lets in a TCP server that" in text
    assert (caught.value.port, caught.value.protocol) == (r.port, "tcp")
    assert caught.value.diagnosis is not None
    if can_see_bound_inactive():
        assert caught.value.diagnosis.found[0].hold == "open"
    else:
        assert f"the kernel shows nobody; {HOLDERS_UNSEEN}" in text


def test_where_nobody_holds_it_nothing_is_said_of_a_hold() -> None:
    with reserve() as r:
        port = r.port
    with pytest.raises(TakeoverTimeout) as caught:
        wait_listening(port, 0.01)
    assert "nobody holds it" in str(caught.value)
    assert "SO_REUSE" not in str(caught.value)


@needs(Ability.SHOWS_BOUND)
def test_the_error_for_a_plain_int_names_the_hold_that_is_there() -> None:
    with reserve(handoff="fd") as r, pytest.raises(TakeoverTimeout) as caught:
        wait_listening(r.port, 0.01)
    assert "the hold lets in no server, whatever it sets (handoff='fd')" in str(caught.value)


@without(Ability.SHOWS_BOUND)
def test_the_error_for_a_plain_int_says_that_holds_cannot_be_seen() -> None:
    with reserve(handoff="fd") as r, pytest.raises(TakeoverTimeout) as caught:
        wait_listening(r.port, 0.01)
    assert f"the kernel shows nobody; {HOLDERS_UNSEEN}: Linux" in str(caught.value)
    assert "no server can bind it" in str(caught.value)


@pytest.mark.parametrize(
    ("handoff", "reported"),
    [("takeover", "lets in no UDP server"), ("shadow", "lets in a UDP server on the host")],
)
def test_the_error_for_udp_names_the_udp_hold(handoff: str, reported: str) -> None:
    with reserve(protocol="udp", handoff=handoff) as r, pytest.raises(TakeoverTimeout) as caught:
        r.wait_listening(0.01)
    assert reported in str(caught.value)
    assert "neither" not in str(caught.value).partition("If one reports")[2]


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        ("tcp.bind(('127.0.0.1', 0)); tcp.listen()", r"listens on 127\.0\.0\.1:\d+ \(tcp\), not"),
        (
            "tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)",
            r"socket that (is bound to no port|does not listen) "
            r"\(SO_REUSEADDR set, SO_REUSEPORT not set\)",
        ),
        (
            "tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
            "tcp.bind(('127.0.0.1', port))",
            r"has bound 127\.0\.0\.1:\d+ \(tcp\) and does not listen"
            if can_see_bound_inactive()
            else r"has a TCP socket that does not listen",
        ),
        ("tcp.close()", "it has no TCP socket"),
    ],
    ids=["elsewhere", "unbound", "bound", "none"],
)
def test_what_the_process_does_instead(body: str, reported: str) -> None:
    with reserve() as r, program(body, r.port) as process:
        with pytest.raises(TakeoverTimeout, match=reported) as caught:
            r.wait_listening(0.01, process)
    assert "UDP" not in str(caught.value)


def test_a_process_in_another_network(in_namespace: InNamespace) -> None:
    source = """
import subprocess, sys
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._looking.process_sockets import what_processes_have
from ephemport._findings import HOLDERS_UNSEEN
child = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
from tests.core.helpers import eventually
from ephemport._kernel.networks import network_of
assert eventually(lambda: network_of(child.pid) not in (None, network_of("self")))
print(what_processes_have([child.pid], 9001, ["tcp"]))
child.communicate()
"""
    assert "is in another network namespace" in in_namespace(source)


def test_a_process_that_may_not_be_looked_into() -> None:
    # No process has this id. To us it is like a process that may not be looked into.
    assert "unknown" in what_processes_have([2**22 + 1], 9001, ["tcp"])


@pytest.mark.parametrize(
    ("option", "reported"),
    [
        ("SO_REUSEADDR", "(SO_REUSEADDR set, SO_REUSEPORT not set)"),
        ("SO_REUSEPORT", "(SO_REUSEADDR not set, SO_REUSEPORT set)"),
    ],
)
def test_a_wrong_listener_s_options_are_read(option: str, reported: str) -> None:
    stranger = (
        f"tcp.setsockopt(socket.SOL_SOCKET, socket.{option}, 1); "
        "tcp.bind(('127.0.0.1', port)); tcp.listen()"
    )
    with reserve() as r, program("", r.port) as process, program(stranger, r.port):
        with pytest.raises(WrongListener) as caught:
            r.wait_listening(10, process)
    assert reported in str(caught.value)
    assert "neither" not in str(caught.value)
    assert (caught.value.port, caught.value.protocol) == (r.port, "tcp")
    assert caught.value.diagnosis is not None
    assert "listens" in [one.state for one in caught.value.diagnosis.found]


def test_a_server_that_exited_over_another_port_is_not_blamed() -> None:
    with reserve() as r, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        body = f"import socket; socket.socket().bind(('127.0.0.1', {other.getsockname()[1]}))"
        with subprocess.Popen(
            [sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            process.wait()
            with pytest.raises(ServerExited, match="If that is this port: the hold") as caught:
                r.wait_listening(10, process)
    assert "it sets neither" not in str(caught.value)
    assert caught.value.port == r.port
    assert caught.value.diagnosis is not None

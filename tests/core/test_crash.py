"""A server that crashes and comes back, on a port that only it can have."""

import itertools
import os
import signal
import socket
from contextlib import ExitStack

import pytest

import ephemport._holding.hold
from ephemport import PortUnavailable, listeners, reserve
from ephemport._kernel.sockets import (
    SocketRecord,
    State,
    can_see_bound_inactive,
    read_sockets,
)
from tests.conftest import InNamespace
from tests.core.helpers import (
    abort_on_close,
    bound,
    child,
    eventually,
    finish,
    is_held,
    leave_time_wait,
    may_bind,
    peer,
    restless_neighbour,
)

ROUNDS = 100


def _server(port: int) -> None:
    with bound(port, options=(socket.SO_REUSEADDR,)) as server:
        server.listen()
        connections = []
        while True:
            connections.append(server.accept()[0])
            connections[-1].sendall(b"%d\n" % os.getpid())


def _crash_and_restart() -> None:
    with peer() as somewhere, ExitStack() as stack, reserve() as r:
        for _ in range(2):
            stack.enter_context(child(restless_neighbour(somewhere)))
        for _ in range(ROUNDS):
            with child(lambda: _server(r.port)) as pid:
                eventually(lambda: [one.pid for one in listeners(r)])
                assert [one.pid for one in listeners(r)] == [pid]
                client = socket.create_connection(r.address, timeout=10)
                assert client.recv(20) == b"%d\n" % pid
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            assert client.recv(1) == b""
            abort_on_close(client)
            client.close()
            assert is_held(r, os.getpid())


def test_a_server_crashes_and_restarts_a_hundred_times(in_namespace: InNamespace) -> None:
    in_namespace(_crash_and_restart)


def _restart_past_time_wait() -> None:
    with reserve() as r:
        for _ in range(10):
            leave_time_wait(r.port)


def test_its_time_waits_do_not_keep_a_server_out(in_namespace: InNamespace) -> None:
    in_namespace(_restart_past_time_wait)


def _reserve_past_time_wait(protocol: str, handoff: str) -> None:
    for port in (40001, 50000):
        leave_time_wait(port)
        assert not may_bind(port, "::")
        for wanted in (port, [port, 0]):
            with reserve(port=wanted, protocol=protocol, handoff=handoff) as r:
                assert r.port == port
                assert read_sockets("tcp", {State.TIME_WAIT}, port=port)
                for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
                    assert not may_bind(port, address)
                    if handoff == "fd":
                        assert not may_bind(port, address, socket.SO_REUSEADDR)
                if handoff == "takeover":
                    leave_time_wait(port)


def test_a_port_whose_server_left_time_waits(in_namespace: InNamespace) -> None:
    for protocol in ("tcp", "both"):
        for handoff in ("takeover", "fd"):
            in_namespace(_reserve_past_time_wait, protocol, handoff)


def _still_used() -> None:
    # An older kernel does not show a server on one address between its bind() and its listen().
    quiet = [False] if can_see_bound_inactive() else []
    for port, (address, listens) in enumerate(
        itertools.product(("127.0.0.1", "127.0.0.9", "0.0.0.0", "::", "::1"), (*quiet, True)),
        50000,
    ):
        leave_time_wait(port)
        with bound(port, address, (socket.SO_REUSEADDR,)) as server:
            if listens:
                server.listen()
            with pytest.raises(PortUnavailable, match="listens on" if listens else "holds"):
                reserve(port=port)


def test_time_waits_are_no_excuse_to_share(in_namespace: InNamespace) -> None:
    in_namespace(_still_used)


def _race_for_time_wait(rounds: int, old_kernel: bool) -> list[int]:
    """How many of two processes got the same port, for every round."""
    leave_time_wait(50000)
    if old_kernel:  # before Linux 6.8: nobody sees what is bound and does not listen
        setattr(ephemport._holding.hold, "read_sockets", _see_listeners_only)  # noqa: B010
    winners = []
    for _ in range(rounds):
        go, please_go = os.pipe()
        done, is_done = os.pipe()
        end, please_end = os.pipe()

        def racer(
            go: int = go, is_done: int = is_done, end: int = end, close: int = please_end
        ) -> None:
            os.close(close)
            os.read(go, 1)
            try:
                r = reserve(port=50000)
            except PortUnavailable:
                os.write(is_done, b"0")
                return
            os.write(is_done, b"1")
            os.read(end, 1)  # held until all have tried
            r.release()

        with ExitStack() as stack:
            racers = [stack.enter_context(child(racer)) for _ in range(2)]
            os.write(please_go, b"gg")
            said = b""
            while len(said) < 2:
                said += os.read(done, 2)
            os.close(please_end)
            for pid in racers:
                finish(pid)
        for descriptor in (go, please_go, done, is_done, end):
            os.close(descriptor)
        winners.append(said.count(b"1"))
        assert read_sockets("tcp", {State.TIME_WAIT}, port=50000)
    return winners


def _see_listeners_only(protocol: str, states: set[State], *, port: int) -> list[SocketRecord]:
    return read_sockets(protocol, states - {State.BOUND_INACTIVE}, port=port)


@pytest.mark.parametrize("old_kernel", [False, True])
def test_two_that_race_for_a_port_in_time_wait_never_both_get_it(
    in_namespace: InNamespace, old_kernel: bool
) -> None:
    winners = in_namespace(_race_for_time_wait, 150, old_kernel)
    assert max(winners) == 1
    # Both may lose: each saw the other. Otherwise one wins.
    assert winners.count(1) > 75

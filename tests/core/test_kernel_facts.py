"""What the library relies on, asked of the kernel itself: without the library, wherever it can be.

Each runs in a network of its own with the 64 ports 40000 to 40063.
"""

import errno
import os
import select
import socket

import pytest

from ephemport._kernel.sockets import State, read_netlink, read_proc_net
from tests.abilities import Ability, needs, without
from tests.conftest import InNamespace
from tests.core.helpers import (
    ADDRESSES,
    OPTIONS,
    TCP,
    UDP,
    V4_ADDRESSES,
    abort_on_close,
    become_nobody,
    bound,
    can_be_two_users,
    given_to_connect,
    given_to_strangers,
    in_child,
    leave_time_wait,
    may_bind,
)

RANGE = range(40000, 40064)
REUSEADDR, REUSEPORT = socket.SO_REUSEADDR, socket.SO_REUSEPORT
BOTH = (REUSEADDR, REUSEPORT)


def let_in(sock: socket.socket, *options: int) -> None:
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)


def _wildcard_holds(after: tuple[int, ...], kind: int, address: str) -> list[int]:
    holds = [bound(0, address, kind=kind) for _ in RANGE]
    assert {sock.getsockname()[1] for sock in holds} == set(RANGE)
    for sock in holds:
        let_in(sock, *after)
    one_family = address == "0.0.0.0"
    given = given_to_strangers(kind, V4_ADDRESSES if one_family else ADDRESSES)
    with bound(9, "::", kind=kind) as server:
        if kind == TCP:
            server.listen()
        given += given_to_connect(("127.0.0.1", 9), kind)
        if not one_family:
            given += given_to_connect(("::1", 9), kind)
    return given


@pytest.mark.parametrize("after", OPTIONS)
@pytest.mark.parametrize("address", ["::", "0.0.0.0"])
def test_a_tcp_port_held_on_the_wildcard_is_given_to_nobody(
    in_namespace: InNamespace, after: tuple[int, ...], address: str
) -> None:
    assert in_namespace(_wildcard_holds, after, TCP, address) == []


@pytest.mark.parametrize("address", ["::", "0.0.0.0"])
def test_a_udp_port_held_exclusively_is_given_to_nobody(
    in_namespace: InNamespace, address: str
) -> None:
    assert in_namespace(_wildcard_holds, (), UDP, address) == []


def _given_one_by_one(options: tuple[int, ...]) -> list[int]:
    holds = [bound(0, "::", options) for _ in RANGE]
    return [sock.getsockname()[1] for sock in holds]


def test_bind_prefers_odd_ports(in_namespace: InNamespace) -> None:
    given = in_namespace(_given_one_by_one, ())
    assert [port % 2 for port in given] == [1] * 32 + [0] * 32


def test_reuseaddr_before_the_bind_searches_half_the_range(in_namespace: InNamespace) -> None:
    given = in_namespace(_given_one_by_one, (REUSEADDR,))
    assert max(given[:16]) < 40032
    assert max(in_namespace(_given_one_by_one, ())[:32]) == 40063


def _who_gets_in(after: tuple[int, ...]) -> list[list[int]]:
    with bound(0, "::") as hold:
        let_in(hold, *after)
        got_in = []
        for options in OPTIONS:
            for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
                try:
                    with bound(hold.getsockname()[1], address, options) as server:
                        server.listen()
                        socket.create_connection(server.getsockname()[:2]).close()
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                else:
                    got_in.append(list(options))
        return got_in


@pytest.mark.parametrize(
    ("after", "welcome"),
    [
        ((), ()),
        ((REUSEADDR,), ((REUSEADDR,), BOTH)),
        ((REUSEPORT,), ((REUSEPORT,), BOTH)),
        (BOTH, ((REUSEADDR,), (REUSEPORT,), BOTH)),
    ],
)
def test_options_set_after_the_bind_let_servers_in_that_set_the_same(
    in_namespace: InNamespace, after: tuple[int, ...], welcome: tuple[tuple[int, ...], ...]
) -> None:
    assert in_namespace(_who_gets_in, after) == [list(one) for one in welcome for _ in range(4)]


def _share_the_listen() -> None:
    with bound(0, "::") as hold:
        let_in(hold, REUSEADDR)
        port = hold.getsockname()[1]
        with bound(port, "127.0.0.1", (REUSEADDR,)) as first:
            with bound(port, "127.0.0.1", (REUSEADDR,)) as second:
                first.listen()
                with pytest.raises(OSError) as refused:
                    second.listen()
                assert refused.value.errno == errno.EADDRINUSE
            assert not may_bind(port, "127.0.0.1", REUSEADDR)


def test_the_bind_can_be_shared_but_not_the_listen(in_namespace: InNamespace) -> None:
    in_namespace(_share_the_listen)


def _who_answers(options: tuple[int, ...]) -> list[int]:
    """Which of two servers of one user accept connections on one port, beside an open hold."""
    with bound(0, "::") as hold:
        let_in(hold, *BOTH)
        port = hold.getsockname()[1]
        with (
            bound(port, "127.0.0.1", options) as first,
            bound(port, "127.0.0.1", options) as second,
        ):
            servers = [first]
            first.listen()
            try:
                second.listen()
                servers.append(second)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            answered: set[int] = set()
            for _ in range(200):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    abort_on_close(client)
                    (server,) = select.select(servers, [], [])[0]
                    server.accept()[0].close()
                    answered.add(servers.index(server))
            return sorted(answered)


@pytest.mark.parametrize(
    ("options", "answer"), [((REUSEADDR,), [0]), ((REUSEPORT,), [0, 1]), (BOTH, [0, 1])]
)
def test_two_servers_of_one_user_that_both_set_reuseport_can_both_listen(
    in_namespace: InNamespace, options: tuple[int, ...], answer: list[int]
) -> None:
    assert in_namespace(_who_answers, options) == answer


def _second_server_of_another_user(first_user_too: bool) -> str:
    with bound(0, "::") as hold:
        let_in(hold, *BOTH)
        port = hold.getsockname()[1]
        with bound(port, "127.0.0.1", BOTH) as first:
            first.listen()
            readable, writable = os.pipe()

            def second() -> None:
                if not first_user_too:
                    become_nobody()
                got_in = any(may_bind(port, "127.0.0.1", *options) for options in OPTIONS)
                os.write(writable, b"yes" if got_in else b"no")

            in_child(second)
            os.close(writable)
            with os.fdopen(readable) as said:
                return said.read()


@pytest.mark.parametrize(("first_user_too", "answer"), [(True, "yes"), (False, "no")])
def test_a_second_server_of_another_user_is_refused(
    in_namespace: InNamespace, first_user_too: bool, answer: str
) -> None:
    if not can_be_two_users():
        pytest.skip("needs root to be two users")
    assert in_namespace(_second_server_of_another_user, first_user_too) == answer


def _as_another_user(after: tuple[int, ...]) -> list[list[int]]:
    with bound(0, "::") as hold, bound(0, "::") as answer:
        let_in(hold, *after)
        port = hold.getsockname()[1]
        answer.listen()
        readable, writable = os.pipe()

        def stranger() -> None:
            become_nobody()
            for options in OPTIONS:
                os.write(writable, b"yes " if may_bind(port, "127.0.0.1", *options) else b"no ")

        in_child(stranger)
        os.close(writable)
        with os.fdopen(readable) as said:
            words = said.read().split()
    return [list(options) for options, word in zip(OPTIONS, words, strict=True) if word == "yes"]


@pytest.mark.parametrize(
    ("after", "welcome"),
    [((), []), ((REUSEADDR,), [[REUSEADDR], list(BOTH)]), ((REUSEPORT,), [])],
)
def test_another_user_needs_reuseaddr_on_both_sides(
    in_namespace: InNamespace, after: tuple[int, ...], welcome: list[list[int]]
) -> None:
    if not can_be_two_users():
        pytest.skip("needs root to be two users")
    assert in_namespace(_as_another_user, after) == welcome


def _shadows() -> None:
    for shadow, servers in (
        ("::1", ("127.0.0.1", "0.0.0.0")),
        ("127.0.0.2", ("127.0.0.1", "::1")),
    ):
        with bound(40001, shadow, v6only=True):
            for address in servers:
                with bound(40001, address) as server:
                    server.listen()
            for options in OPTIONS:
                assert not may_bind(40001, "::", *options)


def test_a_tcp_shadow_lets_in_a_server_without_options(in_namespace: InNamespace) -> None:
    in_namespace(_shadows)


def _what_passes_shadows(shadow: str, kind: int) -> list[list[int]]:
    holds = [bound(port, shadow, kind=kind, v6only=True) for port in RANGE]
    with bound(9, "::", kind=kind) as server:
        if kind == TCP:
            server.listen()
        connect = given_to_connect(("127.0.0.1", 9), kind)
    dual = given_to_strangers(kind, [ADDRESSES[4]])
    v4 = given_to_strangers(kind, V4_ADDRESSES[:1])
    assert len(holds) == 64
    return [connect, dual, v4]


@pytest.mark.parametrize("shadow", ["::1", "127.0.0.2"])
def test_a_tcp_shadow_keeps_off_connect_and_dual_stack_but_no_stranger_on_ipv4(
    in_namespace: InNamespace, shadow: str
) -> None:
    connect, dual, v4 = in_namespace(_what_passes_shadows, shadow, TCP)
    assert (connect, dual) == ([], [])
    assert len(v4) == len(OPTIONS)


def test_a_udp_shadow_keeps_off_wildcards_and_connect(in_namespace: InNamespace) -> None:
    connect, dual, v4 = in_namespace(_what_passes_shadows, "127.0.0.2", UDP)
    assert (connect, dual) == ([], [])
    assert len(v4) == len(OPTIONS)


def _reusing_binds(count: int, kind: int) -> int:
    holds = [bound(0, "127.0.0.1", (REUSEADDR,), kind) for _ in range(count)]
    return len({sock.getsockname()[1] for sock in holds})


def test_udp_reuseaddr_before_bind_0_is_a_trap(in_namespace: InNamespace) -> None:
    assert in_namespace(_reusing_binds, 60, UDP) < 60
    assert in_namespace(_reusing_binds, 60, TCP) == 60


def test_autobind_reuse_breaks_the_promise(in_namespace: InNamespace) -> None:
    broken = in_namespace(_reusing_binds, 80, TCP, settings={"ipv4/ip_autobind_reuse": "1"})
    assert broken < 80


def _second_udp_socket() -> None:
    with bound(0, "127.0.0.1", kind=UDP) as first:
        port = first.getsockname()[1]
        assert not may_bind(port, "127.0.0.1", REUSEADDR, kind=UDP)
        let_in(first, REUSEADDR)
        with bound(port, "127.0.0.1", (REUSEADDR,), UDP) as second:
            with socket.socket(socket.AF_INET, UDP) as client:
                client.sendto(b"whose?", ("127.0.0.1", port))
            second.settimeout(10)
            assert second.recv(10) == b"whose?"


def test_a_second_udp_socket_takes_the_datagrams(in_namespace: InNamespace) -> None:
    in_namespace(_second_udp_socket)


def _time_wait(port: int) -> list[bool]:
    leave_time_wait(port)
    return [may_bind(port, "::"), may_bind(port, "::", REUSEADDR)]


def test_time_wait_is_passed_with_reuseaddr_only(in_namespace: InNamespace) -> None:
    assert in_namespace(_time_wait, 50000) == [False, True]


def _time_wait_without_options(port: int) -> list[bool]:
    leave_time_wait(port, options=())
    return [may_bind(port, "::", option) for option in (REUSEADDR, REUSEPORT)]


def test_time_wait_of_a_server_without_options_keeps_off_everybody(
    in_namespace: InNamespace,
) -> None:
    assert in_namespace(_time_wait_without_options, 50000) == [False, False]


def _state_13() -> None:
    with bound(0, "::") as hold:
        port = hold.getsockname()[1]
        (record,) = read_netlink("tcp", {State.BOUND_INACTIVE}, port=port)
        inode = os.fstat(hold.fileno()).st_ino
        assert (record.port, record.uid, record.inode) == (port, os.getuid(), inode)
        assert read_proc_net("tcp", tuple(State), port=port) == []


@needs(Ability.SHOWS_BOUND)
def test_netlink_shows_what_is_bound_and_proc_does_not(in_namespace: InNamespace) -> None:
    in_namespace(_state_13)


def _nobody_shows_it() -> None:
    with bound(0, "::") as hold:
        port = hold.getsockname()[1]
        assert read_netlink("tcp", tuple(State), port=port) == []
        assert read_proc_net("tcp", tuple(State), port=port) == []
        assert not may_bind(port)


@without(Ability.SHOWS_BOUND)
def test_an_older_kernel_shows_nowhere_what_is_bound(in_namespace: InNamespace) -> None:
    in_namespace(_nobody_shows_it)


def _never_accepts() -> None:
    with bound(0) as server:
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=10) as client:
            client.sendall(b"into the backlog")


def test_a_server_that_never_accepts_completes_handshakes(in_namespace: InNamespace) -> None:
    in_namespace(_never_accepts)


def test_every_network_has_its_own_ports(in_namespace: InNamespace) -> None:
    with bound(0, "::") as hold:
        assert in_namespace(may_bind, hold.getsockname()[1]) is True
        assert not may_bind(hold.getsockname()[1])

"""reserve(), one parameter after the other."""

import operator
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from ephemport import NoShadow, PortUnavailable, Reservation, holders, reserve
from ephemport._findings import HOLDERS_UNSEEN
from ephemport._kernel.port_range import ephemeral_range
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import (
    ADDRESSES,
    OPTIONS,
    TCP,
    UDP,
    bound,
    bound_ports,
    can_be_two_users,
    given_to_connect,
    given_to_strangers,
    is_held,
    may_bind,
    peer,
)

HOSTS = ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "127.0.0.9"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("handoff", ["takeover", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_a_port_is_held_whatever_is_asked(host: str, handoff: str, protocol: str) -> None:
    with reserve(host=host, handoff=handoff, protocol=protocol) as r:
        assert r.port in ephemeral_range()
        assert (r.host, r.handoff, r.protocol) == (host, handoff, protocol)
        assert r.address == (host, r.port)
        assert not r.released
        for kind, name in ((TCP, "tcp"), (UDP, "udp")):
            if protocol in (name, "both"):
                for _, address in ADDRESSES:
                    assert not may_bind(r.port, address, kind=kind)
        protocols = ["tcp", "udp"] if protocol == "both" else [protocol]
        assert is_held(r, os.getpid(), protocols=tuple(protocols))


def test_a_lone_host_is_127_0_0_1() -> None:
    with reserve() as r:
        assert (r.host, r.protocol, r.handoff) == ("127.0.0.1", "tcp", "takeover")


@pytest.mark.parametrize("handoff", ["takeover", "fd"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "both"])
def test_nobody_is_given_a_held_port(
    in_namespace: InNamespace, handoff: str, protocol: str
) -> None:
    assert in_namespace(_hold_the_whole_range, handoff, protocol) == []


def _hold_the_whole_range(handoff: str, protocol: str) -> list[int]:
    kinds = {"tcp": [TCP], "udp": [UDP], "both": [TCP, UDP]}[protocol]
    reservations = [reserve(handoff=handoff, protocol=protocol) for _ in range(64)]
    assert {r.port for r in reservations} == set(range(40000, 40064))
    given = []
    with peer() as somewhere:
        for kind in kinds:
            given += given_to_strangers(kind)
            given += given_to_connect(somewhere, kind)
    for r in reservations:
        r.release()
    return given


def test_shadows_hold_too(in_namespace: InNamespace) -> None:
    assert in_namespace(_shadow_the_whole_range) == []


def _shadow_the_whole_range() -> list[int]:
    reservations = [reserve(handoff="shadow") for _ in range(64)]
    given = given_to_strangers(TCP, [ADDRESSES[4]])
    with peer() as somewhere:
        given += given_to_connect(somewhere)
    for r in reservations:
        r.release()
    return given


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:{}"),
        ("localhost", "http://localhost:{}"),
        ("::1", "http://[::1]:{}"),
        ("::", "http://[::]:{}"),
    ],
)
def test_urls(host: str, url: str) -> None:
    with reserve(host=host) as r:
        assert r.url() == url.format(r.port)
        assert r.url("ws", "chat") == url.format(r.port).replace("http", "ws") + "/chat"
        assert r.url(path="/x?y=1") == url.format(r.port) + "/x?y=1"
        assert r.url(path="?y=1") == url.format(r.port) + "?y=1"


def test_it_stands_for_its_port() -> None:
    with reserve() as r:
        assert int(r) == operator.index(r) == r.port
        assert range(65536)[r] == r.port


def test_repr_says_what_it_is() -> None:
    r = reserve(host="::1", protocol="both", handoff="fd")
    text = f"<Reservation {r.port} host='::1' protocol='both' handoff='fd' %s>"
    assert repr(r) == text % "held"
    r.release()
    assert repr(r) == text % "released"


def test_a_preferred_port(in_namespace: InNamespace) -> None:
    in_namespace(_a_preferred_port)


def _a_preferred_port() -> None:
    with reserve() as first:
        port = first.port
    with reserve(port=port) as again:
        assert again.port == port
        assert not again.released
    with reserve(port=first) as by_index:  # a Reservation is an int where one is wanted
        assert by_index.port == port


def test_0_means_any() -> None:
    for port in (0, [0], (0,)):
        with reserve(port=port) as r:
            assert r.port in ephemeral_range()


def test_a_taken_port_names_its_holder() -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0));"
    script += "print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(PortUnavailable) as caught:
            reserve(port=port)
        assert f"cannot reserve port {port} (tcp)" in str(caught.value)
        assert f"pid {holder.pid} (" in str(caught.value)
        assert sys.executable in str(caught.value)
        assert "listens on" in str(caught.value)
        assert f"port=[{port}, 0]" in str(caught.value)
        holder.communicate("")


def test_a_port_that_this_process_holds() -> None:
    with reserve() as r, pytest.raises(PortUnavailable) as caught:
        reserve(port=r.port)
    if can_see_bound_inactive():
        assert f"this process (pid {os.getpid()}) holds" in str(caught.value)
    else:
        assert f"the kernel shows nobody; {HOLDERS_UNSEEN}: Linux" in str(caught.value)
        assert "Release it, or end the process that holds it" in str(caught.value)


def test_both_wants_both() -> None:
    with reserve(protocol="udp") as r:
        for wanted in (r.port, [r.port]):
            with pytest.raises(PortUnavailable):
                reserve(port=wanted, protocol="both")
        assert [one.protocol for one in holders(r)] == ["udp"]


def test_several_are_tried_in_order(in_namespace: InNamespace) -> None:
    in_namespace(_several_are_tried_in_order)


def _several_are_tried_in_order() -> None:
    with reserve() as taken, reserve() as free:
        free.release()
        with reserve(port=[taken.port, free.port, 0]) as r:
            assert r.port == free.port
        with reserve(port=(one for one in (taken, free))) as r:
            assert r.port == free.port
        with reserve(port=[taken.port, 0]) as r:
            assert r.port != taken.port
        with pytest.raises(PortUnavailable, match=str(taken.port)) as caught:
            reserve(port=[taken.port, taken.port])
        assert "End port= in 0" in str(caught.value)


def test_a_root_only_port_says_so(in_namespace: InNamespace) -> None:
    if not can_be_two_users():
        pytest.skip("needs root to be two users")
    assert "ip_unprivileged_port_start" in in_namespace(_ask_for_80)


def _ask_for_80() -> str:
    from tests.core.helpers import become_nobody

    become_nobody()
    with pytest.raises(PortUnavailable) as caught:
        reserve(port=80)
    return str(caught.value)


def test_excluded_ports_are_never_returned(in_namespace: InNamespace) -> None:
    in_namespace(_exclude)


def _exclude() -> None:
    for protocol in ("tcp", "udp", "both"):
        for left in ({40000}, {40063, 40002}, set(range(40000, 40064, 2))):
            exclude = set(range(40000, 40064)) - left
            reservations = [reserve(exclude=exclude, protocol=protocol) for _ in left]
            assert {r.port for r in reservations} == left
            with pytest.raises(RuntimeError) as caught:
                reserve(exclude=exclude, protocol=protocol)
            assert type(caught.value).__name__ == "PortsExhausted"
            assert f"{len(exclude)} are excluded (exclude=)" in str(caught.value)
            for r in reservations:
                r.release()


def test_excluded_preferences_are_passed_over(in_namespace: InNamespace) -> None:
    in_namespace(_excluded_preferences_are_passed_over)


def _excluded_preferences_are_passed_over() -> None:
    with reserve() as a, reserve() as b:
        a.release()
        b.release()
        with reserve(port=[a.port, b.port], exclude=[a.port]) as r:
            assert r.port == b.port
        with pytest.raises(ValueError, match="excluded at once"):
            reserve(port=a.port, exclude=[a])
        with pytest.raises(PortUnavailable, match="excluded"):
            reserve(port=[a.port], exclude=[a.port])


WRONG: list[tuple[type[Exception], dict[str, Any]]] = [
    (TypeError, {"host": None}),
    (TypeError, {"host": 1}),
    (TypeError, {"host": b"127.0.0.1"}),
    (ValueError, {"host": ""}),
    (ValueError, {"host": "192.0.2.1"}),
    (ValueError, {"host": "2001:db8::1"}),
    (ValueError, {"host": "no.such.host.invalid"}),
    (ValueError, {"host": "." * 300}),
    (ValueError, {"protocol": "sctp"}),
    (ValueError, {"protocol": None}),
    (ValueError, {"handoff": "magic"}),
    (TypeError, {"port": "8080"}),
    (TypeError, {"port": b"8080"}),
    (TypeError, {"port": 80.0}),
    (TypeError, {"port": True}),
    (TypeError, {"port": [8080, None]}),
    (ValueError, {"port": -1}),
    (ValueError, {"port": 65536}),
    (ValueError, {"port": [0, 8080]}),
    (ValueError, {"port": []}),
    (TypeError, {"exclude": 8080}),
    (TypeError, {"exclude": "8080"}),
    (TypeError, {"exclude": [1.5]}),
    (ValueError, {"exclude": [70000]}),
    (NoShadow, {"handoff": "shadow", "host": "::"}),
]


@pytest.mark.parametrize(("error", "arguments"), WRONG, ids=lambda one: str(one))
def test_wrong_arguments_are_refused_before_anything_is_bound(
    error: type[Exception], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> socket.SocketType:
        raise AssertionError("a socket was made")

    before = bound_ports()
    for home in ("hold", "acquire"):
        monkeypatch.setattr(f"ephemport._holding.{home}.new_socket", forbidden)
    with pytest.raises(error) as caught:
        reserve(**arguments)
    assert type(caught.value) is error
    if len(arguments) == 1:
        # It says what it did not like.
        ((name, value),) = arguments.items()
        assert value in ("", []) or name in str(caught.value)
    assert bound_ports() == before


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        reserve("127.0.0.1")  # type: ignore[call-arg]


def test_shadow_needs_an_address_that_the_server_does_not_use() -> None:
    with pytest.raises(ValueError, match="no shadow can exist") as caught:
        reserve(host="::", handoff="shadow")
    assert "takeover" in str(caught.value)
    assert "'fd'" in str(caught.value)


def test_many_at_once_are_all_different() -> None:
    def ports(reservations: Iterable[Reservation]) -> set[int]:
        return {r.port for r in reservations}

    held = [reserve() for _ in range(200)]
    assert len(ports(held)) == 200
    for r in held:
        r.release()


def test_the_first_pick_uses_the_whole_range(in_namespace: InNamespace) -> None:
    # With SO_REUSEADDR set before the bind the kernel would stay below 40032 for the first 16.
    assert max(in_namespace(_fifteen_picks)) > 40032


def _fifteen_picks() -> list[int]:
    held = [reserve() for _ in range(15)]
    ports = [r.port for r in held]
    for r in held:
        r.release()
    return ports


def test_strangers_cannot_even_ask_for_it_while_exclusive() -> None:
    with reserve(handoff="fd") as r:
        for options in OPTIONS:
            for _, address in ADDRESSES:
                assert not may_bind(r.port, address, *options)


def test_messages_name_the_sockets_of_strangers() -> None:
    with bound(0, "127.0.0.9") as stranger, pytest.raises(PortUnavailable) as caught:
        reserve(port=stranger.getsockname()[1])
    said = r"holds 127\.0\.0\.9:\d+ \(tcp\)" if can_see_bound_inactive() else HOLDERS_UNSEEN
    assert re.search(said, str(caught.value))


def test_connections_in_the_way_are_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        port = client.getsockname()[1]
        accepted = server.accept()[0]
        with pytest.raises(PortUnavailable, match="1 connection"):
            reserve(port=port)
        client.close()
        accepted.close()

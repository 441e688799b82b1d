"""A machine with IPv6 alone: its loopback has no IPv4 address. Every error is a named one."""

import errno
import itertools
import json
import socket
import struct
from typing import Any

import pytest

from ephemport import EphemportError, NoShadow, PortUnavailable, reserve, reserve_many
from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.core.helpers import (
    TCP,
    UDP,
    abort_on_close,
    bound,
    eventually,
    given_to_strangers,
    may_bind,
    open_descriptors,
)

_SIOCSIFADDR = 0x8916  # include/uapi/linux/sockios.h
HOSTS = ("127.0.0.1", "localhost", "0.0.0.0", "::1", "::", "127.0.0.9")
HANDOFFS = ("takeover", "shadow", "fd")
PROTOCOLS = ("tcp", "udp", "both")


def ipv6_alone() -> None:
    """Take the loopback's IPv4 addresses away."""
    import fcntl

    nothing = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, bytes(4))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFADDR, nothing)
        with pytest.raises(OSError) as caught:
            sock.bind(("127.0.0.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def _reserve_all() -> list[str]:
    ipv6_alone()
    before = open_descriptors()
    said = []
    for host, handoff, protocol in itertools.product(HOSTS, HANDOFFS, PROTOCOLS):
        try:
            with reserve(host=host, handoff=handoff, protocol=protocol) as r:
                made = r.listen()
                made.close()
                answer = "ok"
        except (EphemportError, ValueError) as error:
            answer = f"{type(error).__name__}: {error}"
        said.append(f"{host} {handoff} {protocol}\t{answer}")
        assert open_descriptors() == before, said
    return said


def test_every_hand_off_works_or_says_why_not(in_namespace: InNamespace) -> None:
    said = dict(one.split("\t") for one in in_namespace(_reserve_all))
    assert len(said) == 54
    for asked, answer in said.items():
        host, handoff, protocol = asked.split()
        if host == "127.0.0.9":
            assert "127.0.0.9' is no address of this machine" in answer
        elif handoff == "shadow" and (
            host in ("::", "::1", "localhost") or (protocol != "tcp" and host != "0.0.0.0")
        ):
            assert answer.startswith(f"NoShadow: no shadow can exist for a server on '{host}'")
            if host != "::":
                assert (
                    "it would be held on 127.0.0.2, and this machine has no such address" in answer
                )
                assert "it has no IPv4 loopback" in answer
            assert "popen(..., assist=True)" in answer
        elif host == "127.0.0.1":
            assert answer.startswith("PortUnavailable: cannot listen on 127.0.0.1:")
            assert "this machine has no address 127.0.0.1. 'ip address' lists" in answer
        else:
            assert answer == "ok", asked


def _facts_of_the_error() -> None:
    ipv6_alone()
    with pytest.raises(NoShadow) as caught:
        reserve(host="::1", handoff="shadow", protocol="udp")
    assert (caught.value.port, caught.value.protocol) == (None, "udp")
    assert isinstance(caught.value, EphemportError)
    assert isinstance(caught.value, ValueError)
    before = open_descriptors()
    with pytest.raises(NoShadow):
        reserve_many(5, host="::1", handoff="shadow")
    with pytest.raises(NoShadow):
        reserve_many(offsets=[0, 10], host="::1", handoff="shadow")
    assert open_descriptors() == before
    with reserve(host="127.0.0.1") as r, pytest.raises(PortUnavailable) as other:
        r.listen()
    assert (other.value.port, other.value.protocol) == (r.port, "tcp")


def test_the_facts_of_the_error(in_namespace: InNamespace) -> None:
    in_namespace(_facts_of_the_error)


def _nobody(protocol: str) -> list[int]:
    ipv6_alone()
    v6 = ((socket.AF_INET6, "::1"), (socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))
    with reserve_many(64, host="::1", protocol=protocol):
        kinds = {"tcp": [TCP], "udp": [UDP], "both": [TCP, UDP]}[protocol]
        return [port for kind in kinds for port in given_to_strangers(kind, v6)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_is_given_a_held_port(in_namespace: InNamespace, protocol: str) -> None:
    assert in_namespace(_nobody, protocol) == []


def _past_time_wait() -> None:
    from ephemport._kernel.sockets import State, read_sockets

    ipv6_alone()
    with bound(40007, "::1", (socket.SO_REUSEADDR,)) as server:
        server.listen()
        client = socket.create_connection(("::1", 40007))
        server.accept()[0].close()
        with client:
            assert client.recv(1) == b""
    eventually(lambda: read_sockets("tcp", {State.TIME_WAIT}, port=40007))
    with reserve(port=40007, host="::1") as r:
        assert not may_bind(40007, "::1")
        with pytest.raises(PortUnavailable):
            reserve(port=40007, host="::1")
        with r.listen() as listener, socket.create_connection(r.address) as connection:
            abort_on_close(connection)
            listener.accept()[0].close()


def test_a_port_in_time_wait(in_namespace: InNamespace) -> None:
    in_namespace(_past_time_wait)


COMMANDS = """
import sys
from tests.core.test_without_ipv4 import ipv6_alone
from ephemport.cli import main
ipv6_alone()
sys.exit(main(sys.argv[1:]))
"""


def test_the_command_names_its_own_options(in_namespace: InNamespace) -> None:
    for options in (["run", "--udp", "A"], ["run", "--both", "A"]):
        source = f"import sys\nsys.stderr = sys.stdout\n{COMMANDS}".replace("sys.exit", "print")
        said: str = in_namespace(source, *options, "--", "true")
        assert said.startswith("ephemport: no shadow can exist for a server on '127.0.0.1' (")
        assert "Use instead: 'ephemport run --assist', which" in said
        assert "handoff=" not in said
        assert "popen" not in said


def test_doctor_knows_it(in_namespace: InNamespace) -> None:
    source = COMMANDS.replace("sys.exit", "print")
    found: Any = json.loads(in_namespace(source, "doctor", "--json").rpartition("\n")[0][:-1])
    checks = {one["name"]: one for one in found["checks"]}
    assert checks["IPv4"]["state"] == "note"
    assert "no address 127.0.0.1" in checks["IPv4"]["reason"]
    unkept = [] if can_see_bound_inactive() else ["seeing holders"]
    assert [name for name, one in checks.items() if one["state"] == "NO"] == unkept


DROPINS = """
import socket
from tests.core.test_without_ipv4 import ipv6_alone
ipv6_alone()
from ephemport.dropin import _kept, portpicker
port = portpicker.pick_unused_port()
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
    server.bind(("::1", port))  # a server of this process gets in
assert _kept.new_port("udp")
assert _kept.try_to_keep(45001, "both")
"""


def test_drop_ins_hold_their_ports(in_namespace: InNamespace) -> None:
    in_namespace(DROPINS)

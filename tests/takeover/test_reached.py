"""A server is up when a client of the reservation's host reaches it, and not before."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from ephemport import TakeoverTimeout, reserve, wait_listening
from ephemport._kernel import sockets
from ephemport._kernel.sockets import SocketRecord, State
from ephemport._looking.reach import Target, reaches, target_of
from tests.conftest import ROOT
from tests.core.helpers import bound
from tests.takeover.started import started

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


class Bound(NamedTuple):
    """Where a server binds."""

    address: str
    v6only: bool = False

    def __str__(self) -> str:
        return self.address + (" v6only" if self.v6only else "")


SERVERS = (
    Bound("127.0.0.1"),
    Bound("127.0.0.9"),
    Bound("0.0.0.0"),
    Bound("::1"),
    Bound("::"),
    Bound("::", v6only=True),
    Bound("::ffff:127.0.0.1"),
    Bound("::ffff:0.0.0.0"),
)
HOSTS = ("127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "localhost")
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@contextmanager
def serving(port: int, where: Bound, protocol: str) -> Iterator[socket.socket]:
    with bound(port, where.address, (socket.SO_REUSEADDR,), KINDS[protocol], where.v6only) as sock:
        if protocol == "tcp":
            sock.listen()
        yield sock


def is_reached(address: tuple[str, int], server: socket.socket) -> bool:
    """Whether a real client of the host gets to the server, after all addresses of a name."""
    for family, kind, _, _, peer in socket.getaddrinfo(*address, type=server.type):
        with socket.socket(family, kind) as client:
            client.settimeout(20)
            try:
                client.connect(peer)
                client.send(b"x")
                # A refused datagram is reported by the next call.
                client.send(b"y")
            except ConnectionRefusedError:
                continue
            return True
    return False


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("where", SERVERS, ids=str)
def test_up_means_that_a_client_gets_through(host: str, where: Bound, protocol: str) -> None:
    with reserve(host=host, protocol=protocol, handoff="takeover") as r:
        port = r.port
        if protocol == "udp":
            r.release()  # a UDP hold lets nobody in
        waited_for = Waited(port, host, protocol)
        with serving(port, where, protocol) as server:
            reached = is_reached((host, port), server)
            if reached:
                assert wait_listening(waited_for, 10).address == where.address
            else:
                with pytest.raises(TakeoverTimeout, match="nothing listened on"):
                    wait_listening(waited_for, 0.05)


class Waited(int):
    """A port with a host and a protocol, as a reservation has them, and no hold."""

    host: str
    protocol: str

    def __new__(cls, port: int, host: str, protocol: str) -> "Waited":
        made = super().__new__(cls, port)
        made.host, made.protocol = host, protocol
        return made


@pytest.mark.parametrize(
    ("host", "counts"),
    [("0.0.0.0", {"0.0.0.0", "::", "::ffff:0.0.0.0"}), ("::", {"::", ":: v6only"})],
)
def test_every_address_means_every_address(host: str, counts: set[str]) -> None:
    for where in SERVERS:
        with reserve(host=host) as r, serving(r.port, where, "tcp"):
            try:
                r.wait_listening(0.01)
            except TakeoverTimeout:
                assert str(where) not in counts
            else:
                assert str(where) in counts


@pytest.mark.parametrize("where", SERVERS, ids=str)
def test_a_plain_int_means_any_address(where: Bound) -> None:
    with reserve() as r, serving(r.port, where, "tcp"):
        assert wait_listening(r.port, 10).address == where.address


LISTENS = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
with socket.create_server((sys.argv[2], int(sys.argv[1])), family=family):
    print("up", flush=True)
    if sys.stdin.readline() and len(sys.argv) > 3:
        second = socket.create_server((sys.argv[3], int(sys.argv[1])))
        sys.stdin.read()
"""


def server(port: int, *addresses: str) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Listens on the first address, and after a line of input on the second one too."""
    return started(LISTENS, str(port), *addresses)


def test_the_right_process_on_another_address_is_waited_on() -> None:
    with reserve() as r, server(r.port, "::1", "127.0.0.1") as process:
        with pytest.raises(TakeoverTimeout) as caught:
            r.wait_listening(0.05, process)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert r.wait_listening(20, process).address == "127.0.0.1"
        socket.create_connection(r.address).close()
    text = str(caught.value)
    assert text.startswith(f"nothing listened on 127.0.0.1:{r.port} (tcp) within 0.05 s: pid ")
    assert f"pid {process.pid} (" in text
    assert text.endswith("listens on [::1], not on 127.0.0.1: bind there, or reserve(host='::1')")


@pytest.mark.parametrize(
    ("host", "where", "said"),
    [
        ("::1", Bound("127.0.0.1"), "on 127.0.0.1, not on [::1]: bind there, or {}127.0.0.1"),
        ("::1", Bound("0.0.0.0"), "on 0.0.0.0, not on [::1]: bind there, or {}127.0.0.1"),
        ("127.0.0.1", SERVERS[1], "on 127.0.0.9, not on 127.0.0.1: bind there, or {}127.0.0.9"),
        (
            "127.0.0.1",
            Bound("::", v6only=True),
            "on [::] for IPv6 only (IPV6_V6ONLY), not on 127.0.0.1: bind there, or {}::1",
        ),
        ("0.0.0.0", Bound("127.0.0.1"), "on 127.0.0.1, not on 0.0.0.0: bind there, or {}127.0.0.1"),
    ],
)  # fmt: skip
def test_the_error_names_the_address_and_the_remedy(host: str, where: Bound, said: str) -> None:
    with reserve(host=host) as r, serving(r.port, where, "tcp"):
        with pytest.raises(TakeoverTimeout) as caught:
            r.wait_listening(0.01)
    text = str(caught.value)
    assert f"this process (pid {os.getpid()}) listens {said.format('reserve(host=')}"[:-1] in (
        text.replace("'", "")
    )
    assert "SO_REUSEADDR" not in text
    assert caught.value.diagnosis is not None


def test_the_error_of_udp_says_it_too() -> None:
    with reserve(protocol="udp", handoff="shadow") as r, serving(r.port, Bound("::1"), "udp"):
        with pytest.raises(TakeoverTimeout, match=r"listens on \[::1\], not on 127\.0\.0\.1"):
            r.wait_listening(0.01)


def test_both_must_be_reached() -> None:
    with reserve(protocol="both", handoff="shadow") as r, serving(r.port, SERVERS[0], "tcp"):
        with serving(r.port, Bound("::1"), "udp"):
            with pytest.raises(TakeoverTimeout, match=r"listens on \[::1\], not on 127"):
                r.wait_listening(0.01)
        with serving(r.port, SERVERS[0], "udp"):
            assert r.wait_listening(10).protocol == "udp"


def test_where_netlink_is_refused_the_address_decides_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "NETLINK_SOCK_DIAG", 31)
    with reserve() as r:
        with serving(r.port, Bound("::1"), "tcp"):
            with pytest.raises(TakeoverTimeout, match="not on 127"):
                r.wait_listening(0.01)
        with serving(r.port, Bound("::"), "tcp"):
            assert r.wait_listening(10).address == "::"


LOCALHOST = """
import socket, sys
from ephemport import TakeoverTimeout, reserve
order = [found[4][0] for found in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)]
assert set(order) == set(sys.argv[1].split()), order
for address in "::1", "127.0.0.1", "127.0.0.9":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with reserve(host="localhost") as r:
        with socket.create_server((address, r.port), family=family):
            try:
                print(r.wait_listening(0.05).address)
            except TakeoverTimeout as error:
                print(str(error).partition(", not ")[2].partition(":  ")[0])
            else:
                socket.create_connection(r.address).close()
        with r.listen():
            r.wait_listening(10)
"""


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ("::1 localhost\n127.0.0.1 localhost\n", ["::1", "127.0.0.1", None]),
        ("127.0.0.1 localhost\n", [None, "127.0.0.1", None]),
    ],
    ids=["both", "IPv4 only"],
)
def test_localhost_stands_for_what_it_resolves_to(
    hosts: str, found: list[str | None], tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text(hosts)
    addresses = " ".join(line.split()[0] for line in hosts.splitlines())
    run = subprocess.run(
        [
            *("unshare", *(() if os.getuid() == 0 else ("--map-root-user",)), "--mount"),
            *("sh", "-c", 'mount --bind "$1" /etc/hosts || exit 99; shift; exec "$@"'),
            *("sh", tmp_path / "hosts", sys.executable, "-c", LOCALHOST, addresses),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    if run.returncode == 99:
        pytest.skip(f"no mount namespace here: {run.stderr}")
    assert run.returncode == 0, run.stderr
    for said, address in zip(run.stdout.splitlines(), found, strict=True):
        assert said == address if address else said.startswith("on localhost (")


def record(
    address: str, *, v6only: bool | None = None, interface: int = 0, protocol: str = "tcp"
) -> SocketRecord:
    family = V6 if ":" in address else V4
    state = State.LISTEN if protocol == "tcp" else State.CLOSE
    return SocketRecord(
        protocol, family, address, 80, state, 0, 1, v6only=v6only, interface=interface
    )


@pytest.mark.parametrize(
    ("target", "at", "expected"),
    [
        (Target(V4, "10.0.0.5"), record("10.0.0.5"), True),
        (Target(V4, "10.0.0.5"), record("0.0.0.0"), True),
        (Target(V4, "10.0.0.5"), record("::", v6only=False), True),
        (Target(V4, "10.0.0.5"), record("::", v6only=None), True),
        (Target(V4, "10.0.0.5"), record("::", v6only=True), False),
        (Target(V4, "10.0.0.5"), record("127.0.0.1"), False),
        (Target(V6, "fd00::2"), record("::", v6only=True), True),
        (Target(V6, "fd00::2"), record("0.0.0.0"), False),
        (Target(V6, "fd00::2"), record("::1"), False),
        (Target(V6, "::1"), record("::ffff:127.0.0.1"), False),
        # A link-local address is another one on each interface.
        (Target(V6, "fe80::1", 2), record("fe80::1", interface=2), True),
        (Target(V6, "fe80::1", 2), record("fe80::1", interface=3), False),
        (Target(V6, "fe80::1", 2), record("fe80::1"), True),
        (Target(V6, "fe80::1", 2), record("::", interface=2), True),
        # SO_BINDTODEVICE
        (Target(V4, "127.0.0.1"), record("0.0.0.0", interface=1), True),
        (Target(V4, "127.0.0.1"), record("0.0.0.0", interface=2), False),
        (Target(V4, "10.0.0.5"), record("0.0.0.0", interface=2), True),
        (Target(V4, "0.0.0.0"), record("0.0.0.0", interface=2), False),
    ],
)
def test_what_a_packet_reaches(target: Target, at: SocketRecord, expected: bool) -> None:
    assert reaches(target, at) is expected


def test_a_mapped_address_is_an_ipv4_address() -> None:
    assert target_of(socket.AF_INET6, "::ffff:127.0.0.1") == Target(V4, "127.0.0.1")
    assert reaches(Target(V4, "127.0.0.1"), record("::ffff:127.0.0.1"))
    assert reaches(Target(V4, "127.0.0.1"), record("::ffff:0.0.0.0"))


def test_a_server_of_another_interface_is_not_reached() -> None:
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not names or os.getuid() != 0:
        pytest.skip("needs root and another interface than lo")
    device = names[-1].encode()
    with reserve() as r, bound(r.port, "0.0.0.0", (socket.SO_REUSEADDR,)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        sock.listen()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(r.address)
        with pytest.raises(TakeoverTimeout, match=f"on 0.0.0.0 by {names[-1]} only, not on"):
            r.wait_listening(0.01)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert r.wait_listening(10).address == "0.0.0.0"


@pytest.mark.parametrize("own", [True, False], ids=["its interface", "another interface"])
def test_a_link_local_address_has_its_interface(own: bool) -> None:
    found = link_local()
    if found is None:
        pytest.skip("no link-local address here")
    address, index = found
    host = f"{address}%{socket.if_indextoname(index)}"
    target = (address, 0, 0, index)
    with reserve(host=host) as r, socket.socket(V6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((*target[:1], r.port, *target[2:]) if own else ("::1", r.port))
        sock.listen()
        if own:
            assert r.wait_listening(10).address == address
            socket.create_connection((host, r.port)).close()
        else:
            with pytest.raises(TakeoverTimeout, match="not on"):
                r.wait_listening(0.01)


def link_local() -> tuple[str, int] | None:
    """A link-local address of this machine that can be bound, and the index of its interface."""
    with open("/proc/net/if_inet6", encoding="ascii") as file:
        for line in file:
            raw, index, _, scope, *_ = line.split()
            if scope == "20":
                address = socket.inet_ntop(V6, bytes.fromhex(raw))
                with socket.socket(V6) as sock, suppress(OSError):
                    sock.bind((address, 0, 0, int(index, 16)))
                    return address, int(index, 16)
    return None

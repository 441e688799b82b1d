"""The two readers against each other, and against sockets that we made."""

import errno
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ephemport._kernel import sockets
from ephemport._kernel.sockets import (
    SocketRecord,
    State,
    can_see_bound_inactive,
    read_netlink,
    read_proc_net,
    read_sockets,
)
from tests.abilities import Ability, needs, without

V4, V6 = socket.AF_INET, socket.AF_INET6
ANY = tuple(State)
Reader = Callable[..., list[SocketRecord]]
LOOPBACK = {V4: "127.0.0.1", V6: "::1"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(
    stack: ExitStack,
    family: int,
    address: str,
    kind: int = socket.SOCK_STREAM,
    v6only: bool | None = None,
    listen: bool = False,
) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, kind))
    if v6only is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    sock.bind((address, 0))
    if listen:
        sock.listen()
    return sock


def connection(stack: ExitStack, listener: socket.socket, family: int) -> list[socket.socket]:
    client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    client.connect((LOOPBACK[socket.AddressFamily(family)], listener.getsockname()[1]))
    server = stack.enter_context(listener.accept()[0])
    return [client, server]


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def found(sock: socket.socket, read: Reader, *args: Any, port: int | None = None) -> SocketRecord:
    # A stranger's socket that ends in the middle of a long listing can make the kernel miss ours.
    for _ in range(20):
        if hits := [r for r in read(*args, port=port) if r.inode == inode(sock)]:
            (record,) = hits
            return record
    raise AssertionError(f"{sock} is not among {args}")


def expected(sock: socket.socket, protocol: str, state: State) -> SocketRecord:
    address, port = sock.getsockname()[:2]
    try:
        peer, peer_port = sock.getpeername()[:2]
    except OSError:
        peer, peer_port = {V4: "0.0.0.0", V6: "::"}[sock.family], 0
    return SocketRecord(
        protocol, sock.family, address, port, state, os.getuid(), inode(sock), None, peer, peer_port
    )


def plain(record: SocketRecord) -> SocketRecord:
    """The record without what only one reader knows, or what changes as time goes."""
    return record._replace(receive_buffer=None, v6only=None, seconds_left=None)


def check(sock: socket.socket, protocol: str, state: State) -> None:
    """Both readers show `sock` exactly as it is: asked for its state, for all, with its port."""
    port = sock.getsockname()[1]
    for read in (read_netlink, read_proc_net, read_sockets):
        for states in ({state}, ANY):
            for wanted in (None, port):
                record = found(sock, read, protocol, states, port=wanted)
                assert plain(record) == expected(sock, protocol, state)
            assert {r.state for r in read(protocol, states)} <= set(states)
        others = set(State) - {state}
        assert inode(sock) not in {r.inode for r in read(protocol, others, port=port)}


@pytest.mark.parametrize(
    ("family", "address", "v6only"),
    [
        (V4, "127.0.0.1", None),
        (V4, "127.3.2.1", None),
        (V4, "0.0.0.0", None),
        (V6, "::1", True),
        (V6, "::", True),
        (V6, "::", False),
        (V6, "::ffff:127.0.0.1", False),
    ],
)
def test_listeners_and_udp_sockets(
    stack: ExitStack, family: int, address: str, v6only: bool | None
) -> None:
    check(bound(stack, family, address, v6only=v6only, listen=True), "tcp", State.LISTEN)
    check(bound(stack, family, address, socket.SOCK_DGRAM, v6only), "udp", State.CLOSE)


@pytest.mark.parametrize(
    ("family", "address", "client_family"),
    [(V4, "127.0.0.1", V4), (V6, "::1", V6), (V6, "::", V4)],
)
def test_connections(stack: ExitStack, family: int, address: str, client_family: int) -> None:
    listener = bound(stack, family, address, v6only=False if family == V6 else None, listen=True)
    client, server = connection(stack, listener, client_family)
    check(client, "tcp", State.ESTABLISHED)
    check(server, "tcp", State.ESTABLISHED)
    if family != client_family:
        record = found(server, read_sockets, "tcp", {State.ESTABLISHED})
        assert record.address == "::ffff:127.0.0.1"


def test_connected_udp(stack: ExitStack) -> None:
    server = bound(stack, V4, "127.0.0.1", socket.SOCK_DGRAM)
    client = bound(stack, V4, "127.0.0.1", socket.SOCK_DGRAM)
    client.connect(server.getsockname())
    check(client, "udp", State.ESTABLISHED)


@pytest.mark.parametrize("family", [V4, V6])
def test_time_wait(
    stack: ExitStack, family: socket.AddressFamily, eventually: Callable[..., Any]
) -> None:
    listener = bound(stack, family, LOOPBACK[family], listen=True)
    client, server = connection(stack, listener, family)
    ends = client.getsockname()[:2] + client.getpeername()[:2]
    client.close()
    server.close()

    def waiting(read: Reader) -> list[SocketRecord]:
        return [
            record
            for record in read("tcp", {State.TIME_WAIT}, port=ends[1])
            if (record.address, record.port, record.peer_address, record.peer_port) == ends
        ]

    (record,) = eventually(lambda: waiting(read_netlink))
    assert record.inode == 0
    assert record.family == family
    (same,) = waiting(read_proc_net)
    assert plain(same) == plain(record)
    assert same.seconds_left is not None
    assert record.seconds_left is not None
    # TCP_TIMEWAIT_LEN, less what passed; the two looks are not far apart.
    assert 30 < same.seconds_left <= record.seconds_left <= 61


@needs(Ability.SHOWS_BOUND)
@pytest.mark.parametrize(("family", "address"), [(V4, "127.0.0.1"), (V6, "::"), (V6, "::1")])
def test_bound_and_not_listening_is_seen_by_netlink_only(
    stack: ExitStack, family: int, address: str
) -> None:
    sock = bound(stack, family, address, v6only=False if family == V6 else None)
    port = sock.getsockname()[1]
    for states in ({State.BOUND_INACTIVE}, {State.BOUND_INACTIVE, State.LISTEN}, ANY):
        for read in (read_netlink, read_sockets):
            for wanted in (None, port):
                record = found(sock, read, "tcp", states, port=wanted)
                assert plain(record) == expected(sock, "tcp", State.BOUND_INACTIVE)
        assert inode(sock) not in {r.inode for r in read_proc_net("tcp", states)}
    assert not [r for r in read_netlink("tcp", {State.LISTEN}, port=port) if r.inode == inode(sock)]
    sock.listen()
    check(sock, "tcp", State.LISTEN)
    assert can_see_bound_inactive()


@without(Ability.SHOWS_BOUND)
@pytest.mark.parametrize(("family", "address"), [(V4, "127.0.0.1"), (V6, "::"), (V6, "::1")])
def test_an_older_kernel_shows_no_bound_socket_and_says_so(
    stack: ExitStack, family: int, address: str
) -> None:
    sock = bound(stack, family, address)
    port = sock.getsockname()[1]
    for read in (read_netlink, read_proc_net, read_sockets):
        assert read("tcp", ANY, port=port) == []
    assert not can_see_bound_inactive()
    sock.listen()
    check(sock, "tcp", State.LISTEN)


@pytest.mark.parametrize("read", [read_netlink, read_proc_net])
@pytest.mark.parametrize(
    ("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)]
)
def test_port_filter(stack: ExitStack, read: Reader, protocol: str, kind: int) -> None:
    first, second = (
        bound(stack, V4, "127.0.0.1", kind, listen=protocol == "tcp") for _ in range(2)
    )
    records = read(protocol, {State.LISTEN, State.CLOSE}, port=first.getsockname()[1])
    assert {r.port for r in records} == {first.getsockname()[1]}
    assert inode(second) not in {r.inode for r in records}


@needs(Ability.SHOWS_BOUND)
def test_port_filter_of_bound_sockets(stack: ExitStack) -> None:
    first, second = (bound(stack, V4, "127.0.0.1") for _ in range(2))
    records = read_netlink("tcp", {State.BOUND_INACTIVE}, port=first.getsockname()[1])
    assert {r.port for r in records} == {first.getsockname()[1]}
    assert inode(second) not in {r.inode for r in records}


def test_receive_buffer_of_udp(stack: ExitStack) -> None:
    sock = bound(stack, V4, "127.0.0.1", socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert found(sock, read_netlink, "udp", {State.CLOSE}).receive_buffer == size
    assert found(sock, read_proc_net, "udp", {State.CLOSE}).receive_buffer is None


@pytest.mark.parametrize("v6only", [False, True])
@pytest.mark.parametrize(
    "listen", [pytest.param(False, marks=needs(Ability.SHOWS_BOUND), id="bound"), True]
)
def test_v6only(stack: ExitStack, v6only: bool, listen: bool) -> None:
    sock = bound(stack, V6, "::", v6only=v6only, listen=listen)
    state = State.LISTEN if listen else State.BOUND_INACTIVE
    assert found(sock, read_netlink, "tcp", {state}).v6only is v6only
    sock = bound(stack, V6, "::", socket.SOCK_DGRAM, v6only=v6only)
    assert found(sock, read_netlink, "udp", {State.CLOSE}).v6only is v6only
    sock = bound(stack, V4, "0.0.0.0", listen=listen)
    assert found(sock, read_netlink, "tcp", {state}).v6only is None


def test_no_states_no_sockets(stack: ExitStack) -> None:
    bound(stack, V4, "127.0.0.1", listen=True)
    assert read_netlink("tcp", ()) == read_proc_net("tcp", ()) == []


def test_two_thousand_listeners(stack: ExitStack, many_files: None) -> None:
    made = [
        bound(stack, *((V4, "127.0.0.1") if i % 2 else (V6, "::1")), listen=True)
        for i in range(2000)
    ]
    ours = {inode(sock): expected(sock, "tcp", State.LISTEN) for sock in made}
    for read in (read_netlink, read_proc_net):
        for _ in range(20):
            records = [plain(r) for r in read("tcp", {State.LISTEN}) if r.inode in ours]
            if len(records) == len(ours):
                break
        assert sorted(records) == sorted(ours.values())


@pytest.mark.parametrize("read", [read_netlink, read_proc_net, read_sockets])
def test_unknown_protocol(read: Reader) -> None:
    with pytest.raises(ValueError, match="sctp"):
        read("sctp", {State.LISTEN})


def test_a_refusal_in_the_middle_of_a_dump_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # For a protocol without diagnostics the kernel begins a dump and says so at its end.
    monkeypatch.setitem(sockets._PROTOCOLS, "experiment", 253)
    with pytest.raises(OSError) as caught:
        read_netlink("experiment", {State.LISTEN})
    assert caught.value.errno == errno.ENOENT


def test_an_interrupted_dump_is_repeated(stack: ExitStack) -> None:
    """No kernel interrupts on demand: replay what it said, marked as interrupted, then as not."""
    listener = bound(stack, V4, "127.0.0.1", listen=True)
    query = sockets._Query("tcp", frozenset({State.LISTEN}), listener.getsockname()[1])
    (request,) = sockets._requests(query)
    said: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
        diag.send(request)
        while sockets._parse(said[-1], query, [])[0] if said else True:
            said.append(diag.recv(1 << 16))
    marked = [d[:6] + bytes([d[6] | sockets._NLM_F_DUMP_INTR]) + d[7:] for d in said]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for datagram in marked + said:
            theirs.send(datagram)
        assert [r.inode for r in sockets._dump(ours, request, query)].count(inode(listener)) == 1
        theirs.setblocking(False)
        assert theirs.recv(1 << 16) == theirs.recv(1 << 16) == request


# A filter that refuses socket(AF_NETLINK, ...), as systemd and containers install it.
REFUSE_NETLINK = """
def refuse_netlink():
    number = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
    program = b"".join(struct.pack("=HBBI", *op) for op in (
        (0x20, 0, 0, 0), (0x15, 0, 3, number),
        (0x20, 0, 0, 16), (0x15, 0, 1, socket.AF_NETLINK),
        (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT), (0x06, 0, 0, 0x7FFF0000)))
    code = ctypes.create_string_buffer(program)
    filter = ctypes.create_string_buffer(struct.pack("@HP", 6, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="syscall numbers")
def test_proc_serves_where_netlink_is_refused(ask: Callable[..., Any]) -> None:
    result = ask(
        REFUSE_NETLINK
        + """
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
refuse_netlink()
try:
    refusal = sockets.read_netlink("tcp", {State.LISTEN}, port=port) and 0
except OSError as error:
    refusal = error.errno
inode = os.fstat(listener.fileno()).st_ino
found = any(record.inode == inode for _ in range(20)
            for record in sockets.read_sockets("tcp", {State.LISTEN}, port=port))
answer([refusal, sockets.can_see_bound_inactive(), found])
"""
    )
    assert result == [errno.EAFNOSUPPORT, False, True]


def test_netlink_serves_without_proc(ask: Callable[..., Any], as_root: None, tmp_path: Any) -> None:
    assert ask(
        """
listener = socket.create_server(("127.0.0.1", 0))
os.chroot(sys.argv[1])
try:
    sockets.read_proc_net("tcp", {State.LISTEN})
except FileNotFoundError:
    answer(len(sockets.read_sockets("tcp", {State.LISTEN}, port=listener.getsockname()[1])))
""",
        tmp_path,
    )


def test_a_thread_reads_its_own_network(ask: Callable[..., Any], root_may_unshare: None) -> None:
    # In a thread /proc/net would be the main thread's.
    result = ask(
        """
import threading
def elsewhere():
    namespaces.enter_new_network()
    socket.create_server(("127.0.0.1", 0)).detach()
    seen = [{r.port for r in read("tcp", {State.LISTEN})} for read in readers]
    answer([seen[0] == seen[1], len(seen[0])])
readers = (sockets.read_netlink, sockets.read_proc_net)
outside = socket.create_server(("127.0.0.1", 0))
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
"""
    )
    assert result == [True, 1]

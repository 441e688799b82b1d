"""sock_diag's answers, cut off and altered: read as sockets, or refused with an OSError."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ephemport import reserve
from ephemport._kernel import lookup, sockets
from ephemport._kernel.sockets import SocketRecord, State, _dump, _parse, _Query, _requests
from tests.core.helpers import bound, leave_time_wait
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples

_SECONDS = 10
# Values for a length, a kind or an error number, in any place.
_NUMBERS = [0, 1, 3, 4, 15, 16, 17, 19, 20, 87, 88, 89, 2**15, 2**16 - 1, 2**31, 2**32 - 1]


def _ring(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"no end after {_SECONDS} s")


@contextmanager
def an_end() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def queries() -> dict[str, _Query]:
    return {
        "tcp": _Query("tcp", frozenset(State), None),
        "udp": _Query("udp", frozenset({State.CLOSE, State.ESTABLISHED}), None),
    }


def answers(protocol: str) -> list[bytes]:
    """What the kernel really answers, a datagram each."""
    found = []
    for request in _requests(queries()[protocol]):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sockets.NETLINK_SOCK_DIAG) as diag:
            diag.send(request)
            more = True
            while more:
                found.append(diag.recv(1 << 16))
                more, _ = _parse(found[-1], queries()[protocol], [])
    return found


def altered(answer: bytes) -> SearchStrategy[bytes]:
    """Cut, with numbers in places where others stood, or followed by something else."""

    def write(data: bytes, changes: list[tuple[int, str, int]]) -> bytes:
        changed = bytearray(data)
        for place, format_, number in changes:
            size = struct.calcsize(format_)
            if place + size <= len(changed):
                struct.pack_into(format_, changed, place, number % (1 << 8 * size))
        return bytes(changed)

    aligned = st.integers(0, len(answer) // 4).map(lambda place: place * 4)
    places = st.one_of(st.integers(0, 24), aligned, aligned.map(lambda place: place + 2))
    changes = st.lists(
        st.tuples(places, st.sampled_from(["=B", "=H", "=I"]), st.sampled_from(_NUMBERS)),
        max_size=3,
    )
    cut = st.one_of(st.just(len(answer)), st.integers(0, len(answer)))
    return st.builds(
        lambda changes, cut, more: write(answer, changes)[:cut] + more,
        changes,
        cut,
        st.one_of(st.just(b""), st.just(answer), st.binary(max_size=40)),
    )


def check_records(records: list[SocketRecord], protocol: str) -> None:
    for one in records:
        assert one.protocol == protocol
        assert one.family in (socket.AF_INET, socket.AF_INET6)
        assert socket.inet_pton(one.family, one.address)
        assert 0 <= one.port < 65536
        assert isinstance(one.state, State)


def check_error(error: OSError) -> None:
    assert error.errno is not None
    assert 0 < error.errno < 4096
    assert "Unknown error" not in os.strerror(error.errno) or error.errno < 4096
    assert "sock_diag" in str(error)


@contextmanager
def only_os_errors() -> Iterator[None]:
    with an_end():
        try:
            yield
        except BlockingIOError:
            pass
        except OSError as error:
            check_error(error)


@contextmanager
def some_sockets() -> Iterator[None]:
    """Of every kind: holds, listeners, connections, TIME_WAIT, both families, both protocols."""
    leave_time_wait(40100)
    with (
        bound(40101) as server,
        bound(40102, "::1", kind=socket.SOCK_DGRAM),
        bound(40103, "::", v6only=True),
        reserve(protocol="both"),
        reserve(protocol="udp", handoff="shadow"),
    ):
        server.listen()
        with socket.create_connection(("127.0.0.1", 40101)), server.accept()[0]:
            yield


def fuzz_answers() -> None:
    with some_sockets():
        real = {protocol: answers(protocol) for protocol in queries()}
    some = st.one_of(
        *(
            st.tuples(st.just(protocol), altered(answer))
            for protocol, all_ in real.items()
            for answer in all_
        ),
        st.tuples(st.sampled_from(["tcp", "udp"]), st.binary(max_size=100)),
    )

    @given(some)
    @examples(700)
    def one_answer(told: tuple[str, bytes]) -> None:
        protocol, data = told
        records: list[SocketRecord] = []
        with only_os_errors():
            _parse(data, queries()[protocol], records)
        check_records(records, protocol)

    one_answer()

    @given(st.lists(some, max_size=4))
    @examples(200)
    def one_dump(told: list[tuple[str, bytes]]) -> None:
        """Datagrams that never say that they are the last: the next one does not come."""
        kernel, ours = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        with kernel, ours, only_os_errors():
            for _, data in told:
                kernel.send(data)
            _dump(ours, b"request", queries()["tcp"])

    one_dump()


def fuzz_lookups() -> None:
    """Both answers of a look-up: a socket, and that there is none."""
    with bound(40111) as server:
        server.listen()
        requests = [
            lookup._request(
                socket.AF_INET, socket.IPPROTO_TCP, socket.inet_aton("127.0.0.1"), port, 1
            )
            for port in (40111, 40112)
        ]
        real = []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sockets.NETLINK_SOCK_DIAG) as diag:
            for request in requests:
                diag.send(request)
                real.append(diag.recv(4096))
        assert lookup._inode(real[0]) == os.fstat(server.fileno()).st_ino
        assert lookup._inode(real[1]) is None

    @given(st.one_of(*map(altered, real), st.binary(max_size=100)))
    @examples(300)
    def one_answer(data: bytes) -> None:
        with only_os_errors():
            inode = lookup._inode(data)
            assert inode is None or 0 <= inode < 2**32

    one_answer()


def test_sock_diag(fuzz: Fuzz) -> None:
    fuzz(fuzz_answers, fuzz_lookups)

"""The two ends of share() and adopt(): the other one says anything, passes anything, hangs up."""

import array
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ephemport import EphemportError, Reservation, adopt, reserve
from tests.core.helpers import bound
from tests.fuzz.calls import Calls, call_of, try_all
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples
from tests.fuzz.watch import Watch, only_documented

# The protocol, written once more: what stands in the code may not change unnoticed.
PREFIX, HAVE_IT, LET_GO = "ephemport-share", b"+", b"."
SECRET = "5" * 32


def address(token: str) -> str:
    return f"\0{PREFIX}-{token.split(':')[1]}"


def secret(token: str) -> bytes:
    return token.split(":")[2].encode()


@contextmanager
def things_to_pass(kinds: list[str], port: int) -> Iterator[list[int]]:
    """Descriptors of several kinds; those of sockets are bound to `port` or not."""
    with ExitStack() as opened:

        def sock(kind: socket.SocketKind, at: int) -> int:
            made = opened.enter_context(bound(at, "::", (socket.SO_REUSEADDR,), kind))
            return made.fileno()

        made = []
        for kind in kinds:
            if kind in ("tcp", "udp"):
                made.append(sock(socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, port))
            elif kind == "another port":
                made.append(sock(socket.SOCK_STREAM, 0))
            elif kind == "unix":
                made.append(opened.enter_context(socket.socket(socket.AF_UNIX)).fileno())
            elif kind == "file":
                made.append(opened.enter_context(open(os.devnull)).fileno())
            else:
                pair = os.pipe()
                opened.callback(os.close, pair[0])
                opened.callback(os.close, pair[1])
                made.append(pair[0])
        yield made


def send(connection: socket.socket, message: bytes, descriptors: list[int]) -> None:
    rights = array.array("i", descriptors)
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
    connection.sendmsg([message], passed)


kinds = st.sampled_from(["tcp", "udp", "another port", "unix", "file", "pipe"])
garbage = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\0", b"{}", b"[]", b"null", b"1", b'"x"', b"[" * 4000, b"9" * 4090]),
    st.sampled_from([b"x" * 257, b"x" * 5000, b"\xff" * 70_000, HAVE_IT, LET_GO]),
)


class Step(NamedTuple):
    """What one of several visitors of a giver does next."""

    visitor: int
    what: str
    said: bytes
    passed: list[str]


steps = st.builds(
    Step,
    st.integers(0, 2),
    st.sampled_from(["say", "say", "secret", "secret", "have it", "hear", "shut", "hang up"]),
    garbage,
    st.lists(kinds.filter(lambda kind: kind != "another port"), max_size=3),
)


def visit(token: str, script: list[Step]) -> bool:
    """Do what the script says; whether somebody may have adopted it by the rules."""
    visitors: dict[int, socket.socket] = {}
    knows: set[int] = set()
    adopted = False
    with ExitStack() as opened:
        for number, what, said, passed in script:
            if number not in visitors:
                visitors[number] = opened.enter_context(
                    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                )
                with suppress(OSError):
                    visitors[number].connect(address(token))
            visitor = visitors[number]
            # It may have hung up, or not be heard any more.
            with suppress(OSError), things_to_pass(passed, 0) as descriptors:
                if what == "say":
                    send(visitor, said, descriptors)
                    adopted = adopted or (number in knows and said == HAVE_IT)
                elif what == "secret":
                    visitor.send(secret(token))
                    knows.add(number)
                elif what == "have it":
                    visitor.send(HAVE_IT)
                    adopted = adopted or number in knows
                elif what == "hear":
                    _, got, _, _ = socket.recv_fds(visitor, 4096, 8)
                    for descriptor in got:
                        os.close(descriptor)
                elif what == "shut":
                    visitor.shutdown(socket.SHUT_WR)
                else:
                    visitor.close()
    return adopted


def fuzz_giver() -> None:
    """After any visits the port has one holder, and the next process that asks gets it."""
    watch = Watch()

    @given(st.sampled_from(["tcp", "udp", "both"]), st.lists(steps, max_size=8))
    @examples(80)
    def one_script(protocol: str, script: list[Step]) -> None:
        with reserve(protocol=protocol) as given_away:
            token = given_away.share()
            may_be_adopted = visit(token, script)
            try:
                with adopt(token) as adopted:
                    assert adopted.port == given_away.port
                    assert given_away.released
            except EphemportError:
                # Others have it, or had it and are gone.
                assert may_be_adopted, script
                assert given_away.released
        watch.check()

    one_script()
    watch.check_lock()


class Giver(NamedTuple):
    """What somebody says and passes who serves a token."""

    silent: bool
    answers: list[tuple[Any, list[str]]]
    hears: int
    at_last: list[bytes]


terms: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "port": st.one_of(
            st.just("the port"),
            st.sampled_from([0, -1, 65536, 2**40, 10**30, "x", None, 1.5, True, []]),
        ),
        "host": st.sampled_from(["127.0.0.1", "", "x", None, 1, [], "::1"]),
        "protocol": st.sampled_from(["tcp", "tcp", "udp", "both", "x", None, 1, []]),
        "handoff": st.sampled_from(["takeover", "fd", "shadow", "x", None, 1, {}]),
    },
    optional={"refused": st.sampled_from(["no", 1, None, "x" * 3000, "\x1b[2J\n"])},
)
good = st.just({"port": "the port", "host": "127.0.0.1", "protocol": "tcp", "handoff": "takeover"})
givers = st.builds(
    Giver,
    st.booleans(),
    st.lists(
        st.tuples(st.one_of(good, terms, garbage), st.one_of(st.just(["tcp"]), st.lists(kinds))),
        max_size=2,
    ),
    st.integers(0, 2),
    st.lists(st.one_of(st.just(LET_GO), garbage), max_size=2),
)


def serve(listener: socket.socket, giver: Giver, port: int) -> None:
    with suppress(OSError), listener.accept()[0] as connection:
        # One who waits for each other is enough: then this one hangs up.
        connection.settimeout(0.1)
        if not giver.silent:
            connection.recv(256)
        for said, passed in giver.answers:
            if isinstance(said, dict):
                told = {**said, "port": port if said["port"] == "the port" else said["port"]}
                said = json.dumps(told).encode()
            with things_to_pass(passed, port) as descriptors:
                send(connection, said, descriptors)
        for _ in range(giver.hears if giver.answers else 0):
            connection.recv(256)
        for said in giver.at_last:
            connection.send(said)


def check_adopted(reservation: Reservation) -> None:
    """What was got is a reservation: of these terms, with sockets that are bound to its port."""
    expected = {"tcp": [socket.SOCK_STREAM], "udp": [socket.SOCK_DGRAM]}
    expected["both"] = expected["tcp"] + expected["udp"]
    sockets = reservation._hold.sockets
    assert [one.type for one in sockets] == expected[reservation.protocol]
    assert {one.getsockname()[1] for one in sockets} == {reservation.port}
    assert reservation.handoff in ("takeover", "shadow", "fd")
    assert isinstance(reservation.host, str)
    assert reservation.url()


def fuzz_adopter() -> None:
    """Any answer to a token ends in a reservation or in an EphemportError."""
    watch = Watch()
    token = f"{PREFIX}:{'a' * 32}:{SECRET}"

    @given(givers)
    @examples(120)
    def one_giver(giver: Giver) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, reserve() as held:
            listener.bind(address(token))
            listener.listen()
            thread = threading.Thread(target=serve, args=(listener, giver, held.port))
            thread.start()
            try:
                with only_documented(), adopt(token) as reservation:
                    check_adopted(reservation)
            finally:
                thread.join()
        watch.check()

    one_giver()
    watch.check_lock()


ADOPTING: Calls = {
    "adopt": call_of(
        adopt,
        token=st.one_of(
            st.sampled_from([f"{PREFIX}:{'a' * 32}:{SECRET}", f" {PREFIX}:{'a' * 32}:{SECRET}"]),
            st.text("0123456789abcdef:\0\udc80", max_size=70).map(lambda end: f"{PREFIX}:{end}"),
            st.sampled_from([f"{PREFIX}:{'a' * 32}:{SECRET}\n", f"{PREFIX}:{'٣' * 32}:{SECRET}"]),
            st.just(f"{PREFIX}:{'a' * 100_000}:{SECRET}"),
        ),
    ),
}


def fuzz_tokens() -> None:
    try_all(ADOPTING, 30)


def test_sharing(fuzz: Fuzz) -> None:
    fuzz(fuzz_giver, fuzz_adopter, fuzz_tokens)

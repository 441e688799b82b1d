"""Assisted processes that call bind() in every way: they are answered as without assistance.

But for one thing: a port that is held for them is not in use.
"""

import errno
import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ephemport import ReservationGroup, reserve
from tests.core.helpers import bound
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples
from tests.fuzz.watch import Watch, bound_now

PROGRAM = [sys.executable, str(Path(__file__).with_name("binder.py"))]
_LENGTHS = [0, 1, 2, 4, 8, 15, 16, 17, 23, 24, 27, 28, 29, 64, 110, 127, 128, 129, 4096]
_LARGE = [2**31 - 1, 2**31, 2**32 - 1]


class Ports(NamedTuple):
    """Those that are held for the program, one that a stranger has, and a free one."""

    tcp: int
    udp: int
    both: int
    taken: int
    free: int


ADDRESSES = {
    socket.AF_INET: ["127.0.0.1", "0.0.0.0", "127.0.0.7", "192.0.2.1"],
    socket.AF_INET6: ["::1", "::", "::ffff:127.0.0.1", "2001:db8::1"],
}


def addresses(ports: Ports) -> st.SearchStrategy[str]:
    """Socket addresses as bytes, in hexadecimal: right ones, and others."""
    port = st.sampled_from([*ports, *ports[:3], 0, 80])

    def pack(family: int, port: int, host: str) -> bytes:
        head = struct.pack("=H", family) + struct.pack("!H", port)
        if ":" in host:
            return head + bytes(4) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)
        return head + socket.inet_aton(host) + bytes(8)

    right = st.one_of(
        *(
            st.builds(pack, st.just(int(family)), port, st.sampled_from(hosts))
            for family, hosts in ADDRESSES.items()
        )
    )
    mixed = st.builds(
        pack,
        st.sampled_from([0, 1, 2, 10, 16, 255, 0xFFFF]),
        port,
        st.sampled_from([*chain.from_iterable(ADDRESSES.values())]),
    )
    # A file of a Unix socket is made where the program is, and nowhere else.
    noise = st.binary(max_size=130).filter(lambda data: b"/" not in data)
    others = st.one_of(noise, st.just(b"\1\0nosuch/socket\0"))
    return st.one_of(right, right, right, mixed, others).map(bytes.hex)


def calls(ports: Ports) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "kind": st.sampled_from(
                ["tcp4", "tcp6", "udp4", "udp6"] * 3
                + ["unix", "file", "closed", "negative", "huge"]
            ),
            "where": st.sampled_from(
                ["good", "good", "edge", "edge", "odd", "readonly", "null", "one", "high", "kernel"]
            ),
            "address": addresses(ports),
            "length": st.sampled_from([16, 28, 16, 28, *_LENGTHS, *_LARGE]),
            "above": st.sampled_from([0, 0, 0, 7]),
        }
    )


class Program:
    """The program, assisted or not, and its answers."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def call(
        self, calls: list[dict[str, Any]], threads: int = 1, flips: tuple[int, ...] = ()
    ) -> Any:
        self.ask(calls, threads, flips)
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def ask(self, calls: list[dict[str, Any]], threads: int, flips: tuple[int, ...]) -> None:
        told = {"calls": calls, "threads": threads, "flips": flips}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()


@contextmanager
def assisted_and_not() -> Iterator[tuple[Ports, Program, Program]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        reserve() as tcp,
        reserve(protocol="udp") as udp,
        reserve(protocol="both") as both,
        bound(0, "127.0.0.1") as stranger,
        bound(0, "127.0.0.1") as let_go,
    ):
        ports = Ports(
            tcp.port, udp.port, both.port, stranger.getsockname()[1], let_go.getsockname()[1]
        )
        let_go.close()
        held = {("tcp", tcp.port), ("udp", udp.port), ("tcp", both.port), ("udp", both.port)}
        group = ReservationGroup([tcp, udp, both])
        with (
            group.popen(PROGRAM, assist=True, **pipes) as assisted,
            subprocess.Popen(PROGRAM, **pipes) as plain,
        ):
            yield ports, Program(assisted), Program(plain)
            assert held <= bound_now()
            assert [one.released for one in group] == [False, False, False]
            for process in (assisted, plain):
                process.kill()


def may_differ(call: dict[str, Any], ports: Ports) -> bool:
    """Whether the call asks for a port that is held for the program."""
    address = bytes.fromhex(call["address"])
    port = int.from_bytes(address[2:4], "big")
    return port in {"tcp": (ports.tcp, ports.both), "udp": (ports.udp, ports.both)}.get(
        call["kind"][:3], ()
    )


def fuzz_calls() -> None:
    watch = Watch()
    with assisted_and_not() as (ports, assisted, plain):

        @given(st.lists(calls(ports), min_size=1, max_size=6))
        @examples(150)
        def some_calls(some: list[dict[str, Any]]) -> None:
            expected = plain.call(some)
            answered = assisted.call(some)
            for call, should, did in zip(some, expected, answered, strict=True):
                if should == errno.EADDRINUSE and may_differ(call, ports):
                    assert did in (0, errno.EADDRINUSE), (call, errno.errorcode.get(did, did))
                else:
                    names = [errno.errorcode.get(one, one) for one in (should, did)]
                    assert should == did, (call, names)

        some_calls()
        the_port_is_theirs(ports, assisted)
    watch.check()
    watch.check_lock()


def the_port_is_theirs(ports: Ports, assisted: Program) -> None:
    """After all that it still works."""
    for kind, port in (("tcp4", ports.tcp), ("udp4", ports.udp), ("tcp6", ports.both)):
        host = "::1" if kind == "tcp6" else "127.0.0.1"
        family = socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
        head = struct.pack("=H", family) + struct.pack("!H", port)
        rest = socket.inet_pton(family, host)
        address = head + (bytes(4) + rest + bytes(4) if kind == "tcp6" else rest + bytes(8))
        call = {"kind": kind, "where": "good", "address": address.hex(), "above": 0}
        assert assisted.call([{**call, "length": len(address)}]) == [0]


def fuzz_threads() -> None:
    """Several threads at once, over memory that changes under them: every call is answered."""
    watch = Watch()
    with assisted_and_not() as (ports, assisted, _):

        @given(st.lists(calls(ports), min_size=1, max_size=6), st.booleans())
        @examples(40)
        def some_calls(some: list[dict[str, Any]], changing: bool) -> None:
            if changing:
                # Nobody may take away a page that another writes to.
                some = [one for one in some if one["where"] != "readonly"]
            flips = (ports.tcp, ports.free, ports.udp, ports.both, 0) if changing else ()
            answered = assisted.call(some, 3, flips)
            assert len(answered) == 3 * len(some)
            assert errno.ENOSYS not in answered

        some_calls()
        the_port_is_theirs(ports, assisted)
    watch.check()
    watch.check_lock()


def fuzz_ends() -> None:
    """The program is killed while its calls are answered: nothing is left, and nothing hangs."""
    watch = Watch()
    for _ in range(3):
        with assisted_and_not() as (ports, assisted, _):
            address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", ports.udp) + bytes(12)
            call = {"kind": "udp4", "where": "good", "length": 16, "above": 0}
            assisted.call([{**call, "address": address.hex()}])
            assisted.ask([{**call, "address": address.hex()}] * 2000, 3, ())
            assisted.process.send_signal(signal.SIGKILL)
        watch.check()
    watch.check_lock()


def test_assistance(fuzz: Fuzz) -> None:
    fuzz(fuzz_calls, fuzz_threads, fuzz_ends)

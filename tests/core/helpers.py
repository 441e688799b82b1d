"""What the tests of the core share: strangers who want ports, servers, and a look at the kernel.

Importing this must stay cheap and must not import pytest: children in namespaces do it too.
"""

import errno
import itertools
import operator
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, SupportsIndex

from ephemport import holders
from ephemport._kernel.namespaces import _CAP_NET_ADMIN, _CAP_SYS_ADMIN, _has_capabilities
from ephemport._kernel.sockets import State, can_see_bound_inactive, read_sockets

NOBODY = 65534
V4, V6 = socket.AF_INET, socket.AF_INET6
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

V4_ADDRESSES = ((V4, "127.0.0.1"), (V4, "0.0.0.0"), (V4, "127.0.0.7"))
ADDRESSES = (*V4_ADDRESSES, (V6, "::1"), (V6, "::"))
OPTIONS: tuple[tuple[int, ...], ...] = (
    (),
    (socket.SO_REUSEADDR,),
    (socket.SO_REUSEPORT,),
    (socket.SO_REUSEADDR, socket.SO_REUSEPORT),
)


def bound(
    port: int,
    address: str = "127.0.0.1",
    options: tuple[int, ...] = (),
    kind: int = TCP,
    v6only: bool = False,
) -> socket.socket:
    """A socket that set `options` and then was bound, as a stranger or a server would."""
    sock = socket.socket(V6 if ":" in address else V4, kind)
    try:
        if sock.family == V6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def may_bind(port: int, address: str = "127.0.0.1", *options: int, kind: int = TCP) -> bool:
    try:
        bound(port, address, options, kind).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def given_to_strangers(kind: int = TCP, addresses: Any = ADDRESSES) -> list[int]:
    """The ports that bind(0) gives strangers on every address, with every option."""
    given = []
    for (_, address), options in itertools.product(addresses, OPTIONS):
        try:
            with bound(0, address, options, kind) as sock:
                given.append(sock.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return given


def given_to_connect(peer: tuple[str, int], kind: int = TCP) -> list[int]:
    """The port of an outgoing connect(); None if it gets none."""
    with socket.socket(V6 if ":" in peer[0] else V4, kind) as sock:
        try:
            sock.connect(peer)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAGAIN):
                raise
            return []
        abort_on_close(sock)
        return [sock.getsockname()[1]]


def abort_on_close(sock: socket.socket) -> None:
    """Let close() send a reset, which leaves no TIME_WAIT behind."""
    if sock.type == TCP:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leave_time_wait(port: int, options: tuple[int, ...] = (socket.SO_REUSEADDR,)) -> None:
    """Be a server on `port` that closes a connection first and ends."""
    with bound(port, options=options) as server:
        server.listen()
        client = socket.create_connection(("127.0.0.1", port))
        server.accept()[0].close()
        with client:
            assert client.recv(1) == b""
    eventually(lambda: read_sockets("tcp", {State.TIME_WAIT}, port=port))


def eventually(question: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.001)
    return answer


def open_descriptors() -> list[str]:
    """The open descriptors of this process, without the one of the look itself."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return sorted(one for one in found if not one.endswith("/fd"))


def bound_ports() -> set[int]:
    """The TCP ports that this process's sockets are bound to, also where no listing shows them."""
    ports = set()
    for one in open_descriptors():
        descriptor, _, what = one.partition(" ")
        if what.startswith("socket:["):
            with socket.socket(fileno=os.dup(int(descriptor))) as copy:
                if copy.family in (V4, V6) and copy.type == TCP:
                    ports.add(copy.getsockname()[1])
    return ports - {0}


def is_held(port: SupportsIndex, *pids: int, protocols: tuple[str, ...] = ("tcp",)) -> bool:
    """Whether these processes hold the port, on each protocol once.

    A kernel that does not show who holds a TCP port (before 6.8) keeps it from others all the same.
    """
    number = operator.index(port)
    found = holders(number)
    shown = [one for one in protocols if one == "udp" or can_see_bound_inactive()]
    kinds = {"tcp": TCP, "udp": UDP}
    return (
        sorted(one.protocol for one in found) == shown
        and {one.pid for one in found} == set(pids if shown else ())
        and not any(may_bind(number, "::", kind=kinds[one]) for one in protocols)
    )


def can_be_two_users() -> bool:
    """Whether children in a namespace can `become_nobody()`: not if it is a user namespace too."""
    return os.getuid() == 0 and _has_capabilities(_CAP_NET_ADMIN, _CAP_SYS_ADMIN)


def become_nobody() -> None:
    """Become another user for good. Import everything before: that user may not read our files."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A forked process that does `work`; killed in the end if it still runs."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def finish(pid: int) -> None:
    """Wait for a `child()`, which must have ended well."""
    assert os.waitpid(pid, 0)[1] == 0, "the child failed; its traceback is above"


def in_child(work: Callable[[], None]) -> None:
    with child(work) as pid:
        finish(pid)


def restless_neighbour(peer: tuple[str, int]) -> Callable[[], None]:
    """A neighbour that calls bind(0), listens and connects to `peer` without rest."""

    def work() -> None:
        for number in itertools.count():
            with suppress(OSError), bound(0, "127.0.0.1", OPTIONS[number % 4]) as sock:
                sock.listen()
            given_to_connect(peer)

    return work


@contextmanager
def peer() -> Iterator[tuple[str, int]]:
    """Somewhere to connect to, outside of any range that tests set, that never accepts."""
    with bound(9, "127.0.0.1") as sock:
        sock.listen(4096)
        yield ("127.0.0.1", 9)

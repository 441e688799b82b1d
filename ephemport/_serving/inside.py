"""Servers inside this process: one that sets no option takes a held port over as well.

`popen(assist=True)` assists a child through the kernel. A server in this process binds through
`socket.socket.bind`, a method in Python. While somebody wants assistance, that method is replaced:
for a port that this process holds, SO_REUSEADDR is set on the server's socket. All other binds go
straight to the method that was there before.

- TCP: the option is set before the bind and stays set, as servers set it themselves: listen() looks
  for conflicts as well, and the connections that the server closes do not keep the port from the
  next one (TIME_WAIT). So it is also set where a shadow would let the server in without it. A
  shadow lets in no server on "::", with or without assistance.
- UDP: the hold is exclusive. It opens for that one bind, and the server's socket keeps its options.
- `handoff="fd"` lets in nobody.

In a child made by os.fork() assistance goes on, for the TCP ports that its parent held at that
time. Binds that Python does not make (C extensions, other programs) are not seen.
"""

import operator
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from ephemport._holding.end import How
from ephemport._holding.hold import Hold
from ephemport._holding.live import holds_of
from ephemport._kernel.fork import lock
from ephemport._serving import own_tests

# Kept here before a test puts a mock in its place.
_Socket = socket.socket

_INTERNET = (socket.AF_INET, socket.AF_INET6)
# IPPROTO_TCP, MPTCP (shares the ports of TCP) and UDP. Not SCTP, not UDP-Lite. 0 is the usual one.
_ASSISTED = {
    *((int(socket.SOCK_STREAM), protocol) for protocol in (0, 6, 262)),
    *((int(socket.SOCK_DGRAM), protocol) for protocol in (0, 17)),
}
_ABSENT = object()

# One for each `assisted()` block that runs now.
_blocks: set[object] = set()
# The holds of ports that tests asked for: fixtures, port_map and ephemport.compat.
_of_tests: "WeakSet[Hold]" = WeakSet()


@contextmanager
def assisted() -> Iterator[None]:
    """Assist the servers of this process: in the block they get held ports, whatever they set.

    For servers in the process itself that set neither SO_REUSEADDR nor SO_REUSEPORT: a bare
    `socketserver.TCPServer`, Django's live server, a plain socket. It works for every reservation
    of this process, TCP and UDP, except `handoff="fd"`, in all threads, and in children made by
    `os.fork()` (TCP only). Blocks may be nested.

        with reserve(port=8000) as r, assisted():
            server = socketserver.TCPServer(r.address, Handler)

    In the block `socket.socket.bind` is replaced; the end of the last block puts back what was
    there. A server that is not bound by Python code, as in a C extension, is not assisted. For
    another program there is `popen(assist=True)`.

    Yields:
        None.
    """
    block = object()
    # Twice: a signal handler may raise in the first.
    try:
        try:
            _blocks.add(block)
            _settle()
            yield
        finally:
            _end_block(block)
    finally:
        _end_block(block)


def _end_block(block: object) -> None:
    _blocks.discard(block)
    _settle()


def offer(holds: Iterable[Hold]) -> None:
    """Let servers of this process bind these ports of tests, if the pytest run wants that."""
    _of_tests.update(holds)
    if own_tests.chosen():
        _settle()


def follow_choice() -> None:
    """Begin or end to assist after the choice of the pytest run has changed."""
    _settle()


def _settle() -> None:
    """Replace `socket.socket.bind` if that is wanted, else put it back."""
    global _patch
    with lock:
        if _blocks or (own_tests.chosen() and len(_of_tests) > 0):
            if not _patch.is_on:
                # A new one each time: the last one may still stand below other code's replacement.
                _patch = _Patch()
                _patch.begin()
        else:
            _patch.end()


class _Patch:
    """One replacement of `socket.socket.bind`, and the way back."""

    def __init__(self) -> None:
        self.is_on = False
        # socket.socket has no bind of its own: it inherits that of the C type.
        self._before: Any = vars(_Socket).get("bind", _ABSENT)
        beneath: Any = socket.SocketType.bind if self._before is _ABSENT else self._before
        get = getattr(type(beneath), "__get__", None)

        def bind(sock: socket.socket, /, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            plain = beneath if get is None else get(beneath, sock, type(sock))
            if self.is_on and len(args) == 1 and not kwargs:
                hold = _hold_for(sock, args[0])
                if hold is not None:
                    return _bind_beside(hold, sock, args[0], plain)
            return plain(*args, **kwargs)

        bind.__doc__ = getattr(beneath, "__doc__", None)
        self._bind = bind

    def begin(self) -> None:
        """Replace it."""
        self.is_on = True
        _Socket.bind = self._bind  # type: ignore[method-assign, assignment]

    def end(self) -> None:
        """Put back what was there. If other code has replaced ours since, that stays."""
        self.is_on = False
        if vars(_Socket).get("bind") is self._bind:
            if self._before is _ABSENT:
                del _Socket.bind
            else:
                _Socket.bind = self._before  # type: ignore[method-assign]


_patch = _Patch()


def _hold_for(sock: socket.socket, address: Any) -> Hold | None:
    """The hold that this bind meets, and that may let it in: this process's, or its parent's."""
    if sock.family not in _INTERNET or not isinstance(address, tuple) or len(address) < 2:
        return None
    # Most binds ask for any port, and are told from the others here.
    if not address[1] or (int(sock.type), sock.proto) not in _ASSISTED:
        return None
    try:
        port = operator.index(address[1])
    except TypeError:
        return None
    return next((hold for hold in holds_of(port) if _lets_in(hold, sock)), None)


def _lets_in(hold: Hold, sock: socket.socket) -> bool:
    if (not _blocks and hold not in _of_tests) or getattr(hold, "sealed", False):
        return False
    if any(one.type == sock.type for one in hold.sockets):
        return True
    # The parent has it, and it is open already. An exclusive hold could only be opened there.
    end = hold.end
    left = end is not None and end.how is How.FORKED and sock.type in hold.left
    return left and sock.type == socket.SOCK_STREAM


def _bind_beside(hold: Hold, sock: socket.socket, address: Any, plain: Callable[[Any], Any]) -> Any:
    __tracebackhide__ = True
    before = after = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    try:
        if sock.type == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            answer = plain(address)
            after = 1
            return answer
        with hold.ajar(sock.type):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return plain(address)
    finally:
        if after == before:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, before)

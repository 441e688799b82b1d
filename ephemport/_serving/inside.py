"""Servers inside this process: one that sets no option takes a held port over as well.

`popen(assist=True)` assists a child through the kernel. A server in this process calls `bind` and
`listen` of `socket.socket`, which are methods in Python. While somebody wants assistance, these two
are replaced: for a port that this process holds, they do what SO_REUSEADDR would do. All other
calls go straight to the methods that were there before.

- TCP: the option is set for the bind, and off again afterwards: a socket that does not listen keeps
  off others, as it would without a hold. It is set again for the listen, and stays: nobody can bind
  beside a socket that listens, and the connections that it will close do not keep the port from the
  next server (TIME_WAIT). So it is also set where a shadow would let the server in without it. A
  shadow lets in no server on "::", with or without assistance.
- UDP: the hold is exclusive. It opens for that one bind, and the server's socket keeps its options.
- `handoff="fd"` lets in nobody.

In a child made by os.fork() assistance goes on, for the TCP ports that its parent held at that
time. Calls that Python does not make (C extensions, other programs) are not seen.
"""

import operator
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from ephemport._holding.end import How
from ephemport._holding.held import holds_of
from ephemport._holding.hold import Hold
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
_REUSEADDR = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
_ABSENT = object()

# One for each `assisted()` block that runs now.
_blocks: set[object] = set()
# Whether a test asked for a port: by a fixture, port_map or ephemport.compat.
_tests_have_ports = False


@contextmanager
def assisted() -> Iterator[None]:
    """Assist the servers of this process: in the block they get held ports, whatever they set.

    For servers in the process itself that set neither SO_REUSEADDR nor SO_REUSEPORT: a bare
    `socketserver.TCPServer`, Django's live server, a plain socket. It works for every reservation
    of this process, TCP and UDP, except `handoff="fd"`, in all threads, and in children made by
    `os.fork()` (TCP only). Blocks may be nested.

        with reserve(port=8000) as r, assisted():
            server = socketserver.TCPServer(r.address, Handler)

    In the block `bind` and `listen` of `socket.socket` are replaced; the end of the last block puts
    back what was there. A server that is not bound by Python code, as in a C extension, is not
    assisted. For another program there is `popen(assist=True)`.

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
    global _tests_have_ports
    for hold in holds:
        # Not a set of weak references: its callbacks would swallow what a signal handler raises.
        hold.for_tests = True
        _tests_have_ports = True
    if own_tests.chosen():
        _settle()


def follow_choice() -> None:
    """Begin or end to assist after the choice of the pytest run has changed."""
    _settle()


def _settle() -> None:
    """Replace `bind` and `listen` if that is wanted, else put them back."""
    global _replaced
    with lock:
        if _blocks or (own_tests.chosen() and _tests_have_ports):
            if not _all_stand(_replaced):
                _end(_replaced)
                # New ones each time: the last may still stand below other code's replacements.
                _replaced = (_Replaced("bind", _bind), _Replaced("listen", _listen))
                _begin(_replaced)
        else:
            _end(_replaced)


def _all_stand(replaced: "Iterable[_Replaced]") -> bool:
    # Python 3.15 makes a loop of all(), and such a loop must not stand in a `with lock:`.
    return all(one.stands() for one in replaced)


def _begin(replaced: "Iterable[_Replaced]") -> None:
    for one in replaced:
        one.begin()


def _end(replaced: "Iterable[_Replaced]") -> None:
    for one in replaced:
        one.end()


class _Replaced:
    """One replacement of a method of `socket.socket`, and the way back.

    ours: called with the socket, the method that was there before (bound), and the arguments.
    """

    def __init__(self, name: str, ours: Callable[..., Any]) -> None:
        self.is_on = False
        self._name = name
        # socket.socket has neither method itself: it inherits those of the C type.
        self._before: Any = vars(_Socket).get(name, _ABSENT)
        inherited: Any = getattr(socket.SocketType, name)
        beneath = inherited if self._before is _ABSENT else self._before
        get = getattr(type(beneath), "__get__", None)

        def method(sock: socket.socket, /, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            plain = beneath if get is None else get(beneath, sock, type(sock))
            if self.is_on and not kwargs:
                return ours(sock, plain, *args)
            return plain(*args, **kwargs)

        method.__doc__ = getattr(beneath, "__doc__", None)
        self._method = method

    def begin(self) -> None:
        """Replace it."""
        self.is_on = True
        setattr(_Socket, self._name, self._method)

    def stands(self) -> bool:
        """Whether it is in force. Other code may have removed it, as the end of a mock does."""
        return self.is_on and self._name in vars(_Socket)

    def end(self) -> None:
        """Put back what was there. If other code has replaced ours since, that stays."""
        self.is_on = False
        if vars(_Socket).get(self._name) is not self._method:
            return
        if self._before is _ABSENT:
            delattr(_Socket, self._name)
        else:
            setattr(_Socket, self._name, self._before)


# Never begun.
_replaced: tuple[_Replaced, ...] = (_Replaced("bind", _Socket.bind),)


def _bind(sock: socket.socket, plain: Callable[..., Any], *args: Any) -> Any:
    __tracebackhide__ = True
    hold = _hold_for(sock, args[0]) if len(args) == 1 else None
    if hold is None:
        return plain(*args)
    before = sock.getsockopt(*_REUSEADDR)
    try:
        with hold.ajar(sock.type) if sock.type == socket.SOCK_DGRAM else nullcontext():
            sock.setsockopt(*_REUSEADDR, 1)
            return plain(*args)
    finally:
        _set_back(sock, before)


def _listen(sock: socket.socket, plain: Callable[..., Any], *args: Any) -> Any:
    __tracebackhide__ = True
    # The kernel looks for conflicts once more (inet_csk_listen_start).
    hold = _hold_for(sock, _name_of(sock))
    if hold is None:
        return plain(*args)
    before = sock.getsockopt(*_REUSEADDR)
    try:
        sock.setsockopt(*_REUSEADDR, 1)
        answer = plain(*args)
        before = 1
        return answer
    finally:
        if not before:
            _set_back(sock, before)


def _set_back(sock: socket.socket, before: int) -> None:
    with suppress(OSError):  # closed meanwhile
        sock.setsockopt(*_REUSEADDR, before)


def _name_of(sock: socket.socket) -> Any:
    try:
        return sock.getsockname()
    except OSError:
        return None


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
    if (not _blocks and not getattr(hold, "for_tests", False)) or getattr(hold, "sealed", False):
        return False
    if any(one.type == sock.type for one in hold.sockets):
        return True
    # The parent has it, and it is open already. An exclusive hold could only be opened there.
    end = hold.end
    left = end is not None and end.how is How.FORKED and sock.type in hold.left
    return left and sock.type == socket.SOCK_STREAM

"""What a failed bind() had tried, read from its frame. No code of the test runs.

Python's own error names no address. The frame knows which expression was being evaluated, and it
has the values of the expression's parts as they are now.
"""

import ast
import linecache
import os
import socket
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePath
from types import TracebackType
from typing import NamedTuple

from ephemport.pytest_plugin.evidence import attributes_of

UNKNOWN = object()
_INSIDE = "ephemport._serving.inside"
_PROTOCOLS = {int(socket.SOCK_STREAM): "tcp", int(socket.SOCK_DGRAM): "udp"}


class FailedBind(NamedTuple):
    """What was tried. None means unknown.

    port: the port, 0 where the kernel was asked to choose. name: the name of a Unix socket, as
    `socket.bind()` takes it; an abstract one begins with a zero byte. unix: whether the socket or
    the address is a Unix one. protocol: "tcp" or "udp". options: whether SO_REUSEADDR and
    SO_REUSEPORT are set; None if the socket is closed.
    """

    port: int | None = None
    name: bytes | None = None
    unix: bool = False
    protocol: str | None = None
    options: tuple[bool, bool] | None = None


def failed_bind(error: BaseException) -> FailedBind | None:
    """Return the bind(), or the listen() after it, that raised this error; None: another call."""
    trace = None
    following = error.__traceback__
    while following is not None:
        # Below the test's own call there may be ours, which assists it.
        if following.tb_frame.f_globals.get("__name__") != _INSIDE:
            trace = following
        following = following.tb_next
    if trace is None:
        return None
    call = _call_at(trace)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    frame = trace.tb_frame
    names = {**frame.f_globals, **frame.f_locals}
    sock = value_of(call.func.value, names)
    if call.func.attr == "bind" and call.args:
        return _of(sock, value_of(call.args[0], names))
    if call.func.attr == "listen" and isinstance(sock, socket.SocketType):
        return _of(sock, _bound_to(sock))
    return None


def _of(sock: object, address: object) -> FailedBind:
    unix, protocol, options = False, None, None
    if isinstance(sock, socket.SocketType):
        unix = sock.family == socket.AF_UNIX
        protocol = _PROTOCOLS.get(int(sock.type))
        options = _options(sock)
    if isinstance(address, (str, bytes, os.PathLike)):
        return FailedBind(name=os.fsencode(address), unix=True)
    if unix:
        return FailedBind(unix=True)
    port = address[1] if isinstance(address, tuple) and len(address) > 1 else None
    known = isinstance(port, int) and 0 <= port < 65536
    return FailedBind(port=port if known else None, protocol=protocol, options=options)


def _bound_to(sock: socket.SocketType) -> object:
    try:
        return sock.getsockname()
    except OSError:
        return UNKNOWN  # closed


def _options(sock: socket.SocketType) -> tuple[bool, bool] | None:
    try:
        return (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0,
        )
    except OSError:
        return None  # closed


def _call_at(trace: TracebackType) -> ast.expr | None:
    """Return the expression that the frame was evaluating; None where it has no source."""
    code = trace.tb_frame.f_code
    positions: Iterable[tuple[int | None, ...]] = islice(
        code.co_positions(), trace.tb_lasti // 2, None
    )
    first, last, begin, end = next(iter(positions), (None,) * 4)
    if first is None or last is None or begin is None or end is None:
        return None
    lines = linecache.getlines(code.co_filename, trace.tb_frame.f_globals)[first - 1 : last]
    if len(lines) != last - first + 1:
        return None
    # The columns count bytes of UTF-8.
    raw = [line.encode() for line in lines]
    raw[-1] = raw[-1][:end]
    raw[0] = raw[0][begin:]
    try:
        return ast.parse(b"(" + b"".join(raw) + b")", mode="eval").body
    except (SyntaxError, ValueError):
        return None  # The file has changed meanwhile.


def value_of(node: ast.expr, names: Mapping[str, object]) -> object:
    """Return the value of an expression of names, attributes and constants; else UNKNOWN.

    No code of the test runs: no property, no method, no __getattr__.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if isinstance(node, ast.Attribute):
        return _attribute(value_of(node.value, names), node.attr)
    if isinstance(node, ast.Tuple):
        return tuple(value_of(one, names) for one in node.elts)
    if isinstance(node, ast.Subscript):
        return _item(value_of(node.value, names), value_of(node.slice, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        made = value_of(node.args[0], names)
        if node.func.id == "str" and isinstance(made, (str, int, PurePath)):
            return str(made)
        if node.func.id == "int" and (type(made) in (int, str) or _is_reservation(made)):
            return _as_int(made)
    if isinstance(node, ast.BinOp):
        return _joined(value_of(node.left, names), node.op, value_of(node.right, names))
    if isinstance(node, ast.JoinedStr):
        return _formatted(node, names)
    return UNKNOWN


def _attribute(of: object, name: str) -> object:
    if of is UNKNOWN:
        return UNKNOWN
    if _is_reservation(of) and name in ("address", "port", "host"):
        return getattr(of, name)
    own = attributes_of(of)
    if name in own:
        return own[name]
    for kind in type(of).__mro__:
        found = vars(kind).get(name, UNKNOWN)
        if found is not UNKNOWN:
            return found if isinstance(found, (str, int, tuple, PurePath)) else UNKNOWN
    return UNKNOWN


def _is_reservation(one: object) -> bool:
    return type(one).__module__ == "ephemport._reservation"


def _as_int(value: object) -> object:
    try:
        return int(value)  # type: ignore[call-overload]
    except ValueError:
        return UNKNOWN


def _item(of: object, key: object) -> object:
    try:
        if type(of) in (list, tuple, dict) and type(key) in (int, str):
            return of[key]  # type: ignore[index]
    except (LookupError, TypeError):
        pass
    return UNKNOWN


def _joined(left: object, how: ast.operator, right: object) -> object:
    if isinstance(how, ast.Add):
        if type(left) is int and type(right) is int:
            return left + right
        if type(left) is str and type(right) is str:
            return left + right
    if (
        isinstance(how, ast.Div)
        and isinstance(left, PurePath)
        and isinstance(right, (str, PurePath))
    ):
        return left / right
    return UNKNOWN


def _formatted(node: ast.JoinedStr, names: Mapping[str, object]) -> object:
    text = ""
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            plain = part.conversion == -1 and part.format_spec is None
            value = value_of(part.value, names) if plain else UNKNOWN
        else:
            value = value_of(part, names)
        if not isinstance(value, (str, int, PurePath)):
            return UNKNOWN
        text += str(value)
    return text

"""A bind that an assisted start does not concern has the same result as without one."""

import os
import shutil
import socket
import sys

import pytest

from ephemport._holding.acquire import hold
from ephemport._kernel.fork import lock
from tests.assist.conftest import NewHold, Start

BINDS = """
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.bind.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]

def v4(port, family=socket.AF_INET):
    return struct.pack("=H", family) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))

def v6(port, family=socket.AF_INET6):
    return struct.pack("=H", family) + struct.pack("!HI16sI", port, 0, bytes(15) + b"\\1", 0)

def attempt(name, fd, address, length=None):
    if isinstance(address, bytes):
        length = len(address) if length is None else length
        keep = ctypes.create_string_buffer(address.ljust(2000, b"\\0"))
        address = ctypes.addressof(keep)
    ctypes.set_errno(0)
    result = libc.bind(fd, address, length & 0xFFFFFFFF)
    said = [name, result, errno.errorcode.get(ctypes.get_errno())]
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                said.append(sock.getsockopt(socket.SOL_SOCKET, option))
    except (OSError, OverflowError):
        pass
    print(*said, flush=True)

HELD, FREE, TAKEN = %r
tcp = lambda: socket.socket()
page = os.sysconf("SC_PAGESIZE")
edge = libc.mmap(None, 2 * page, 3, 0x22, -1, 0) + page - 16
assert libc.mprotect(ctypes.c_void_p(edge + 16), page, 0) == 0
ctypes.memmove(edge, v4(HELD), 16)
for name, fd, *rest in [
    ("port 0", tcp(), v4(0)),
    ("a free port", tcp(), v4(FREE)),
    ("a taken port", tcp(), v4(TAKEN)),
    ("pointer 0", tcp(), 0, 16),
    ("pointer 1", tcp(), 1, 16),
    ("kernel pointer", tcp(), (1 << 64) - 4096, 16),
    ("length 0", tcp(), v4(HELD), 0),
    ("length 2", tcp(), v4(HELD), 2),
    ("length 15", tcp(), v4(HELD), 15),
    ("length 129", tcp(), v4(HELD), 129),
    ("length 1000", tcp(), v4(HELD), 1000),
    ("length -1", tcp(), v4(HELD), -1),
    ("half in a page that is not there", tcp(), edge, 17),
    ("closed", -1, v4(HELD)),
    ("closed 999", 999, v4(HELD)),
    ("no socket", os.open("/dev/null", os.O_RDONLY), v4(HELD)),
    ("AF_UNIX address", tcp(), v4(HELD, socket.AF_UNIX)),
    ("family 999", tcp(), v4(HELD, 999)),
    ("v4 address, v6 socket", socket.socket(socket.AF_INET6), v4(HELD)),
    ("v6 address, v4 socket", socket.socket(), v6(HELD)),
    ("v6 address, short", socket.socket(socket.AF_INET6), v6(HELD)[:20]),
    ("UDP, held for TCP", socket.socket(type=socket.SOCK_DGRAM), v4(HELD)),
    ("UNIX socket", socket.socket(socket.AF_UNIX), struct.pack("=H", 1) + b"\\0" + os.urandom(20)),
    ("netlink", socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), struct.pack("=HxxII", 16, 0, 0)),
    ("not of this machine", tcp(), v4(FREE)[:4] + bytes([192, 0, 2, 1]) + bytes(8)),
]:
    attempt(name, fd if isinstance(fd, int) else fd.fileno(), *rest)
print("end", flush=True)
"""


def test_the_same_answers_as_without_the_filter(start_python: Start, new_hold: NewHold) -> None:
    held = new_hold()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = hold(0, "tcp")
        free.close()
        program = BINDS % ((held.port, free.port, taken.getsockname()[1]),)
        said: list[list[str]] = []
        for holds in (None, [held]):
            server = start_python(program, holds)
            said.append([])
            while (line := server.line()) not in ("end", ""):
                said[-1].append(line)
    assert said[0] == said[1]
    assert len(said[0]) == 25
    assert "port 0 0 None 0 0" in said[0]
    assert "a free port 0 None 0 0" in said[0]
    assert "a taken port -1 EADDRINUSE 0 0" in said[0]
    assert "pointer 1 -1 EFAULT 0 0" in said[0]


OPTION = """
import socket
print("ready", flush=True)
input()
sock = socket.socket()
try:
    sock.bind(("127.0.0.1", {port}))
except OSError as error:
    print(error.strerror, flush=True)
else:
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), flush=True)
"""


def test_a_closed_hold_is_no_business_of_ours(start_python: Start, new_hold: NewHold) -> None:
    held = new_hold()
    server = start_python(OPTION.format(port=held.port), [held])
    assert server.line() == "ready"
    held.close()
    server.say()
    assert server.line() == "0"


def test_a_hold_of_somebody_else(start_python: Start, new_hold: NewHold) -> None:
    ours, other = new_hold(), new_hold()
    server = start_python(OPTION.format(port=other.port), [ours])
    server.say()
    assert server.line() == "ready"
    assert server.line() == "Address already in use"


def test_other_numbers_do_not_wait_for_what_ours_wait_for(
    start_python: Start, new_hold: NewHold
) -> None:
    ours = new_hold()
    server = start_python(OPTION.format(port=0), [ours])
    assert server.line() == "ready"
    with lock:
        server.say()
        assert server.line() == "0"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, unshare")
def test_another_network_namespace_has_numbers_of_its_own(start: Start, new_hold: NewHold) -> None:
    held = new_hold()
    program = OPTION.format(port=held.port)
    lo = 'ip link set lo up; exec "$@"'
    server = start(["unshare", "-n", "sh", "-c", lo, "sh", sys.executable, "-c", program], [held])
    server.say()
    assert server.line() == "ready"
    assert server.line() == "0"

"""Everything that picks a port, behind one small interface.

A peer says its version, or what is missing. Loaded, where it is measured, it is a Picker.
"""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.cells import die_with_parent, end
from benchmarks.pickers import Allocated, Ephemeral, Limit, Picker, Portpicker
from ephemport.compat import PortAllocator

INSTALL = "pip install 'ephemport[bench]'"
# anyio's and pytest-asyncio's factories live as long as a pytest session and never give a port
# twice: in a range of 200 they would search forever once a session has used all of them.
_PICKS_A_SESSION = 50


class Missing(Exception):
    """A peer is not installed."""


@dataclass(frozen=True)
class Peer:
    """What is known of a competitor before it is loaded.

    most: how many calls one round may make; picks of some leave things behind (a TIME_WAIT, a
    port of the portserver) and would change what is measured after them.
    """

    name: str
    load: Callable[[str], Picker]
    distribution: str | None = None
    modules: tuple[str, ...] = ()
    ours: bool = False
    needs_portserver: bool = False
    most: int = 100

    def missing(self) -> str | None:
        """What is not installed, or None."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError:
                return f"{self.distribution} is not installed: {INSTALL}"
        if self.needs_portserver and _portserver_script() is None:
            return f"portserver.py is not installed: {INSTALL}"
        return None

    def version(self) -> str | None:
        """The installed version; the Python's own for the standard library."""
        if self.distribution is None:
            return f"Python {sys.version.split()[0]}"
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


@contextmanager
def surroundings(peer: Peer) -> Iterator[str]:
    """What a peer needs around it, for all its processes: a portserver, or a lock folder."""
    if not peer.needs_portserver:
        with tempfile.TemporaryDirectory(prefix="ephemport-bench-") as folder:
            yield folder
        return
    address = f"@ephemport-bench-{os.getpid()}"
    script = _portserver_script()
    if script is None:
        raise Missing(f"portserver.py is not installed: {INSTALL}")
    server = subprocess.Popen(
        [sys.executable, script, f"--portserver_address={address}"],
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        _wait_for(server, address)
        yield address
    finally:
        end(server)


@contextmanager
def loaded(peer: Peer) -> Iterator[Picker]:
    """A peer ready to pick, in this process and no other."""
    with ExitStack() as stack:
        yield peer.load(stack.enter_context(surroundings(peer)))


def _wait_for(server: "subprocess.Popen[bytes]", address: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and server.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(address.replace("@", "\0", 1))
            except OSError:
                time.sleep(0.02)
            else:
                client.sendall(b"0\n")
                return
    raise Missing("portserver.py does not start")


def _portserver_script() -> str | None:
    here = os.path.dirname(sys.executable)
    return shutil.which("portserver.py", path=os.pathsep.join([here, os.environ.get("PATH", "")]))


def _bind_and_close() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _portpicker(_: str) -> Picker:
    portpicker = importlib.import_module("portpicker")
    os.environ.pop("PORTSERVER_ADDRESS", None)
    return Portpicker(portpicker.pick_unused_port, portpicker.return_port)


def _portpicker_with_server(address: str) -> Picker:
    pick = importlib.import_module("portpicker").pick_unused_port
    # Not returned: from then on portpicker would hand out the same port without asking.
    return Picker(lambda: int(pick(portserver_address=address)))


def _ephemeral_port_reserve(_: str) -> Picker:
    return Picker(importlib.import_module("ephemeral_port_reserve").reserve)


def _port_for(_: str) -> Picker:
    return Picker(importlib.import_module("port_for").select_random)


def _anyio(_: str) -> Picker:
    factory = importlib.import_module("anyio.pytest_plugin").FreePortFactory
    return Picker(_by_sessions(lambda: factory(socket.SOCK_STREAM)))


def _pytest_asyncio(_: str) -> Picker:
    fixture: Any = importlib.import_module("pytest_asyncio.plugin").unused_tcp_port_factory
    # Its one way in is the fixture; pytest keeps the function behind it.
    return Picker(_by_sessions(fixture.__wrapped__))


def _by_sessions(factory: Callable[[], Callable[[], int]]) -> Callable[[], int]:
    pick = factory()
    left = _PICKS_A_SESSION

    def pick_one() -> int:
        nonlocal pick, left
        if not left:
            pick, left = factory(), _PICKS_A_SESSION
        left -= 1
        return pick()

    return pick_one


def _fixed(folder: str) -> Picker:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return Allocated(PortAllocator("fixed", worker_id=worker, lock_dir=folder))


PEERS = (
    Peer("the limit", lambda _: Limit()),
    Peer("ephemport", lambda _: Ephemeral(), "ephemport", ours=True),
    Peer("ephemport fixed", _fixed, "ephemport", ours=True),
    Peer(
        "ephemport portserver",
        lambda address: Allocated(PortAllocator(f"portserver:{address}")),
        "ephemport",
        modules=("portpicker", "psutil"),
        ours=True,
        needs_portserver=True,
        most=5,
    ),
    Peer("bind(0), close", lambda _: Picker(_bind_and_close)),
    Peer("portpicker", _portpicker, "portpicker", ("portpicker",)),
    Peer(
        "portpicker + portserver",
        _portpicker_with_server,
        "portpicker",
        ("portpicker", "psutil"),
        needs_portserver=True,
        most=5,
    ),
    Peer(
        "ephemeral-port-reserve",
        _ephemeral_port_reserve,
        "ephemeral-port-reserve",
        ("ephemeral_port_reserve",),
        most=5,
    ),
    Peer("port-for", _port_for, "port-for", ("port_for",), most=2),
    Peer("anyio", _anyio, "anyio", ("anyio",)),
    Peer("pytest-asyncio", _pytest_asyncio, "pytest-asyncio", ("pytest_asyncio", "pytest")),
)
LIMIT = PEERS[0]
EPHEMPORT = PEERS[1]


def named(name: str) -> Peer:
    """The peer of that name."""
    return next(peer for peer in PEERS if peer.name == name)


def installed() -> list[Peer]:
    """The peers that can be measured here."""
    return [peer for peer in PEERS if peer.missing() is None]

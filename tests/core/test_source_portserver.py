"""Mode "portserver": against portpicker's own server, and against ones that talk nonsense."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ephemport import EphemportError, PortsExhausted, PortUnavailable
from ephemport._holding.request import Request
from ephemport._holding.sources.portserver import Portserver
from ephemport._reservation import reserve_from, reserve_many_from
from tests.conftest import ROOT, InNamespace, run_python
from tests.core.helpers import bound, eventually, is_held, open_descriptors

# portpicker 1.6.0 asks for the event loop of a thread that has none, which Python 3.14 refuses.
_WITH_A_LOOP = """
import asyncio, runpy, sys
asyncio.set_event_loop(asyncio.new_event_loop())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def real_portserver(address: str, pool: str) -> Iterator[None]:
    program = Path(sys.executable).with_name("portserver.py")
    found = program if program.exists() else shutil.which("portserver.py")
    assert found, "portpicker installs portserver.py"
    command = [sys.executable, "-c", _WITH_A_LOOP, found, "--portserver_address", address]
    # Not -W error: the script is portpicker's, and so are its warnings.
    with subprocess.Popen(
        [*command, "--portserver_static_pool", pool],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": ""},
    ) as server:
        try:
            eventually(lambda: answers(address) or server.poll() is not None)
            assert server.poll() is None
            yield
        finally:
            server.kill()


def answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(address.replace("@", "\0", 1))
        except OSError:
            return False
        return True


def fresh_address() -> str:
    return f"@ephemport-test-{uuid.uuid4()}"


def _ports_of_the_pool(by_environment: bool) -> None:
    address = fresh_address()
    if by_environment:
        os.environ["PORTSERVER_ADDRESS"] = address
    with real_portserver(address, "20000-20004"):
        source = Portserver(None if by_environment else address)
        assert source.address == address
        before = open_descriptors()
        with reserve_many_from(source, Request(protocol="both"), 5) as group:
            assert sorted(group.ports) == list(range(20000, 20005))
            for r in group:
                assert is_held(r, os.getpid(), protocols=("tcp", "udp"))
            with pytest.raises(PortsExhausted, match="its pool has no free port") as caught:
                reserve_from(source, Request())
            assert address in str(caught.value)
        # The server takes none back while this process lives. They are used again nevertheless.
        with reserve_many_from(source, Request(), 5) as group:
            assert sorted(group.ports) == list(range(20000, 20005))
        with reserve_from(source, Request(port=20003)) as r:
            assert r.port == 20003
        with reserve_from(source, Request(port=20003)) as r, pytest.raises(PortUnavailable):
            reserve_from(source, Request(port=20003))
        assert open_descriptors() == before


@pytest.mark.parametrize("by_environment", [False, True])
def test_ports_come_from_the_pool(in_namespace: InNamespace, by_environment: bool) -> None:
    in_namespace(_ports_of_the_pool, by_environment)


def _passed_over() -> None:
    address = fresh_address()
    with real_portserver(address, "20000-20001"):
        source = Portserver(address)
        with bound(20000), reserve_from(source, Request()) as r:
            assert r.port == 20001
        for _ in range(3):
            with pytest.raises(PortsExhausted):
                reserve_from(source, Request(exclude=[20000, 20001]))
            with reserve_from(source, Request(exclude=[20001])) as r:
                assert r.port == 20000
        with reserve_many_from(source, Request(), 2) as group:
            assert sorted(group.ports) == [20000, 20001]


def test_ports_passed_over_are_not_lost(in_namespace: InNamespace) -> None:
    in_namespace(_passed_over)


def test_a_portserver_that_is_down() -> None:
    address = fresh_address()
    before = open_descriptors()
    with pytest.raises(EphemportError, match="no port from the portserver") as caught:
        reserve_from(Portserver(address), Request())
    assert address in str(caught.value)
    assert "Start portserver.py" in str(caught.value)
    assert open_descriptors() == before


@contextmanager
def fake_portserver(answer: bytes) -> Iterator[str]:
    address = fresh_address()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.replace("@", "\0", 1))
        server.listen()

        def serve() -> None:
            while True:
                client, _ = server.accept()
                with client:
                    if not client.recv(100):
                        return
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(address.replace("@", "\0", 1))
            thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"0\n", PortsExhausted, "its pool has no free port"),
        (b"", PortsExhausted, "its pool has no free port"),  # what portserver.py does
        (b"nonsense\n", PortsExhausted, "its pool has no free port"),
        (b"-5\n", EphemportError, "it answered -5"),
        (b"70000\n", EphemportError, "it answered 70000"),
    ],
)
def test_a_portserver_that_talks_nonsense(
    answer: bytes, error: type[Exception], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_portserver(answer) as address, pytest.raises(error, match=text) as caught:
        reserve_from(Portserver(address), Request())
    assert type(caught.value) is error
    assert address in str(caught.value)
    assert capsys.readouterr().err == ""


def test_a_portserver_whose_ports_are_all_taken() -> None:
    with bound(0) as stranger, fake_portserver(b"%d\n" % stranger.getsockname()[1]) as address:
        source = Portserver(address)
        with pytest.raises(PortsExhausted, match="all taken or excluded"):
            reserve_from(source, Request())


def test_nobody_said_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTSERVER_ADDRESS", raising=False)
    with pytest.raises(EphemportError, match="set PORTSERVER_ADDRESS") as caught:
        Portserver()
    assert "portserver:@address" in str(caught.value)


def test_an_address_in_the_mode(in_namespace: InNamespace) -> None:
    in_namespace(_address_in_the_mode)


def _address_in_the_mode() -> None:
    from ephemport.compat import PortAllocator

    address = fresh_address()
    os.environ["PORTSERVER_ADDRESS"] = "@somewhere-else"
    with real_portserver(address, "20000-20004"):
        allocator = PortAllocator(mode=f"portserver:{address}")
        port = allocator.allocate_port()
        assert port in range(20000, 20005)
        allocator.release_port(port)


WITHOUT_PORTPICKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "portpicker":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from ephemport import EphemportError
from ephemport._holding.sources.portserver import Portserver
try:
    Portserver("@somewhere")
except EphemportError as error:
    print(error)
"""


def test_without_portpicker_the_extra_is_named() -> None:
    done = run_python(WITHOUT_PORTPICKER, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "pip install 'ephemport[portserver]'" in done.stdout

"""A node: ports that are held on another host, as the README and docs/many-hosts.md promise."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ephemport import (
    EphemportError,
    Node,
    PortsExhausted,
    PortUnavailable,
    ReservationReleased,
    on,
    reserve,
    reserve_everywhere,
)
from ephemport._kernel.port_range import ephemeral_range
from tests.conftest import ROOT, run_python
from tests.core.helpers import eventually
from tests.nodes.conftest import Host, channel_of, node_on


@pytest.fixture
def here() -> Iterator[Node]:
    """This very host as a node."""
    with on([], python=sys.executable) as node:
        yield node


def test_a_port_is_held_over_there_and_not_here(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    with node_on(second) as node:
        r = node.reserve(host=second.address)
        assert r.address == (second.address, r.port)
        assert r.url(path="x") == f"http://{second.address}:{r.port}/x"
        assert (r.lost, r.released, int(r), r.node) == (False, False, r.port, node)
        assert not second.is_free(r.port)
        assert first.is_free(r.port)
        r.release()
        assert second.is_free(r.port)
        r.release()


def test_a_server_over_there_takes_it_over_and_is_reached(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    with node_on(second) as node, node.reserve(host=second.address) as r:
        server = subprocess.Popen(
            [*second.enter, sys.executable, "-m", "http.server", str(r.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            fetch = f"import urllib.request as u; print(u.urlopen({r.url()!r}, timeout=9).status)"

            def answers() -> bool:
                done = subprocess.run(
                    [*first.enter, sys.executable, "-c", fetch], capture_output=True, text=True
                )
                return done.stdout == "200\n"

            eventually(answers)
        finally:
            server.kill()
            server.wait()


def test_the_end_of_the_client_frees_the_ports(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    script = (
        "import sys, ephemport\n"
        f"node = ephemport.on({there.enter!r}, python=sys.executable, lease=None)\n"
        f"print(node.reserve(host={there.address!r}).port, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        port = int(client.stdout.readline())
        assert not there.is_free(port)
        client.send_signal(signal.SIGKILL)
        client.wait()
        eventually(lambda: there.is_free(port))


def test_a_forked_child_keeps_no_end_of_the_channel(here: Node) -> None:
    r = here.reserve(host="127.0.0.1")
    reader, writer = os.pipe()
    ready_reader, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.write(ready, b"!")
        try:
            here.reserve(host="127.0.0.1")
        except EphemportError as error:
            ok = f"belongs to pid {os.getppid()}" in str(error)
            here.close()
            os.read(reader, 1)
            os._exit(0 if ok else 1)
        os._exit(2)
    try:
        os.read(ready_reader, 1)
        assert _pipes_of(here) <= _pipes(os.getpid())
        assert not _pipes_of(here) & _pipes(child)
        assert not r.lost
    finally:
        for one in (reader, ready_reader, ready, writer):
            os.close(one)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    r.release()


def _pipes(pid: int) -> set[str]:
    found = set()
    for one in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{one}"))
        except OSError:
            continue
    return {one for one in found if one.startswith("pipe:")}


def _pipes_of(node: Node) -> set[str]:
    channel = channel_of(node)
    descriptors = (channel._to_agent, channel._from_agent, channel._words)
    return {os.readlink(f"/proc/self/fd/{one.number}") for one in descriptors}


def test_many_at_once_and_in_a_row(here: Node) -> None:
    with here.reserve_many(1000, host="127.0.0.1") as group:
        assert len(set(group.ports)) == 1000
        assert not group.lost
    assert group.released
    with here.reserve_many(3, contiguous=True, host="127.0.0.1") as row:
        assert row.ports == [row.ports[0], row.ports[0] + 1, row.ports[0] + 2]
    with here.reserve_many(offsets=[0, 1], multiple_of=2, host="::", protocol="udp") as pair:
        assert pair.ports[0] % 2 == 0
        assert pair[0].protocol == "udp"


def test_errors_are_those_of_reserve_with_who_has_it(here: Node) -> None:
    with reserve() as taken:
        with pytest.raises(PortUnavailable, match=f"pid {os.getpid()}") as caught:
            here.reserve(host="127.0.0.1", port=taken.port)
    assert caught.value.port == taken.port
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.found[0].pid == os.getpid()
    with pytest.raises(ValueError, match=r"no address of this machine"):
        here.reserve(host="192.0.2.7")
    with pytest.raises(PortsExhausted, match="exclude"):
        here.reserve(host="127.0.0.1", exclude=range(1, 65536))
    with pytest.raises(TypeError):
        here.reserve()  # type: ignore[call-arg]


def test_what_is_wrong_is_refused_here_and_nothing_is_asked(here: Node) -> None:
    asked = list(channel_of(here)._sent)
    wrong: list[dict[str, Any]] = [
        {"protocol": "icmp"},
        {"port": 70000},
        {"handoff": "x"},
        {"exclude": "80"},
        {"range": []},
    ]
    for terms in wrong:
        with pytest.raises((TypeError, ValueError)):
            here.reserve(host="127.0.0.1", **terms)
    with pytest.raises(ValueError, match="multiple_of"):
        here.reserve_many(2, host="127.0.0.1", multiple_of=2)
    assert set(channel_of(here)._sent) <= set(asked)


def test_a_process_there_adopts_it(here: Node) -> None:
    r = here.reserve(host="127.0.0.1")
    code = (
        "import sys, ephemport; r = ephemport.adopt(sys.argv[1]); print(r.port, flush=True); "
        "sys.stdin.read(); r.release()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, r.share()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as adopter:
        assert adopter.stdout is not None
        assert adopter.stdin is not None
        assert int(adopter.stdout.readline()) == r.port
        here.close()
        assert not _can_bind(r.port)
        adopter.stdin.close()
    assert _can_bind(r.port)


def _can_bind(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_released_one_says_so(here: Node) -> None:
    r = here.reserve(host="127.0.0.1")
    r.release()
    with pytest.raises(ReservationReleased, match=f"port {r.port}"):
        r.share()
    with pytest.raises(ReservationReleased):
        r.__enter__()
    assert "released" in repr(r)


def test_a_closed_node_says_so(here: Node) -> None:
    r = here.reserve(host="127.0.0.1")
    here.close()
    assert (r.released, r.lost, here.lost) == (True, False, False)
    with pytest.raises(EphemportError, match="it was closed here"):
        here.reserve(host="127.0.0.1")
    here.close()


def test_a_forgotten_node_warns_and_ends() -> None:
    node = on([], python=sys.executable)
    agent = node.pid
    thread = channel_of(node)._thread
    with pytest.warns(ResourceWarning, match="never closed"):
        del node
    thread.join(20)
    eventually(lambda: not os.path.exists(f"/proc/{agent}"))


def test_many_threads_use_one_node(here: Node) -> None:
    def one(_: int) -> int:
        with here.reserve(host="127.0.0.1", exclude=range(1, 1000)) as r:
            return r.port

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(one, range(200)))) == 200


def test_an_interrupted_call_leaves_nothing_held(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with node_on(there) as node:
        main = threading.main_thread().ident
        assert main is not None

        class Interrupt(Exception):
            pass

        def raise_it(number: int, frame: object) -> None:
            raise Interrupt

        before = signal.signal(signal.SIGUSR1, raise_it)
        os.kill(node.pid, signal.SIGSTOP)
        try:

            def interrupt() -> None:
                eventually(lambda: channel_of(node)._waiting)
                signal.pthread_kill(main, signal.SIGUSR1)

            waits = threading.Thread(target=interrupt)
            with pytest.raises(Interrupt):
                waits.start()
                node.reserve(host=there.address, port=7777)
        finally:
            waits.join()
            signal.signal(signal.SIGUSR1, before)
            os.kill(node.pid, signal.SIGCONT)
        # What came after all is given back, so the port can be had.
        eventually(lambda: there.is_free(7777))
        node.reserve(host=there.address, port=7777)


def test_without_ray_the_extra_is_named() -> None:
    done = run_python("import sys; sys.modules['ray'] = None\nimport ephemport.ray")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("pip install 'ephemport[ray]'")


def test_any_of_a_range_there(here: Node) -> None:
    span = range(20000, 30000)
    with (
        here.reserve(host="127.0.0.1", range=span, outside_ephemeral=True) as r,
        here.reserve_many(3, contiguous=True, host="127.0.0.1", range=iter(span)) as group,
        reserve_everywhere([here], host="127.0.0.1", range=span) as everywhere,
    ):
        assert {r.port, *group.ports, *everywhere.ports} <= {*span}
        with pytest.raises(
            PortsExhausted, match=r"1 of its 1 ports are in use \(tcp\); .*\(range=\)"
        ):
            here.reserve(host="127.0.0.1", range=[r.port])
    with here.reserve(host="127.0.0.1", outside_ephemeral=True) as r:
        assert r.port not in ephemeral_range()

"""isolate(): a process that moves itself, such as the worker of a pool."""

import pytest

from tests.conftest import run_python
from tests.isolation.conftest import Suite

POOL = """
import multiprocessing, os, socket
import ephemport, pytest

def serve(barrier):
    with socket.create_server(("127.0.0.1", 9001)):
        barrier.wait(60)  # both have the port now
        with socket.create_connection(("127.0.0.1", 9001)):
            return os.readlink("/proc/self/ns/net")

@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_it(method):
    context = multiprocessing.get_context(method)
    with multiprocessing.Manager() as manager:
        with context.Pool(2, initializer=ephemport.isolate) as pool:
            networks = pool.map(serve, [manager.Barrier(2)] * 2, chunksize=1)
    assert len({*networks, os.readlink("/proc/self/ns/net")}) == 3
"""


def test_workers_of_a_pool_have_the_same_port(anyones_suite: Suite) -> None:
    anyones_suite.file("test_it.py", POOL)
    anyones_suite.run().passed(3)


TWO_FILES = """
import os, socket, time
from pathlib import Path

def test_it():
    with socket.create_server(("127.0.0.1", 9001)):
        Path("there-{name}").touch()
        deadline = time.monotonic() + 60
        while not Path("there-{other}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_conftest_file_isolates_its_process(suite: Suite, workers: str) -> None:
    suite.file("conftest.py", "import ephemport\nephemport.isolate()\nephemport.isolate()")
    both = [("a", "b"), ("b", "a")] if workers == "2" else [("a", "a")]
    for name, other in both:
        suite.file(f"test_{name}.py", TWO_FILES.format(name=name, other=other))
    suite.run("-n", workers, "--dist", "loadfile").passed(len(both))


REFUSED = """
import os, sys, threading
import ephemport
from ephemport import EphemportError, reserve

def refusal():
    before = os.readlink("/proc/self/ns/net")
    try:
        ephemport.isolate()
    except EphemportError as error:
        assert os.readlink("/proc/self/ns/net") == before
        return str(error)
    sys.exit("not refused")
"""


def test_threads_are_named() -> None:
    done = run_python(
        f"""{REFUSED}
done = threading.Event()
thread = threading.Thread(target=done.wait, name="my server")
thread.start()
print(refusal())
done.set()
thread.join()
ephemport.isolate()
"""
    )
    assert done.returncode == 0, done.stderr
    assert "other threads run in this process (my server)" in done.stdout
    assert "ephemport run --isolate" in done.stdout


def test_held_ports_are_named() -> None:
    done = run_python(
        f"""{REFUSED}
with reserve() as one:
    print(one.port, refusal())
    if os.fork() == 0:  # a child has no holds
        ephemport.isolate()
        os._exit(0)
    assert os.wait()[1] == 0
with reserve(), reserve():
    print(refusal())
ephemport.isolate()
with reserve() as inside:
    pass
"""
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    port = first.split()[0]
    assert f"this process holds port {port}, and the socket that holds it would stay" in first
    assert "this process holds 2 ports: " in second


def test_port_map_comes_along() -> None:
    """A constant that was made at import, and what is looked up later, are the same port."""
    done = run_python(
        """
import multiprocessing, socket, socketserver, sys
import ephemport
from ephemport import port_map
from ephemport._kernel.sockets import can_see_bound_inactive

PORT = port_map[9001]
SHOWN = can_see_bound_inactive()

def worker(_):
    with socketserver.TCPServer(("127.0.0.1", PORT), None):
        socket.create_connection(("127.0.0.1", port_map[9001])).close()
    return port_map[9001], len(ephemport.holders(PORT)) == SHOWN, port_map[9002] - PORT

with multiprocessing.get_context("fork").Pool(2, initializer=ephemport.isolate) as pool:
    print(pool.map(worker, range(2)) == [(PORT, True, 1)] * 2)
ephemport.isolate()
print(port_map[9001] == PORT, len(ephemport.holders(PORT)) == SHOWN)
"""
    )
    assert (done.stdout, done.stderr) == ("True\nTrue True\n", "")


def test_a_second_call_changes_nothing_and_a_child_has_another_network() -> None:
    done = run_python(
        """
import os
from ephemport import isolate
import ephemport._isolating.enter
import ephemport
assert ephemport.isolate is isolate

network = lambda: os.readlink("/proc/self/ns/net")
before = network()
isolate()
first = network()
isolate()
assert network() == first != before
if os.fork() == 0:
    assert network() == first
    isolate()
    assert network() != first
    os._exit(0)
assert os.wait()[1] == 0
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ordinary_user_may_have_no_thread_at_all(anyones_suite: Suite) -> None:
    """An xdist worker has one that reads a pipe. Root may leave it behind."""
    anyones_suite.file(
        "test_it.py",
        """
        import os
        import ephemport, pytest
        def test_it():
            before = os.readlink("/proc/self/ns/net")
            if os.geteuid() == 0:
                ephemport.isolate()
                assert os.readlink("/proc/thread-self/ns/net") != before
                return
            with pytest.raises(ephemport.EphemportError, match="other threads run in this process"):
                ephemport.isolate()
            assert os.readlink("/proc/thread-self/ns/net") == before
        """,
    )
    anyones_suite.run("-n", "1").passed(1)

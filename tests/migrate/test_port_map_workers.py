"""port_map and child processes: workers have ports of their own, helpers have their test's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.conftest import ROOT

POOLS = """
import multiprocessing, os, subprocess, sys, threading
from concurrent.futures import ProcessPoolExecutor
from ephemport import port_map

LOOK = "from ephemport import port_map; print(port_map[9001])"

def look_up(barrier):
    # Both workers are here before one goes on, so that each makes one call.
    barrier.wait(60)
    mine = port_map[9001]
    started = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
    return mine, port_map[9001], port_map[9002], int(started.stdout)

def main(pool, method, exported):
    if exported:
        os.environ.update(port_map.environ(9001))
    mine = port_map[9001]
    context = multiprocessing.get_context(method)
    with context.Manager() as manager:
        barriers = [manager.Barrier(2)] * 2
        if pool == "Pool":
            with context.Pool(2) as workers:
                found = workers.map(look_up, barriers, chunksize=1)
        else:
            with ProcessPoolExecutor(2, mp_context=context) as workers:
                found = list(workers.map(look_up, barriers))
    return mine, found, port_map[9001]
"""
SCRIPT = """
if __name__ == "__main__":
    import json
    from pools import main
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3] == "exported")))
"""


def run(folder: Path, *arguments: str) -> Any:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "EPHEMPORT_"))
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(folder: Path, source: str) -> Any:
    (folder / "script.py").write_text(dedent(source))
    return json.loads(run(folder, "script.py"))


@pytest.mark.parametrize("exported", ["exported", "not"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("pool", ["Pool", "ProcessPoolExecutor"])
def test_every_worker_of_a_pool_has_its_own(
    tmp_path: Path, pool: str, method: str, exported: str
) -> None:
    (tmp_path / "pools.py").write_text(POOLS)
    (tmp_path / "script.py").write_text(f"import sys\n{SCRIPT}")
    mine, found, afterwards = json.loads(run(tmp_path, "script.py", pool, method, exported))
    assert mine == afterwards
    (first, again, neighbour, in_first), (second, _, _, in_second) = found
    assert first == again
    assert neighbour == first + 1
    assert len({mine, first, second}) == 3
    if exported == "exported":
        assert (in_first, in_second) == (first, second)


def test_a_forked_child_outside_of_tests_has_its_own(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
        import json, os
        from ephemport import port_map

        def in_child(what):
            read, write = os.pipe()
            if os.fork() == 0:
                os.write(write, json.dumps(what()).encode())
                os._exit(0)
            os.wait()
            return json.loads(os.read(read, 999))

        mine = port_map[9001]
        as_written = lambda: [port_map.as_written(mine), port_map.as_written(port_map[9001])]
        and_its_own_child = lambda: [port_map[9001], in_child(lambda: port_map[9001])]
        held = lambda: [port_map[9001], len(port_map._reservations)][1]
        print(json.dumps([mine, in_child(lambda: port_map[9001]), in_child(and_its_own_child),
                          in_child(as_written), in_child(held), in_child(lambda: len(port_map)),
                          port_map[9001]]))
        """,
    )
    mine, its_own, (worker, its_child), written, held, keys, afterwards = found
    assert mine == afterwards
    assert len({mine, its_own, worker}) == 3
    assert its_child == worker
    assert written == ["9001", "9001"]
    assert (held, keys) == (1, 0)


HELPERS = """
import multiprocessing, os, threading, unittest
from ephemport import port_map

def in_fork():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(port_map[9001]).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read, 99))

def put(queue):
    queue.put([port_map[9001], in_fork()])

def in_process():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=put, args=(queue,))
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    found = queue.get()
    process.join()
    return found

class Tests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        mine = port_map[9001]
        assert in_fork() == mine

    def test_forks(self):
        assert in_fork() == port_map[9001]

    def test_processes(self):
        assert in_process() == [port_map[9001]] * 2

    def test_pools(self):
        mine = port_map[9001]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            theirs = pool.apply(look_up)
        assert theirs != mine

def look_up():
    return port_map[9001]
"""


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_what_a_test_forks_shares_its_ports(tmp_path: Path, runner: str) -> None:
    (tmp_path / "test_it.py").write_text(HELPERS)
    run(tmp_path, "-W", "ignore", "-m", runner, "test_it.py" if runner == "pytest" else "test_it")


def test_a_pool_in_a_test_has_workers_and_their_tests_have_helpers(tmp_path: Path) -> None:
    """As Django's `manage.py test --parallel` runs tests: in the processes of a pool."""
    (tmp_path / "test_it.py").write_text(HELPERS)
    found = script(
        tmp_path,
        """
        import json, multiprocessing, unittest, warnings
        from ephemport import port_map
        import test_it
        warnings.simplefilter("ignore")

        def run(_):
            # A process of a pool may have no children of multiprocessing.
            suite = unittest.TestSuite([test_it.Tests("test_forks")])
            result = unittest.TestResult()
            suite.run(result)
            return [port_map[9001], result.testsRun, [text for _, text in result.errors]]

        class Parallel(unittest.TestSuite):
            def run(self, result, debug=False):
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    return pool.map(run, range(2), chunksize=1)

        mine = port_map[9001]
        print(json.dumps([mine, Parallel().run(None)]))
        """,
    )
    mine, workers = found
    for port, count, errors in workers:
        assert errors == []
        assert count == 1
        assert port != mine


def test_what_was_exported_is_the_workers_own_from_its_beginning(tmp_path: Path) -> None:
    mine, found, own = script(
        tmp_path,
        """
        import json, os, subprocess, sys
        from ephemport import port_map
        os.environ.update(port_map.environ(9001))
        LOOK = "from ephemport import port_map; print(port_map[9001])"
        mine = port_map[9001]
        if os.fork() == 0:
            found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
            print(json.dumps([mine, int(found.stdout), port_map[9001]]), flush=True)
            os._exit(0)
        os.wait()
        """,
    )
    assert found == own != mine


def test_what_came_with_the_environment_is_shared_by_workers_too(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(
        dedent(
            """
            import json, multiprocessing
            from ephemport import port_map
            def look(_): return port_map[9001]
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(json.dumps(pool.map(look, range(2))))
            """
        )
    )
    mine, theirs = script(
        tmp_path,
        """
        import json, os, subprocess, sys
        from ephemport import port_map
        found = subprocess.run([sys.executable, "inner.py"], capture_output=True, text=True,
                               env={**os.environ, **port_map.environ(9001)})
        print(json.dumps([port_map[9001], json.loads(found.stdout)]))
        """,
    )
    assert theirs == [mine, mine]

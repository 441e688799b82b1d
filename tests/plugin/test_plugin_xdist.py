"""With workers, without, and without xdist; two whole runs side by side."""

import pytest

from tests.plugin.conftest import Suite

# Each test's server has to bind, listen and answer on every port that it was given.
SERVERS = """
import asyncio, os
import pytest
from ephemport.compat import worker_range
from tests.compat.sockets import serve_and_ask

@pytest.fixture(scope="session")
def shared(session_reserve_port):
    return session_reserve_port()

@pytest.mark.xdist_group("all")
@pytest.mark.parametrize("repetition", range(6))
class TestServers:
    def test_cluster(self, server_cluster_ports, shared, repetition):
        asyncio.run(serve_and_ask(*server_cluster_ports, shared.port))

    def test_one(self, server_port, reserve_port, port_allocator, repetition):
        asyncio.run(serve_and_ask(server_port, reserve_port().port))
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        assert port_allocator.worker_id == (worker or "master")
        if port_allocator.mode == "fixed":
            assert server_port in worker_range("servers", worker)
        with open("ports", "a") as file:
            file.write(f"{worker} {server_port}\\n")
"""


@pytest.fixture
def servers(suite: Suite) -> Suite:
    suite.ini("markers = xdist_group: known to xdist only")
    suite.write(SERVERS)
    return suite


def workers(suite: Suite) -> set[str]:
    return {line.split()[0] for line in (suite.folder / "ports").read_text().splitlines()}


@pytest.mark.parametrize("arguments", [[], ["-p", "no:xdist"], ["-n", "0"], ["--dist", "no"]])
def test_in_one_process(servers: Suite, arguments: list[str]) -> None:
    servers.run("--ephemport-mode=fixed", *arguments).passed(12)
    assert workers(servers) == {"None"}


@pytest.mark.parametrize("dist", ["load", "loadfile", "loadscope", "loadgroup", "worksteal"])
def test_distributed(servers: Suite, dist: str) -> None:
    run = servers.run("--ephemport-mode=fixed", "-n", "2", "--dist", dist)
    run.passed(12)
    # Who gets which test is xdist's business, and on a busy machine one worker may run them all.
    assert workers(servers) <= {"gw0", "gw1"}


def test_each_worker_runs_everything(servers: Suite) -> None:
    servers.run("--ephemport-mode=fixed", "--dist", "each", "--tx", "2*popen").passed(24)
    assert workers(servers) == {"gw0", "gw1"}


def test_two_runs_in_fixed_mode_do_not_collide(servers: Suite) -> None:
    runs = [servers.start("--ephemport-mode=fixed", "-n", "4") for _ in range(2)]
    for run in runs:
        servers.finish(run).passed(12)


@pytest.mark.parametrize("worker", ["gw12", "somewhere"])
def test_other_workers_share_slots(suite: Suite, worker: str) -> None:
    suite.write(
        f"""
        from ephemport.compat import worker_range

        def test_it(server_port, client_port, port_allocator):
            assert port_allocator.worker_id == "{worker}"
            assert server_port in worker_range("servers", "{worker}")
            assert client_port in worker_range("clients", "{worker}")
            if "{worker}" == "gw12":
                assert server_port in range(10200, 10300)
        """
    )
    suite.run("--dist=load", f"--tx=popen//id={worker}", "--ephemport-mode=fixed").passed(1)


def test_a_worker_that_crashes_leaves_nothing_behind(suite: Suite) -> None:
    suite.write(
        """
        import os
        from ephemport import holders
        from pathlib import Path

        def test_crash(server_cluster_ports):
            Path("ports").write_text(" ".join(map(str, server_cluster_ports)))
            os.kill(os.getpid(), 9)

        def test_next(port_allocator):
            ports = [int(word) for word in Path("ports").read_text().split()]
            assert [port_allocator.allocate_port("servers", port) for port in ports] == ports
        """
    )
    run = suite.run("-n", "1", "--ephemport-mode=ephemeral", alone=True)
    assert run.outcomes == {"failed": 1, "passed": 1}, run.output
    assert "worker 'gw0' crashed" in run.output

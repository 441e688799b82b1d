"""Tests of whole ranges, each in a network of its own."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ephemport.compat import CATEGORIES, PortAllocator
from tests.conftest import InNamespace


def _counts_in_fixed_mode(lock_dir: str) -> dict[str, Any]:
    with PortAllocator("fixed", "gw2", lock_dir) as allocator:
        ports = [allocator.allocate_port("servers") for _ in range(100)]
        try:
            allocator.allocate_port("servers")
        except RuntimeError as error:
            failure = [type(error).__name__, str(error)]
        others = [allocator.allocate_port(name) for name in CATEGORIES if name != "servers"]
        allocator.release_port(10250)
        return {
            "ports": ports,
            "failure": failure,
            "others": others,
            "again": allocator.allocate_port("servers"),
        }


def test_a_fixed_range_is_used_to_its_last_port(in_namespace: InNamespace, tmp_path: Path) -> None:
    found = in_namespace(_counts_in_fixed_mode, str(tmp_path))
    assert found["ports"] == list(range(10200, 10300))
    name, message = found["failure"]
    assert name == "PortsExhausted"
    assert "10200-10299" in message
    assert "gw2" in message
    assert found["others"] == [11200, 12200, 13200]
    assert found["again"] == 10250


def _all_or_nothing(mode: str, lock_dir: str, room: int) -> dict[str, Any]:
    with PortAllocator(mode, "gw0", lock_dir) as allocator:
        kept = allocator.allocate_port("servers")
        try:
            allocator.allocate_port_range(room, "servers")
        except RuntimeError as error:
            failure = type(error).__name__
        after = allocator.allocated_ports == [kept]
        try:
            with allocator.port_range_context(room, "servers"):
                pass
        except RuntimeError as error:
            failure += type(error).__name__
        rest = allocator.allocate_port_range(room - 1, "servers")
        return {"failure": failure, "after": after, "rest": len({kept, *rest})}


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_a_range_is_all_or_nothing(in_namespace: InNamespace, tmp_path: Path, mode: str) -> None:
    room = 100 if mode == "fixed" else 20
    found = in_namespace(_all_or_nothing, mode, str(tmp_path), room, ports=(40000, 40019))
    assert found == {"failure": "PortsExhausted" * 2, "after": True, "rest": room}


def _neighbours_share(mode: str, lock_dir: str) -> dict[str, Any]:
    neighbour = """
import json, socket, sys
kept = []
while True:
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", 0))
    except OSError:
        break
    kept.append(sock)
print(json.dumps([sock.getsockname()[1] for sock in kept]))
"""
    with PortAllocator(mode, "gw0", lock_dir) as allocator:
        ports = allocator.allocate_port_range(10, "servers")
        done = subprocess.run([sys.executable, "-S", "-c", neighbour], capture_output=True)
        return {"ours": ports, "theirs": json.loads(done.stdout)}


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_a_neighbour_that_takes_all_it_can_get(
    in_namespace: InNamespace, tmp_path: Path, mode: str
) -> None:
    # The system's range in the middle of the fixed one, so that both modes are in its way.
    ports = (10000, 10019)
    found = in_namespace(_neighbours_share, mode, str(tmp_path), ports=ports)
    assert sorted(found["ours"] + found["theirs"]) == list(range(10000, 10020))


def _many_threads(lock_dir: str) -> dict[str, Any]:
    found: list[int] = []
    failures: list[str] = []
    barrier = threading.Barrier(8)
    with PortAllocator("fixed", "gw3", lock_dir) as allocator:

        def work() -> None:
            barrier.wait()
            for _ in range(13):
                try:
                    found.append(allocator.allocate_port("clients"))
                except RuntimeError as error:
                    failures.append(type(error).__name__)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"found": sorted(found), "failures": failures}


def test_threads_empty_a_fixed_range_together(in_namespace: InNamespace, tmp_path: Path) -> None:
    found = in_namespace(_many_threads, str(tmp_path))
    assert found == {"found": list(range(11300, 11400)), "failures": ["PortsExhausted"] * 4}


def _preferred(lock_dir: str) -> list[int]:
    with PortAllocator("fixed", "gw2", lock_dir) as allocator:
        return [allocator.allocate_port("servers", wanted) for wanted in (10277, 10277, 10300, 80)]


def test_a_preferred_port_in_fixed_mode(in_namespace: InNamespace, tmp_path: Path) -> None:
    first, *others = in_namespace(_preferred, str(tmp_path))
    assert first == 10277
    assert len(set(others)) == 3
    assert set(others) <= set(range(10200, 10300)) - {10277}


def _worker_info(mode: str, lock_dir: str) -> list[Any]:
    with PortAllocator(mode, "gw2", lock_dir) as allocator:
        before = allocator.get_worker_info()
        ports = allocator.allocate_port_range(3, "servers")
        allocator.release_port(ports[1])
        high = allocator.allocate_port("testing")
        return [before, allocator.get_worker_info(), sorted([ports[0], ports[2], high])]


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_the_workers_info(in_namespace: InNamespace, tmp_path: Path, mode: str) -> None:
    found = in_namespace(_worker_info, mode, str(tmp_path), ports=(40000, 40019))
    before, after, held = found
    assert before["worker_id"] == after["worker_id"] == "gw2"
    assert before["mode"] == after["mode"] == mode
    assert before["allocated_ports"] == []
    assert after["allocated_ports"] == held
    documented = {
        name: {
            "start": category.start + 200,
            "end": category.start + 299,
            "description": category.description,
            "available_ports": 100,
        }
        for name, category in CATEGORIES.items()
    }
    assert before["documented_ranges"] == documented
    if mode == "fixed":
        assert before["port_ranges"] == documented
        documented["servers"]["available_ports"] = 98
        documented["testing"]["available_ports"] = 99
        assert after["port_ranges"] == after["documented_ranges"] == documented
    else:
        for info, free in ((before, 20), (after, 17)):
            assert info["documented_ranges"] == documented
            assert list(info["port_ranges"]) == list(CATEGORIES)
            for name, row in info["port_ranges"].items():
                assert row == {
                    "start": 40000,
                    "end": 40019,
                    "description": CATEGORIES[name].description,
                    "available_ports": free,
                }


def _processes_share_a_range(lock_dirs: list[str]) -> list[list[int]]:
    worker = """
import sys
from ephemport.compat import PortAllocator
with PortAllocator("fixed", "gw1", sys.argv[1]) as allocator:
    print(*allocator.allocate_port_range(30, "servers"), flush=True)
    sys.stdin.read()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", worker, lock_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for lock_dir in lock_dirs
    ]
    found = []
    for process in processes:
        assert process.stdout
        found.append([int(word) for word in process.stdout.readline().split()])
    for process in processes:
        process.communicate()
    return found


@pytest.mark.parametrize("folders", [("a", "a", "a"), ("a", "b", "c")], ids=["shared", "apart"])
def test_processes_with_the_same_slot_get_different_ports(
    in_namespace: InNamespace, tmp_path: Path, folders: tuple[str, ...]
) -> None:
    lock_dirs = [str(tmp_path / folder) for folder in folders]
    found = in_namespace(_processes_share_a_range, lock_dirs)
    assert [len(ports) for ports in found] == [30, 30, 30]
    together = [port for ports in found for port in ports]
    assert len(set(together)) == 90
    assert set(together) <= set(range(10100, 10200))

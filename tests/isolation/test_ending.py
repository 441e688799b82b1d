"""Ending what a worker left behind: only below it, and never in a network of somebody else's."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ephemport._isolating.networks import PinnedNetwork, end_processes_in, network_of
from ephemport._isolating.wrapper import why_not, wrapper
from ephemport._kernel.descriptors import Descriptor
from ephemport.pytest_plugin.isolation import controller
from tests.conftest import InNamespace
from tests.core.helpers import child, finish, open_descriptors

WAITS = [sys.executable, "-c", "print(flush=True); input()"]
OWN = """
import subprocess, sys, os
from ephemport._isolating.networks import PinnedNetwork, end_processes_in
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
    network = PinnedNetwork(os.getpid())
    end_processes_in(network, patience=0.01)
    network.close()
    assert other.poll() is None
    other.kill()
print("lives")
"""


@pytest.fixture
def isolated() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a network of its own, which waits."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with subprocess.Popen(
        [*wrapper(), *WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_nobody_is_ended_in_the_network_of_the_process_itself(in_namespace: InNamespace) -> None:
    assert in_namespace(OWN) == "lives\n"


def test_the_networks_of_this_process_and_of_init_are_nobodys_own(
    isolated: subprocess.Popen[bytes],
) -> None:
    for pid, own in ((os.getpid(), False), (1, False), (isolated.pid, True)):
        try:
            network = PinnedNetwork(pid)
        except PermissionError:
            assert pid == 1  # not everybody may look at it
            continue
        assert network.is_for_its_own() == own
        network.close()


def test_only_the_processes_of_that_network_are_ended(isolated: subprocess.Popen[bytes]) -> None:
    network = PinnedNetwork(isolated.pid)
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE) as beside:
        end_processes_in(network, patience=5)
        assert isolated.wait(10) in (-signal.SIGTERM, -signal.SIGKILL)
        assert beside.poll() is None
        beside.kill()
    network.close()


def test_a_pin_that_was_closed_ends_nobody(isolated: subprocess.Popen[bytes]) -> None:
    # Another network may have its name now.
    network = PinnedNetwork(isolated.pid)
    os.close(network._pin.number)
    end_processes_in(network, patience=0.01)
    assert isolated.poll() is None


def test_a_worker_that_is_no_child_of_ours_is_not_watched(
    isolated: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    def configured(pid: int) -> dict[str, Any]:
        workers = controller.IsolatedWorkers.__new__(controller.IsolatedWorkers)
        workers._networks, workers._shared_spec = {}, None
        workers._network, workers._folder = None, str(tmp_path)
        gateway = SimpleNamespace(id="gw0", spec="popen", _rinfo=lambda: SimpleNamespace(pid=pid))
        workers.pytest_configure_node(SimpleNamespace(gateway=gateway, workerinput={}))
        return workers._networks

    mine = configured(isolated.pid)
    assert [one.name for one in mine.values()] == [network_of(isolated.pid)]
    for one in mine.values():
        one.close()
    assert configured(os.getppid()) == {}


@pytest.mark.parametrize("kind", ["file", "anonymous"])
def test_a_descriptor_is_closed_only_while_it_is_the_same(tmp_path: Path, kind: str) -> None:
    before = open_descriptors()
    number = os.eventfd(0) if kind == "anonymous" else os.open(tmp_path, os.O_RDONLY)
    owned = Descriptor(number)
    assert owned.is_open()
    os.close(number)
    assert not owned.is_open()
    owned.close()
    if kind == "anonymous":
        with select.epoll() as epoll:  # shares its inode with eventfds
            other = os.dup(epoll.fileno())
    else:
        other = os.open(tmp_path.parent, os.O_RDONLY)
    if other != number:
        os.dup2(other, number)
        os.close(other)
    owned.close()
    os.fstat(number)
    os.close(number)
    again = Descriptor(os.open(tmp_path, os.O_RDONLY))
    again.close()
    again.close()
    assert open_descriptors() == before


def test_a_forked_child_leaves_the_folder_of_the_controller(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()

    def work(owner: int = os.getpid()) -> None:
        controller._remove(str(folder), owner)

    with child(work) as pid:
        finish(pid)
    assert folder.exists()
    controller._remove(str(folder), os.getpid())
    assert not folder.exists()

"""The process that starts xdist's workers: each in a network of its own."""

import copy
import os
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from ephemport._isolating.networks import PinnedNetwork, end_processes_in, network_of
from ephemport._isolating.wrapper import wrapped
from ephemport._kernel.descriptors import Descriptor
from ephemport._kernel.processes import descendants
from ephemport.pytest_plugin.isolation import relay
from ephemport.pytest_plugin.isolation.shared import Scheduler, TwoNetworks, Worker
from ephemport.pytest_plugin.isolation.worker import FOLDER, HOST_NETWORK, marked_in

Spec = Any  # execnet.XSpec: no types


def why_not_these_workers(config: pytest.Config) -> str | None:
    """Return why the requested workers cannot be isolated, in one line; None if they can."""
    import execnet

    for text in config.getoption("tx"):
        # As xdist reads it: 4*popen is four times popen.
        count, star, rest = text.partition("*")
        spec = execnet.XSpec(rest if star and count.isdecimal() else text)
        if not spec.popen or spec.via:
            return (
                f"--tx {text} does not start a worker directly on this machine (popen), and only "
                "such workers can be isolated: leave --tx or --ephemport-isolate out"
            )
    return None


class IsolatedWorkers:
    """xdist's hooks in the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._network = network_of()
        self._networks: dict[str, PinnedNetwork] = {}
        self._shared_spec: Spec | None = None
        config.add_cleanup(self._end_what_is_left)
        self._folder = tempfile.mkdtemp(prefix="ephemport-workers-")
        # Not TemporaryDirectory: a forked child of this process would remove it at its exit.
        config.add_cleanup(partial(_remove, self._folder, os.getpid()))
        relayed = relay.offer(self._folder)
        config.add_cleanup(relayed.close)
        # Closing alone does not wake the thread that accepts.
        config.add_cleanup(lambda: relayed.shutdown(socket.SHUT_RDWR))

    def pytest_xdist_setupnodes(self, specs: Sequence[Spec]) -> None:
        """Wrap the workers' interpreters."""
        # A wrapped spec stays wrapped: xdist uses the same object for the worker that replaces a
        # crashed one.
        self._shared_spec = copy.copy(specs[0])
        self._shared_spec.id = None
        for spec in specs:
            spec.python = wrapped(spec.python)

    @pytest.hookimpl(trylast=True)
    def pytest_configure_node(self, node: Worker) -> None:
        """Tell a worker where it is, and note which network is its own."""
        node.workerinput[HOST_NETWORK] = self._network
        node.workerinput[FOLDER] = self._folder
        if not self.is_shared(node):
            with suppress(OSError, AttributeError):
                pid = node.gateway._rinfo().pid
                # The worker reports this pid: if it is in a container, another process may have
                # that pid here.
                if pid in descendants(os.getpid()):
                    self._networks[node.gateway.id] = PinnedNetwork(pid)
                    worker = Descriptor(os.pidfd_open(pid))
                    threading.Thread(
                        target=_end_with, args=(worker, PinnedNetwork(pid)), daemon=True
                    ).start()

    def pytest_testnodedown(self, node: Worker, error: object | None) -> None:
        """End what a worker had started that crashed or was killed: nobody else ends it."""
        network = self._networks.pop(node.gateway.id, None)
        if network is not None:
            if error:
                end_processes_in(network)
            network.close()

    def _end_what_is_left(self) -> None:
        """End what is left: a run that breaks off in the controller sees no worker's end."""
        for network in self._networks.values():
            end_processes_in(network)
            network.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_xdist_make_scheduler(self) -> Generator[None, Scheduler, Scheduler]:
        """Wrap the chosen scheduler, so that marked tests go to the right worker."""
        return TwoNetworks((yield), self)

    def is_shared(self, node: Worker) -> bool:
        """Whether a worker is the one on the host network."""
        return node.gateway.spec is self._shared_spec

    def marked_in(self, node: Worker) -> list[int]:
        """Return which tests of a worker's collection are for the host network."""
        return marked_in(self._folder, node.gateway.id)

    def start_shared(self) -> None:
        """Start the worker on the host network, as xdist replaces one that crashed."""
        session: Any = self._config.pluginmanager.getplugin("dsession")
        manager = session.nodemanager
        manager.group.allocate_id(self._shared_spec)
        session._active_nodes.add(manager.setup_node(self._shared_spec, session.queue.put))

    def report_difference(self, here: Worker, there: Worker) -> None:
        """Report that two workers collected different tests: their indices do not match."""
        report = pytest.CollectReport(
            nodeid=there.gateway.id,
            outcome="failed",
            longrepr=(
                f"ephemport: {there.gateway.id}, on the host network, and {here.gateway.id}, which "
                "is isolated, collected different tests; collection must not depend on the network"
            ),
            result=[],
        )
        self._config.hook.pytest_collectreport(report=report)


def _remove(folder: str, owner: int) -> None:
    """Remove a folder of mkdtemp(), only in the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _end_with(worker: Descriptor, network: PinnedNetwork) -> None:
    """End what a worker had started as soon as a signal ends it. worker: its pidfd.

    A child that it forked still has its connection to the controller open. Until that is closed,
    xdist waits for a worker that is gone.
    """
    try:
        waiting = select.poll()
        waiting.register(worker.number, select.POLLIN)
        waiting.poll()
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PIDFD, worker.number, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                end_processes_in(network)
    finally:
        worker.close()
        network.close()

"""Tests marked `ephemport_shared` run in one more worker, on the host network; no others run there.

xdist's schedulers know a test by its index in the collection, and a worker by the object that
speaks with it. So any chosen scheduler sees a collection without the marked tests, and workers that
translate its indices back.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

# xdist.workermanage.WorkerController and xdist.scheduler.Scheduling: no types.
Worker = Any
Scheduler = Any


class Workers(Protocol):
    """What is asked of the process that starts the workers."""

    def is_shared(self, node: Worker) -> bool:
        """Whether a worker is the one on the host network."""

    def marked_in(self, node: Worker) -> list[int]:
        """Return which tests of a worker's collection are for the host network."""

    def start_shared(self) -> None:
        """Start the worker on the host network."""

    def report_difference(self, here: Worker, there: Worker) -> None:
        """Report that two workers collected different tests."""


class _Isolated:
    """An isolated worker, as the inner scheduler sees it: without the marked tests."""

    def __init__(self, node: Worker) -> None:
        self.node = node
        self.unmarked: Sequence[int] = ()

    def position(self, index: int) -> int:
        """Return the inner scheduler's index of a test."""
        return bisect_left(self.unmarked, index)

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.node.send_runtest_some([self.unmarked[n] for n in indices])

    def send_runtest_all(self) -> None:
        self.node.send_runtest_some(list(self.unmarked))

    def send_steal(self, indices: Sequence[int]) -> None:
        self.node.send_steal([self.unmarked[n] for n in indices])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)


class TwoNetworks:
    """The chosen scheduler for the isolated workers, a queue for the one on the host network.

    That worker is started when a collection has marked tests, and gets all of them at once.
    """

    def __init__(self, inner: Scheduler, workers: Workers) -> None:
        self._inner = inner
        self._workers = workers
        self._isolated: dict[Worker, _Isolated] = {}
        # Of the first collection: all ids, and the marked tests that no worker has got so far.
        self._collection: list[str] | None = None
        self._collected_by: Worker | None = None
        self._waiting: list[int] = []
        # Workers on the host network, and what each has still to do; None before its collection.
        self._shared: dict[Worker, list[int] | None] = {}

    @property
    def nodes(self) -> list[Worker]:
        """All workers, on either network."""
        return [*(one.node for one in self._inner.nodes), *self._shared]

    @property
    def collection_is_completed(self) -> bool:
        """Whether all workers have collected, so that tests may begin."""
        # All workers must be there before the first test: when a worker starts, pytest-cov deletes
        # the measurements of workers that have finished.
        expected = bool(self._waiting)
        arrived = any(pending is not None for pending in self._shared.values())
        return self._inner.collection_is_completed and (arrived or not expected)

    @property
    def tests_finished(self) -> bool:
        """Whether every test was sent and nearly every one has run."""
        # A worker runs its last test when it learns that no other comes. So a sent test counts as
        # done, as in xdist's own schedulers.
        return self._inner.tests_finished and not self._waiting

    @property
    def has_pending(self) -> bool:
        """Whether a test was sent, or put into a queue, and has still to run."""
        return bool(self._inner.has_pending or any(self._shared.values()))

    def add_node(self, node: Worker) -> None:
        """Add a worker that is ready."""
        if self._workers.is_shared(node):
            self._shared[node] = None
        else:
            self._isolated[node] = _Isolated(node)
            self._inner.add_node(self._isolated[node])

    def add_node_collection(self, node: Worker, collection: Sequence[str]) -> None:
        """Note what a worker has collected."""
        if self._workers.is_shared(node):
            self._shared[node] = []
            if list(collection) != self._collection and self._collected_by is not None:
                self._waiting = []
                self._workers.report_difference(self._collected_by, node)
            return
        marked = set(self._workers.marked_in(node))
        isolated = self._isolated[node]
        everything = range(len(collection))
        isolated.unmarked = [n for n in everything if n not in marked] if marked else everything
        self._inner.add_node_collection(isolated, [collection[n] for n in isolated.unmarked])
        if self._collection is None:
            self._collection, self._collected_by = list(collection), node
            self._waiting = sorted(marked)
            if marked:
                self._workers.start_shared()

    def schedule(self) -> None:
        """Send tests to the workers that are ready for some."""
        self._inner.schedule()
        self._send_waiting()

    def mark_test_complete(self, node: Worker, item_index: int, duration: float = 0) -> None:
        """Note that a test has run."""
        if node in self._shared:
            (self._shared[node] or []).remove(item_index)
        else:
            isolated = self._isolated[node]
            self._inner.mark_test_complete(isolated, isolated.position(item_index), duration)

    def mark_test_pending(self, item: str) -> None:
        """Note that a test must run again."""
        assert self._collection is not None
        assert self._collected_by is not None
        index = self._collection.index(item)
        if index in self._isolated[self._collected_by].unmarked:
            self._inner.mark_test_pending(item)
        else:
            self._waiting.insert(0, index)

    def remove_pending_tests_from_node(self, node: Worker, indices: Sequence[int]) -> None:
        """Note that a worker gave back tests that the scheduler had asked for."""
        isolated = self._isolated[node]
        positions = [isolated.position(n) for n in indices]
        self._inner.remove_pending_tests_from_node(isolated, positions)

    def remove_node(self, node: Worker) -> str | None:
        """Remove a worker that is gone, and return the test that it crashed in."""
        if node not in self._shared:
            crashed: str | None = self._inner.remove_node(self._isolated[node])
            return crashed
        pending = self._shared.pop(node)
        if not pending:
            return None
        assert self._collection is not None
        self._waiting = pending[1:]
        return self._collection[pending[0]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _send_waiting(self) -> None:
        for node, pending in self._shared.items():
            if pending is None or node.shutting_down:
                continue
            pending += self._waiting
            self._waiting = []
            if pending:
                node.send_runtest_some(pending)
            node.shutdown()

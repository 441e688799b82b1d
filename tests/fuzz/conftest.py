"""Fuzzers run in processes and networks of their own: they ask for every port there is."""

from collections.abc import Callable

import pytest

from tests.conftest import InNamespace
from tests.fuzz.values import PORTS
from tests.fuzz.watch import PATIENCE


@pytest.fixture
def fuzz(in_namespace: InNamespace, tmp_path: object) -> Callable[[Callable[[], None]], None]:
    """Run a function of a module of tests, by name, in a process in a network of its own."""

    def run(what: Callable[[], None]) -> None:
        source = (
            f"from tests.fuzz.watch import nothing_hangs\n"
            f"from {what.__module__} import {what.__name__}\n"
            f"with nothing_hangs():\n    {what.__name__}()\n"
        )
        clean = dict.fromkeys(_OURS, "")
        in_namespace(source, ports=PORTS, cwd=str(tmp_path), env=clean, timeout=PATIENCE + 30)

    return run


# Empty is as good as absent.
_OURS = (
    "EPHEMPORT_MODE",
    "EPHEMPORT_LOCK_DIR",
    "EPHEMPORT_DROPIN_HANDOFF",
    "PORTSERVER_ADDRESS",
    "PYTEST_XDIST_WORKER",
)

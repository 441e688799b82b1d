"""Fuzzers run in processes and networks of their own: they ask for every port there is."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from tests.conftest import InNamespace
from tests.fuzz.values import PORTS
from tests.fuzz.watch import PATIENCE


class Fuzz(Protocol):
    """See the fixture `fuzz`."""

    def __call__(self, *functions: Callable[[], None]) -> None: ...


@pytest.fixture
def fuzz(in_namespace: InNamespace, tmp_path: Path) -> Fuzz:
    """Run functions of a module of tests, by name, in a process in a network of its own."""

    def run(*functions: Callable[[], None]) -> None:
        source = "from tests.fuzz.watch import nothing_hangs\n" + "".join(
            f"from {one.__module__} import {one.__name__}\n"
            f"with nothing_hangs():\n    {one.__name__}()\n"
            for one in functions
        )
        clean = dict.fromkeys(_OURS, "")
        in_namespace(source, ports=PORTS, cwd=tmp_path, env=clean, timeout=PATIENCE + 30)

    return run


# Empty is as good as absent.
_OURS = (
    "EPHEMPORT_MODE",
    "EPHEMPORT_LOCK_DIR",
    "EPHEMPORT_DROPIN_HANDOFF",
    "PORTSERVER_ADDRESS",
    "PYTEST_XDIST_WORKER",
)

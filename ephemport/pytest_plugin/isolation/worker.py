"""What an isolated worker does: it checks its network and reports tests for the host network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ephemport._isolating.networks import network_of
from ephemport.pytest_plugin.isolation import relay

# What the controller passes to a worker, in xdist's `workerinput`.
HOST_NETWORK = "ephemport_host_network"
FOLDER = "ephemport_folder"


def is_isolated(workerinput: dict[str, Any]) -> bool:
    """Whether this worker is in a network of its own."""
    return HOST_NETWORK in workerinput and network_of() != workerinput[HOST_NETWORK]


def configure_worker(workerinput: dict[str, Any]) -> None:
    """Relay other plugins' connections to the controller."""
    if is_isolated(workerinput):
        relay.accept(workerinput[FOLDER], workerinput)


def report_marked(workerinput: dict[str, Any], marked: Sequence[int]) -> None:
    """Report which of the collected tests are for the host network.

    The report is a file, because xdist's messages have no room for it. It is written before the
    message that the collection is finished.
    """
    folder = workerinput.get(FOLDER)
    if folder is not None:
        _report(folder, workerinput["workerid"]).write_text(json.dumps(marked))


def marked_in(folder: str, worker: str) -> list[int]:
    """In the controller: return what `report_marked()` of a worker reported; else nothing."""
    path = _report(folder, worker)
    marked: list[int] = json.loads(path.read_text()) if path.exists() else []
    return marked


def _report(folder: str, worker: str) -> Path:
    return Path(folder, f"{worker}.json")

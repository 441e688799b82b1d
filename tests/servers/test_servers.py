"""Every server gets its port in the ways that its row names, and in no other."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.mechanics import measure
from tests.servers.row import Row
from tests.servers.rows import ROWS
from tests.servers.table import cells


def identity(row: Row) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


@pytest.mark.parametrize("row", ROWS, ids=identity)
def test_server_gets_its_port(
    row: Row, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    missing = row.missing()
    if missing is not None:
        pytest.skip(missing)
    outcomes = measure(row, tmp_path)
    refused = {way for way, outcome in outcomes.items() if not outcome.took_over}
    refused |= {
        f"{way}, again" for way, one in outcomes.items() if one.took_over and not one.came_back
    }
    assert refused == row.refuses
    record_property("server", [row.name, *cells(row, outcomes)])

"""Which rows run, and where the table goes."""

from pathlib import Path

import pytest

from tests.servers.row import Row
from tests.servers.rows import ROWS
from tests.servers.table import write


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("servers")
    group.addoption(
        "--servers", choices=["core", "all"], default="core", help="which rows run (default: core)"
    )
    group.addoption(
        "--servers-table",
        metavar="FILE",
        type=Path,
        help="write what was measured, if all is as expected",
    )


class Table:
    """Collects the rows, also those of xdist's workers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._measured: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "server" and report.when == "call" and report.passed:
                assert isinstance(value, list)
                self._measured[value[0]] = value[1:]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        if exitstatus == pytest.ExitCode.OK:
            write(self._path, ROWS, self._measured)
            terminalreporter.write_line(f"{len(self._measured)} rows written to {self._path}")
        else:
            terminalreporter.write_line(f"{self._path} not written: not all is as expected")


def pytest_configure(config: pytest.Config) -> None:
    # Without default: this folder was not on the command line, and nobody knows the option.
    path = config.getoption("servers_table", None)
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("servers", "core") == "all":
        return
    beyond = [item for item in items if _is_beyond_core(item)]
    if beyond:
        config.hook.pytest_deselected(items=beyond)
        items[:] = [item for item in items if item not in beyond]


def _is_beyond_core(item: pytest.Item) -> bool:
    row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
    return isinstance(row, Row) and not row.core

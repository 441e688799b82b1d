"""The pytest plugin: options, markers, the report header, and the fixtures' registration."""

import sys
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from ephemport._holding.mode import choose_mode, mode_named
from ephemport._holding.sources import modes
from ephemport._serving import own_tests
from ephemport.pytest_plugin.fixtures import (
    client_port,
    federation_port,
    port_allocator,
    port_map,
    port_pair,
    reservation,
    reserve_port,
    server_cluster_ports,
    server_port,
    session_reserve_port,
    shared_server,
    test_port,
)

__all__ = [
    "client_port",
    "federation_port",
    "port_allocator",
    "port_map",
    "port_pair",
    "reservation",
    "reserve_port",
    "server_cluster_ports",
    "server_port",
    "session_reserve_port",
    "shared_server",
    "test_port",
]

_ALLOCATOR = "ephemport._allocator"
LEAKS = ("warn", "error", "ignore")
# The markers of the documented checklist. They are not registered by default, because that would
# hide a suite's misspelled markers from --strict-markers.
_MARKERS = (
    "slow: the test takes long",
    "integration: the test needs more than the code under test",
)

pytest_plugins = [
    "ephemport.pytest_plugin.dropins",
    "ephemport.pytest_plugin.failure_report",
    "ephemport.pytest_plugin.isolation",
    "ephemport.pytest_plugin.thread_failures",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    known = f"one of {', '.join(modes())}, or portserver:ADDRESS"
    group = parser.getgroup("ephemport", "ports that are held for the servers of tests")
    group.addoption(
        "--ephemport-mode",
        metavar="MODE",
        help=f"where ports come from: {known} (default: ephemeral)",
    )
    parser.addini("ephemport_mode", f"where ports come from: {known}")
    parser.addini(
        "ephemport_leaks",
        "what to do when a server still listens on a test's port at teardown: warn, error or "
        "ignore",
        default="warn",
    )
    parser.addini(
        "ephemport_assist",
        "let servers inside the test process bind the ports of tests even if they set no option",
        type="bool",
        default=True,
    )
    parser.addini(
        "ephemport_markers",
        "register the markers slow and integration of the documented checklist",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getini("ephemport_markers"):
        for marker in _MARKERS:
            config.addinivalue_line("markers", marker)
    leaks = config.getini("ephemport_leaks")
    if leaks not in LEAKS:
        raise pytest.UsageError(
            f"ephemport: unknown ephemport_leaks {leaks!r}; known are {', '.join(LEAKS)}"
        )
    _mode(config)
    for_this_run = ExitStack()
    for_this_run.callback(choose_mode, choose_mode(_chosen_mode(config)))
    assist = config.getini("ephemport_assist")
    for_this_run.callback(_assist_tests, _assist_tests(assist))
    if assist and config.pluginmanager.has_plugin("django"):
        config.pluginmanager.import_plugin("ephemport.pytest_plugin.live_server")
    if _ALLOCATOR in sys.modules:
        # A run inside another run (pytester) does not touch the ports of the outer one.
        from ephemport._allocator import default_allocator

        for_this_run.enter_context(default_allocator())
    else:
        for_this_run.callback(_forget_default_allocator)
    config.add_cleanup(for_this_run.close)
    if config.getoption("dist", default="no") != "no":
        from ephemport.pytest_plugin.shared_servers import Controller

        config.pluginmanager.register(Controller(config), "ephemport-shared-servers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Show `ephemport ls` which test this process runs."""
    mark = sys.modules.get("ephemport._looking.mark")
    if mark is None:
        # Nothing in this process can hold a port so far.
        return (yield)
    mark.show_test(item.nodeid)
    try:
        return (yield)
    finally:
        mark.show_test("")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Show in a test id the port as it is written in the code: all workers need the same ids."""
    loaded = sys.modules.get("ephemport._port_map")
    return None if loaded is None else loaded.port_map.as_written(val)


def pytest_report_header(config: pytest.Config) -> str:
    from ephemport._holding.ranges import CATEGORIES, current_worker, worker_range, worker_slot
    from ephemport._kernel.port_range import ephemeral_range

    mode = _mode(config)
    workers = _workers(config)
    if workers:
        slots = ", ".join(f"gw{n} {worker_slot(f'gw{n}')}" for n in range(min(workers, 4)))
        where = f"worker slots {slots}{', ...' if workers > 4 else ''}"
    else:
        where = f"worker slot {worker_slot()} ({current_worker()})"
    if mode == "fixed":
        worker = "gw0" if workers else None
        ranges = {name: worker_range(name, worker) for name in CATEGORIES}
        ports = ", ".join(f"{name} {r.start}-{r.stop - 1}" for name, r in ranges.items())
        ports = f"in the first: {ports}" if workers else ports
    elif mode == "ephemeral":
        assigned = ephemeral_range()
        ports = f"range {assigned.start}-{assigned.stop - 1}"
    else:
        ports = "range of the portserver"
    return f"ephemport: mode {mode}, {where}, {ports}"


def _workers(config: pytest.Config) -> int:
    """Return how many workers xdist starts; 0 without xdist."""
    if config.getoption("dist", default="no") == "no":
        return 0
    # --tx 4*popen --tx ssh=host: counted as xdist counts (xdist.workermanage).
    counts = [spec.partition("*")[0] for spec in config.getoption("tx", default=None) or ()]
    return sum(int(count) if count.isdecimal() else 1 for count in counts)


def _chosen_mode(config: pytest.Config) -> str | None:
    return config.getoption("--ephemport-mode") or config.getini("ephemport_mode") or None


def _mode(config: pytest.Config) -> str:
    try:
        return mode_named(_chosen_mode(config))
    except ValueError as error:
        raise pytest.UsageError(f"ephemport: {error}") from None


def _assist_tests(wanted: bool) -> bool:
    """Choose whether servers in this process get the ports of tests. Returns the choice before."""
    before = own_tests.choose(wanted)
    inside = sys.modules.get("ephemport._serving.inside")
    if inside is not None:
        # A conftest file has asked for a port already, or this is the end of the run.
        inside.follow_choice()
    return before


def _forget_default_allocator() -> None:
    allocator = sys.modules.get(_ALLOCATOR)
    if allocator is not None:
        allocator.forget_default_allocator()

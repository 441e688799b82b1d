"""What all tests share: children in a network of their own, and no skipping under CI."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.abilities import Ability

ROOT = Path(__file__).parents[1]

# A run that was started in the background of a shell without job control ignores these, and so
# would the commands that the tests end by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

# What a child exits with that was refused a namespace: sysexits.h has nothing there.
REFUSED = 99

ENTER = f"""
import sys
from ephemport._kernel import namespaces as _namespaces
try:
    _namespaces.enter_new_network()
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit({REFUSED})
for _name, _value in PORTS_AND_SETTINGS.items():
    with open(f"/proc/sys/net/{{_name}}", "w") as _file:
        _file.write(_value)
"""

CALL = """
import importlib.util as _util, json as _json
_spec = _util.spec_from_file_location(MODULE, PATH)
_module = _util.module_from_spec(_spec)
sys.modules[MODULE] = _module
_spec.loader.exec_module(_module)
_answer = getattr(_module, FUNCTION)(*_json.loads(sys.argv[1]))
sys.stdout.write("\\n" + _json.dumps(_answer))
"""


class InNamespace(Protocol):
    """See the fixture `in_namespace`."""

    def __call__(
        self,
        what: str | Callable[..., Any],
        /,
        *arguments: Any,
        ports: tuple[int, int] | None = (40000, 40063),
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 60,
    ) -> Any: ...


@pytest.fixture
def in_namespace() -> InNamespace:
    """Run Python in a subprocess, in a fresh network whose loopback is up and that is empty.

    `in_namespace("print(1)")` runs source text, with `arguments` in sys.argv, and returns what it
    wrote to stdout. `in_namespace(function, 1, "two")` calls a function of a test module, by name
    and so without what surrounds it, and returns what it returned; both ways through JSON.

    `ports` becomes the ephemeral port range (both ends included; None leaves the default), and
    `settings` more of what is below /proc/sys/net, such as {"ipv6/bindv6only": "1"}; `env` is
    added to the environment. Root needs nothing else, others get a user namespace. Whatever the
    child raises fails the test, with the child's stderr.
    """

    def run(
        what: str | Callable[..., Any],
        /,
        *arguments: Any,
        ports: tuple[int, int] | None = (40000, 40063),
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 60,
    ) -> Any:
        wanted = dict(settings or {})
        if ports is not None:
            wanted["ipv4/ip_local_port_range"] = f"{ports[0]} {ports[1]}"
        source = f"PORTS_AND_SETTINGS = {wanted!r}\n{ENTER}"
        if isinstance(what, str):
            source += what
            argv = [str(one) for one in arguments]
        else:
            code = what.__code__
            names = (what.__module__, code.co_filename, what.__name__)
            source += "MODULE, PATH, FUNCTION = {!r}, {!r}, {!r}".format(*names) + CALL
            argv = [json.dumps(arguments)]
        done = run_python(source, *argv, env=env, cwd=cwd, timeout=timeout)
        if done.returncode == REFUSED:
            pytest.skip(f"no network namespace here: {done.stderr.strip()}")
        if done.returncode != 0:
            pytest.fail(f"the child ended with {done.returncode}:\n{done.stderr}", pytrace=False)
        if isinstance(what, str):
            return done.stdout
        return json.loads(done.stdout.rpartition("\n")[2])

    return run


# Except that a process with threads forks, which tests do on purpose. Since Python 3.15 such an
# error comes when the child runs already.
WARNINGS_ARE_ERRORS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


def run_python(
    source: str,
    *argv: str,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run source text in a fresh interpreter that imports this very tree's ephemport."""
    return subprocess.run(
        [sys.executable, *WARNINGS_ARE_ERRORS, "-c", source, *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def under_ci() -> bool:
    """Whether a machine runs the tests, on which what cannot be tested is a failure."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the weaker promises of older kernels where the kernel keeps the stronger ones."""
    not_here = [item for item in items if any(one.is_here for one in _marked(item, "without"))]
    if not_here:
        config.hook.pytest_deselected(items=not_here)
        items[:] = [item for item in items if item not in not_here]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for ability in _marked(item, "needs"):
        if not ability.is_here:
            pytest.skip(str(ability))


def _marked(item: pytest.Item, kind: str) -> list[Ability]:
    return [mark.args[0] for mark in item.iter_markers(f"{kind}_kernel")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    too_old = any(not one.is_here and one.may_be_missing for one in _marked(item, "needs"))
    if under_ci() and report.skipped and not hasattr(report, "wasxfail") and not too_old:
        report.outcome = "failed"
        report.longrepr = f"skipped under CI, where everything must run: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if under_ci() and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped under CI, where everything must run: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)

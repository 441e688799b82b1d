"""What does a suite feel? 400 tests that start real servers, and what the plugin costs them."""

import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    DEFAULT_RANGE,
    CellFailed,
    Row,
    background,
    can_have_networks,
    die_with_parent,
    end,
    environment,
    run_cell,
)
from benchmarks.neighbours import disturb
from benchmarks.record import Record
from benchmarks.stats import spread

NAME = "suite"
TITLE = "What does a suite feel?"
WORKERS = (1, 2, 4)
RACE = "bind(0), close"
WAYS: dict[str, list[str]] = {
    "ephemport": ["--ephemport-mode=ephemeral"],
    "ephemport fixed": ["--ephemport-mode=fixed"],
    RACE: ["-p", "no:ephemport", "--race"],
}
# One test in so many starts programs, the others asyncio servers in their own process.
_PROGRAMS_EVERY = 5
_TESTS_A_FILE = 20
_MOST_SERVERS = 4
_REST = 0.005


def run(record: Record) -> None:
    missing = _missing()
    if missing:
        record.leave_out(NAME, missing)
        return
    network = None if can_have_networks() else DEFAULT_RANGE
    tests, rounds = (40, 1) if record.quick else (400, 2)
    workers = (2,) if record.quick else WORKERS
    for turn in range(rounds):
        for count in workers:
            for way in random.sample(list(WAYS), len(WAYS)):
                record.step(NAME, f"{tests} tests, {way}, -n {count}, round {turn + 1}")
                arguments = {"way": way, "workers": count, "tests": tests}
                for row in run_cell(whole_suite, arguments, network=network):
                    record.add(NAME, {**row, "round": turn})
    record.step(NAME, "a port fixture against an empty one")
    arguments = {"tests": 50 if record.quick else 400, "rounds": 1 if record.quick else 5}
    for row in run_cell(fixture_cost, arguments, network=network):
        record.add(NAME, row)
    record.step(NAME, "starting pytest with and without the plugin")
    for row in run_cell(start_up, {"rounds": 2 if record.quick else 20}, network=network):
        record.add(NAME, row)


def whole_suite(way: str, workers: int, tests: int) -> Iterator[Row]:
    """Wall time and failures of the generated suite, beside one neighbour."""
    with _folder() as path, background(disturb, _REST):
        _generate(path, tests)
        report = path / "report.xml"
        options = [*WAYS[way], "-n", str(workers), f"--junitxml={report}"]
        began = time.perf_counter()
        _pytest(path, "-p", "benchmarks.suite_plugin", *options)
        seconds = time.perf_counter() - began
        suite = xml.etree.ElementTree.parse(report).getroot()[0]
    ran = int(suite.attrib["tests"])
    if ran != tests:
        raise CellFailed(f"pytest ran {ran} tests of {tests}")
    yield {
        "measure": "suite",
        "peer": way,
        "workers": workers,
        "tests": ran,
        "failed": int(suite.attrib["failures"]) + int(suite.attrib["errors"]),
        "seconds": seconds,
    }


def fixture_cost(tests: int, rounds: int) -> Iterator[Row]:
    """Seconds above an empty fixture, with both kinds of test taking turns in one session."""
    fixtures = ("test_port", "reservation", "server_cluster_ports")
    above: dict[str, list[float]] = {fixture: [] for fixture in fixtures}
    plain: list[float] = []
    with _folder() as path:
        text = "".join(
            f"def test_{number}_{fixture}({fixture}): pass\n"
            for number in range(tests)
            for fixture in ("empty", *fixtures)
        )
        (path / "test_fixtures.py").write_text(text, encoding="utf-8")
        found = path / "durations.json"
        for _ in range(rounds):
            _pytest(path, "-p", "benchmarks.suite_plugin", f"--durations-to={found}")
            times = json.loads(found.read_text(encoding="utf-8"))
            plain += times["empty"]
            for fixture in fixtures:
                pairs = zip(times[fixture], times["empty"], strict=True)
                above[fixture] += [one - empty for one, empty in pairs]
    for fixture, differences in above.items():
        yield {
            "measure": "fixture",
            "fixture": fixture,
            "above_empty": spread(differences),
            "empty": spread(plain),
        }


def start_up(rounds: int) -> Iterator[Row]:
    """Seconds that the plugin adds to a session of one test, among others and alone."""
    settings: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
        "as installed": ({}, [], ["-p", "no:ephemport"]),
        "no other plugin": (
            {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            ["-p", "ephemport.pytest_plugin"],
            [],
        ),
    }
    with _folder() as path:
        (path / "test_nothing.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
        # An installed package is compiled; a source tree may be where nobody can write.
        compiled = {"PYTHONPYCACHEPREFIX": str(path / "compiled")}
        for setting, (variables, plugged, without) in settings.items():
            above = []
            for turn in range(-2, rounds):
                taken = {}
                for options in random.sample([plugged, without], 2):
                    began = time.perf_counter()
                    _pytest(path, *options, more={**variables, **compiled})
                    taken[options is plugged] = time.perf_counter() - began
                # The first ones write the .pyc files.
                if turn >= 0:
                    above.append(taken[True] - taken[False])
            yield {"measure": "start-up", "setting": setting, "above_without": spread(above)}


def _generate(path: Path, tests: int) -> None:
    for first in range(0, tests, _TESTS_A_FILE):
        lines = []
        for number in range(first, min(first + _TESTS_A_FILE, tests)):
            kind = "programs" if number % _PROGRAMS_EVERY == 0 else "asyncio"
            servers = number // _PROGRAMS_EVERY % _MOST_SERVERS + 1
            lines.append(f'def test_{number}(serve):\n    serve("{kind}", {servers})\n')
        (path / f"test_{first:03}.py").write_text("\n\n".join(lines), encoding="utf-8")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ephemport-bench-") as path:
        yield Path(path)


def _pytest(path: Path, *options: str, more: dict[str, str] | None = None) -> None:
    command: Sequence[str] = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={path}",
        "-c", str(path / "pytest.ini"), *options, str(path),
    ]  # fmt: skip
    (path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    variables = environment(**(more or {}), EPHEMPORT_LOCK_DIR=str(path / "locks"))
    with (path / "output.txt").open("w+b") as output:
        process: subprocess.Popen[Any] = subprocess.Popen(
            command, stdout=output, stderr=output, env=variables, preexec_fn=die_with_parent
        )
        try:
            status = process.wait()
        finally:
            end(process)
        # 1: some tests failed, which is what is counted.
        if status not in (0, 1):
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()
            raise CellFailed(f"pytest ended with {status}: {said[-1] if said else ''}")


def _missing() -> str | None:
    absent = [name for name in ("pytest", "xdist") if find_spec(name) is None]
    return (
        f"{' and '.join(absent)} not installed: pip install 'ephemport[bench]'" if absent else None
    )

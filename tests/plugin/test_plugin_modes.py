"""Which mode a run has, and what its header says of it."""

import re

import pytest

from tests.plugin.conftest import Suite

SAYS_ITS_MODE = """
def test_mode(port_allocator, server_port):
    assert port_allocator.mode == "{mode}"
    assert (10000 <= server_port < 11000) == ("{mode}" == "fixed")
"""


@pytest.mark.parametrize(
    ("option", "ini", "environment", "mode"),
    [
        (None, None, None, "ephemeral"),
        (None, None, "fixed", "fixed"),
        (None, "ephemeral", "fixed", "ephemeral"),
        (None, "fixed", "nonsense", "fixed"),
        ("ephemeral", "fixed", "fixed", "ephemeral"),
        ("fixed", "nonsense", "nonsense", "fixed"),
    ],
)
def test_option_beats_ini_beats_environment(
    suite: Suite, option: str | None, ini: str | None, environment: str | None, mode: str
) -> None:
    suite.write(SAYS_ITS_MODE.format(mode=mode))
    if ini:
        suite.ini(f"ephemport_mode = {ini}")
    run = suite.run(
        *([f"--ephemport-mode={option}"] if option else []),
        env={"EPHEMPORT_MODE": environment} if environment else None,
        alone=True,
    )
    run.passed(1)
    assert f"ephemport: mode {mode}, worker slot 0 (master)" in run.output


def test_workers_have_the_mode_of_the_run(suite: Suite) -> None:
    suite.write(SAYS_ITS_MODE.format(mode="fixed"))
    suite.run("-n", "1", "--ephemport-mode", "fixed").passed(1)


@pytest.mark.parametrize(
    ("arguments", "environment", "reported"),
    [
        (["--ephemport-mode", "fxed"], None, "unknown mode 'fxed'"),
        ([], "fxed", "unknown mode 'fxed' (from the environment's EPHEMPORT_MODE)"),
        (["-n", "2", "-o", "ephemport_mode=fxed"], None, "unknown mode 'fxed'"),
    ],
)
def test_a_bad_mode_stops_the_run(
    suite: Suite, arguments: list[str], environment: str | None, reported: str
) -> None:
    suite.write("def test_nothing(): open('was-run', 'w').close()")
    run = suite.run(*arguments, env={"EPHEMPORT_MODE": environment} if environment else None)
    assert run.status == 4
    assert (
        run.output.strip()
        == f"ERROR: ephemport: {reported}; known are ephemeral, fixed, portserver"
    )
    assert not (suite.folder / "was-run").exists()


def header(output: str) -> str:
    found = re.findall(r"^ephemport: (.*)$", output, re.M)
    assert len(found) == 1
    return str(found[0])


def test_the_header_in_ephemeral_mode(suite: Suite) -> None:
    suite.write("def test_nothing(): pass")
    reported = header(suite.run(alone=True).output)
    assert reported == "mode ephemeral, worker slot 0 (master), range 32768-60999"


def test_the_header_in_fixed_mode(suite: Suite) -> None:
    suite.write("def test_nothing(): pass")
    assert header(suite.run("--ephemport-mode", "fixed").output) == (
        "mode fixed, worker slot 0 (master), servers 10000-10099, clients 11000-11099, "
        "federation 12000-12099, testing 13000-13099"
    )


@pytest.mark.parametrize(
    "workers", [["-n", "2"], ["--dist", "load", "--tx", "2*popen"]], ids=["n", "tx"]
)
def test_the_header_with_workers(suite: Suite, workers: list[str]) -> None:
    suite.write("def test_nothing(): pass")
    assert header(suite.run("--ephemport-mode", "fixed", *workers).output) == (
        "mode fixed, worker slots gw0 0, gw1 1, in the first: servers 10000-10099, "
        "clients 11000-11099, federation 12000-12099, testing 13000-13099"
    )


def test_the_header_with_many_workers(suite: Suite) -> None:
    suite.write("def test_nothing(): pass")
    reported = header(suite.run("-n", "6", "--collect-only").output)
    assert reported.startswith(
        "mode ephemeral, worker slots gw0 0, gw1 1, gw2 2, gw3 3, ..., range "
    )


MARKED = """
        import pytest
        pytestmark = pytest.mark.integration
        @pytest.mark.slow
        def test_slow(): pass
        def test_quick(): pass
        """


def test_the_markers_are_not_registered_unasked(suite: Suite) -> None:
    suite.write(MARKED)
    run = suite.run()
    assert run.status != 0
    assert "'integration' not found in `markers` configuration option" in run.output
    assert "mark.slow" not in suite.run("--markers").output


def test_the_markers_of_the_checklist_are_registered_where_wanted(suite: Suite) -> None:
    suite.ini("ephemport_markers = true")
    suite.write(MARKED)
    suite.run("-m", "integration").passed(2)
    run = suite.run("-m", "not slow")
    assert run.outcomes == {"passed": 1}
    assert "1 deselected" in run.output
    listed = suite.run("--markers").output
    assert "@pytest.mark.slow: " in listed
    assert "@pytest.mark.integration: " in listed


def test_the_help_names_the_options(suite: Suite) -> None:
    text = suite.run("--help").output
    for name in ("--ephemport-mode", "ephemport_mode", "ephemport_leaks", "ephemport_markers"):
        assert name in text

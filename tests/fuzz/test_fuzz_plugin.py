"""The plugin's options, ini switches and variables, with good and bad values, in real runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.conftest import ROOT
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples

_SUITE = """
def test_a_port(test_port, reservation):
    assert test_port != reservation.port
"""
_WRONG = re.compile(r"Traceback \(most|INTERNALERROR|Exception ignored")
_PASSED, _FAILED, _USAGE = 0, 1, 4

modes = st.sampled_from(
    [
        *["ephemeral", "fixed", "portserver:@nobody", "portserver", "portserver:"],
        *["", " ", "fixed:x", "Fixed", "ephemeral ", "\udc80", "ü", "9" * 5000, "a\nb"],
    ]
)
leaks = st.sampled_from(["warn", "error", "ignore", "", "Error", "1", "ü"])
switches = st.sampled_from(["true", "false", "0", "no", "", "perhaps"])
options: SearchStrategy[list[str]] = st.one_of(
    modes.map(lambda mode: [f"--ephemport-mode={mode}"]),
    modes.map(lambda mode: ["-o", f"ephemport_mode={mode}"]),
    leaks.map(lambda what: ["-o", f"ephemport_leaks={what}"]),
    switches.map(lambda switch: ["-o", f"ephemport_markers={switch}"]),
    st.sampled_from(
        [
            ["--ephemport-isolate"],
            ["--ephemport-isolate=auto"],
            ["--ephemport-isolate=no"],
            ["--ephemport-isolate=x"],
            ["--ephemport-isolate="],
            ["--ephemport-mode"],
            ["--ephemport-dropin"],
            ["--ephemport-dropin=port_for"],
            ["--ephemport-dropin=port-for, portpicker,"],
            ["--ephemport-dropin=x"],
            ["-o", "ephemport_dropin=ephemeral_port_reserve"],
            ["-o", "ephemport_dropin=,x"],
            ["-n2"],
            ["-n0"],
        ]
    ),
)
variables: SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {},
    optional={
        "EPHEMPORT_MODE": modes,
        "EPHEMPORT_LOCK_DIR": st.sampled_from(["", "nosuch", "/", "/dev/null", "a_file"]),
        "PYTEST_XDIST_WORKER": st.sampled_from(["", "gw0", "gw99999", "x"]),
    },
)


def fuzz_plugin() -> None:
    Path("test_suite.py").write_text(_SUITE)
    Path("pytest.ini").write_text("[pytest]\n")
    Path("a_file").write_text("mine")

    @given(st.lists(options, max_size=3), variables)
    @examples(30)
    def one_run(chosen: list[list[str]], environment: dict[str, str]) -> None:
        arguments = [one for option in chosen for one in option]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
        said = (
            f"{arguments} {environment} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        assert not _WRONG.search(done.stdout + done.stderr), said
        assert done.returncode in (_PASSED, _FAILED, _USAGE), said
        if done.returncode == _USAGE:
            assert "ERROR: " in done.stderr, said
        elif done.returncode == _FAILED:
            # A fixture's error is one of ours, and says so.
            assert "ephemport._errors." in done.stdout or "EphemportError" in done.stdout, said
        assert Path("a_file").read_text() == "mine"

    one_run()


def test_plugin(fuzz: Fuzz) -> None:
    fuzz(fuzz_plugin)

"""Where standard output or standard error is closed or full: one line, a status, no traceback."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, Cli, processes_with

SAYS_SOMETHING = [
    ["who", "1"],
    ["who", "--json", "1"],
    ["ls", "--all"],
    ["ls", "--json", "--all"],
    ["doctor"],
    ["reserve"],
    ["--help"],
    ["run", "--help"],
    ["--version"],
]


def run(cli: Cli, arguments: list[str], redirect: str, unbuffered: str = "") -> tuple[int, str]:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, *arguments],
        env={**cli.environment, "PYTHONUNBUFFERED": unbuffered},
        cwd=cli.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", SAYS_SOMETHING, ids=" ".join)
@pytest.mark.parametrize(
    ("redirect", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
def test_standard_output_that_takes_nothing(
    cli: Cli, arguments: list[str], redirect: str, why: str, unbuffered: str
) -> None:
    status, said = run(cli, arguments, redirect, unbuffered)
    assert (status, len(said.splitlines())) == (1, 1), said
    assert said.startswith("ephemport: ")
    assert said.endswith(f"{why}\n")


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["run", "--", "sh", "-c", "exit 7"], 7),
        (["run", "--wait-listening", "30", "--", "sh", "-c", "exit 7"], 7),
        (["run", "--wait-listening", "0", "--", "sleep", "60"], 124),
        (["run", "--", "no-such-command-anywhere"], 127),
        (["run", "--no-such-option"], 2),
        (["who", "eighty"], 2),
        (["reserve", "-n", "0"], 2),
        (["reserve", "--for", "999999999"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_standard_error_that_takes_nothing(
    cli: Cli, arguments: list[str], status: int, redirect: str
) -> None:
    assert run(cli, arguments, redirect) == (status, "")


def test_both_full(cli: Cli) -> None:
    assert run(cli, ["who", "1"], ">/dev/full 2>&1") == (1, "")


def test_the_commands_output_is_its_own(cli: Cli) -> None:
    assert run(cli, ["run", "-q", "--", "true"], ">/dev/full") == (0, "")
    assert run(cli, ["run", "-q", "--", "true"], ">&- 2>&-") == (0, "")


def test_ports_that_nobody_learns_are_not_held(
    cli: Cli, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    forever = cli.start_anything("sleep", "60")
    words = ["reserve", "--for", str(forever.pid)]
    status, said = run(cli, words, ">/dev/full")
    assert status == 1
    assert "No space left" in said
    eventually(lambda: not processes_with(*words))


def test_nobody_reads_any_longer(cli: Cli) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "bash", *COMMAND, "ls", "--all"],
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # It may have written all before its reader is gone.
    assert done.stdout in ("0\n", "1\n")
    assert done.stderr == ""

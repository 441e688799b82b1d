"""What the command refuses, and whether its errors name what can be written on a command line."""

import re

import pytest

from ephemport.cli.names import refusal
from tests.cli.conftest import COMMAND, Cli, ended

REFUSED = """
PATH HOME SHELL IFS BASH_ENV LC_ALL LD_LIBRARY_PATH LD_PRELOAD LISTEN_FDS PYTHONPATH
PYTHONPROFILEIMPORTTIME EPHEMPORT_MODE
"""
TAKEN = """
PORT MASTER_PORT PGPORT PYTHON_PORT PYTHON_PORTS LISTEN_PORT LD_PORT_2 HOME_PORT HTTP A _ path Path
PATHS LISTEN
"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_names_that_programs_read_for_something_else(name: str) -> None:
    assert f"env {name}={{PORT}} COMMAND" in (refusal(name) or "")


@pytest.mark.parametrize("name", TAKEN.split())
def test_names_that_a_port_may_have(name: str) -> None:
    assert refusal(name) is None


def test_a_program_that_wants_its_port_in_such_a_name(cli: Cli) -> None:
    done = cli.run("run", "-q", "--", "env", "HOME={PORT}", "sh", "-c", 'test "$HOME" = "$PORT"')
    assert done == (0, "", "")


@pytest.mark.parametrize("command", ["run", "reserve", "ls", "who", "doctor", "migrate"])
def test_an_unknown_option_shows_the_usage_of_its_command(cli: Cli, command: str) -> None:
    some = ["80"] if command == "who" else []
    done = cli.run(command, *some, "--no-such-option")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: ephemport {command} ")
    assert "--no-such-option" in done.stderr


@pytest.mark.parametrize("command", ["reserve", "ls", "who", "doctor", "migrate"])
def test_a_command_where_none_belongs_shows_the_usage_of_ours(cli: Cli, command: str) -> None:
    done = cli.run(command, *(["80"] if command == "who" else []), "--", "true")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: ephemport {command} ")
    assert done.stderr.endswith("unrecognized arguments: -- true\n")


# What only Python has.
_PYTHONS = re.compile(
    r"timeout=|handoff=|host=|process=|exclude=|port=|lock_dir=|setrlimit|popen|listen\(|reserve\("
)
NEVER_UP = ["run", "--wait-listening", "0", "--", "sleep", "60"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "--udp", "U", "--host", "::", "--", "true"], "'ephemport run --assist'"),
        (["reserve", "--handoff", "shadow", "--host", "::"], "'ephemport run --activate'"),
        (["reserve", "-n", "-1"], "-n takes"),
        (["run", "--mode", "fxed", "--", "true"], "unknown mode"),
        (["run", "--host", "192.0.2.1", "--", "true"], "no address of this machine"),
        (NEVER_UP, "(--wait-listening)"),
        (NEVER_UP, "'ephemport reserve --handoff shadow'"),
        (["run", "--udp", "U", *NEVER_UP[1:]], "--host"),
        (["run", "--wait-listening", "9", "--", "sh", "-c", "exit 3"], "'ephemport run --assist'"),
        (["who", "0"], "ports are 1 to 65535"),
    ],
)
def test_errors_name_options_of_the_command(cli: Cli, arguments: list[str], wanted: str) -> None:
    done = cli.run(*arguments)
    assert done.status != 0
    assert wanted in done.stderr
    assert _PYTHONS.search(done.stderr) is None, done.stderr


def test_a_lock_folder_that_cannot_be_used(cli: Cli) -> None:
    done = cli.run("reserve", "--mode", "fixed", env={"EPHEMPORT_LOCK_DIR": "/dev/null"})
    assert done.status == 1
    assert done.stderr.endswith("choose another with EPHEMPORT_LOCK_DIR\n")
    assert _PYTHONS.search(done.stderr) is None, done.stderr


def test_too_few_descriptors(cli: Cli) -> None:
    command = ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *COMMAND, "reserve", "-n", "40"]
    done = ended(cli.start_anything(*command))
    assert done.status == 1
    assert done.stderr.endswith("raise the limit: ulimit -n\n")
    assert _PYTHONS.search(done.stderr) is None, done.stderr

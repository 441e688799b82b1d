"""`--on COMMAND`: the ports are held there, the command runs here."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.core.helpers import eventually
from tests.nodes.conftest import Host

COMMAND = [sys.executable, "-m", "ephemport"]


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_host(host: Host) -> list[str]:
    return ["--on", shlex.join(host.enter), "--python", sys.executable, "--host", host.address]


def test_reserve_holds_until_the_end_of_input(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with start("reserve", *on_host(there), "-n", "2", "--contiguous") as command:
        assert command.stdout is not None
        first, second = (int(command.stdout.readline()) for _ in range(2))
        assert second == first + 1
        assert not there.is_free(first)
        _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (0, "")
    assert there.is_free(first)


def test_reserve_ends_with_an_error_when_the_node_is_lost(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with start("reserve", *on_host(there)) as command:
        assert command.stdout is not None
        port = int(command.stdout.readline())
        os.kill(agent_of(command.pid), signal.SIGKILL)
        command.wait(60)
        assert command.stderr is not None
        said = command.stderr.read()
    assert command.returncode == 1
    assert "which is lost: nsenter ended with status -9" in said
    assert "Traceback" not in said
    assert there.is_free(port)


def agent_of(pid: int) -> int:
    # The command that `run` has started is a child as well.
    (agent,) = (one for one in children(pid) if "agent" in command_line(one))
    return agent


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_reserve_for_a_process(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        with start("reserve", *on_host(there), "--for", str(process.pid)) as command:
            said, complaints = command.communicate(timeout=60)
        assert (command.returncode, complaints) == (0, "")
        assert not there.is_free(int(said))
        process.communicate()
    eventually(lambda: there.is_free(int(said)))


def test_run_gives_the_port_to_a_command_here(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    with start("run", *on_host(there), "-p", "P", "--", "sh", "-c", "echo $P {P}; cat") as command:
        assert command.stdout is not None
        first, second = map(int, command.stdout.readline().split())
        assert first == second
        assert not there.is_free(first)
        assert here.is_free(first)
        _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (0, f"ephemport: P={first}\n")
    assert there.is_free(first)


def test_run_says_when_the_node_is_lost_and_goes_on(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with start("run", *on_host(there), "--", "sh", "-c", "echo up; cat") as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.readline()
        port = command.stderr.readline().strip().partition("=")[2]
        os.kill(agent_of(command.pid), signal.SIGKILL)
        assert command.stderr.readline().startswith(f"ephemport: PORT={port}: cannot hold ports on")
        assert command.poll() is None
        command.communicate(timeout=60)
    assert command.returncode == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["reserve", "--on", "env"], "--on needs --host ADDRESS"),
        (["reserve", "--ship"], "--ship is about another host"),
        (["run", "--lease", "3", "--", "true"], "--lease is about another host"),
        (["reserve", "--on", "env", "--host", "::1", "--mode", "fixed"], "--mode is where ports"),
        (["run", "--on", "env", "--host", "::1", "--assist", "--", "true"], "--assist is for a"),
        (["reserve", "--on", "'", "--host", "::1"], "is no shell command"),
        (["reserve", "--on", "env", "--host", "::1", "--lease", "0"], "lease must be more than 0"),
        (["agent", "--lease", "x"], "invalid _lease value"),
    ],
)
def test_bad_usage(words: list[str], complaint: str) -> None:
    with start(*words) as command:
        _, said = command.communicate(timeout=60)
    assert command.returncode == 2
    assert complaint in said


def test_a_node_that_cannot_be_used_is_an_error() -> None:
    with start("reserve", "--on", "no-such-command", "--host", "::1") as command:
        _, said = command.communicate(timeout=60)
    assert command.returncode == 1
    assert said.startswith("ephemport: cannot use node no-such-command: cannot start")


def test_the_agent_greets_and_ends() -> None:
    with start("agent") as agent:
        said, complaints = agent.communicate(timeout=60)
    assert agent.returncode == 0
    assert said.startswith('\nephemport-agent: {"hello": 1')
    assert complaints == ""


def test_an_agent_that_hears_nothing_ends() -> None:
    with start("agent", "--lease", "0.2") as agent:
        assert agent.wait(60) == 3
        assert agent.stderr is not None
        assert agent.stderr.read() == "ephemport agent: nothing heard for 0.2 s\n"


def test_an_agent_that_hears_nonsense_ends() -> None:
    with start("agent") as agent:
        agent.communicate("what?\n", timeout=60)
    assert agent.returncode == 4


def test_the_example_of_the_help_works(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    text = subprocess.run(
        [*COMMAND, "reserve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = (line.strip() for line in text.splitlines() if "ephemport reserve --on" in line)
    words = shlex.split(line.partition("   ")[0])[1:]
    assert words == ["reserve", "--on", "ssh n7", "--host", "10.0.0.7"]
    words[2], words[4] = shlex.join(there.enter), there.address
    with start(*words, "--python", sys.executable) as command:
        said, complaints = command.communicate(timeout=60)
    assert (command.returncode, complaints) == (0, "")
    assert said.strip().isdigit()

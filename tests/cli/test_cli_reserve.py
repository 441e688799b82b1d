"""`ephemport reserve`: ports that are held until the input closes or a signal arrives."""

import os
import pty
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, Cli, can_bind, ended, line

Eventually = Callable[[Callable[[], Any]], Any]


def serve(port: int) -> None:
    """Take the port over, and answer on it."""
    with (
        socket.create_server(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port), timeout=30),
    ):
        pass


def test_held_until_standard_input_closes(cli: Cli) -> None:
    process = cli.start("reserve", "-n", "3")
    ports = [int(line(process)) for _ in range(3)]
    assert len(set(ports)) == 3
    assert not any(map(can_bind, ports))
    for port in ports:
        serve(port)
    assert process.stdin
    process.stdin.write("what is written there does not matter\n")
    process.stdin.flush()
    assert not any(map(can_bind, ports))
    assert ended(process) == (0, "", "")
    assert any(map(can_bind, ports))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_held_until_a_signal(cli: Cli, number: signal.Signals) -> None:
    process = cli.start("reserve", "--mode", "fixed")
    port = int(line(process))
    assert port in range(13000, 13100)
    assert not can_bind(port)
    process.send_signal(number)
    assert process.wait(30) == 0
    assert ended(process) == (0, "", "")
    assert list((cli.folder / "locks").iterdir()) == []


def test_one_port_is_the_default(cli: Cli) -> None:
    done = cli.run("reserve")
    assert (done.status, len(done.ports), done.stderr) == (0, 1, "")


def test_without_any_standard_input(cli: Cli) -> None:
    process = cli.start_anything("sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "reserve")
    done = ended(process)
    assert (done.status, len(done.ports), done.stderr) == (0, 1, "")


def test_protocol_and_handoff(cli: Cli) -> None:
    process = cli.start("reserve", "--protocol", "udp", "--handoff", "shadow")
    port = int(line(process))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
            pytest.raises(OSError, match="in use"),
        ):
            stranger.bind(("0.0.0.0", port))
    ended(process)
    process = cli.start("reserve", "--protocol", "both")
    port = int(line(process))
    assert not can_bind(port)
    assert not can_bind(port, socket.SOCK_DGRAM)
    ended(process)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "-1"], "-n takes how many ports, from 1 up to 65535, not -1"),
        (["-n", "x"], "invalid int value: 'x'"),
        (["-n", "1.5"], "invalid int value: '1.5'"),
        (["--for", "x"], "invalid int value: 'x'"),
        (["--for", "0"], "--for takes the id of a running process, not 0"),
        (["--for", "-1"], "--for takes the id of a running process, not -1"),
        (["--mode", "fxed"], "unknown mode 'fxed'"),
        (["--for", str(os.getpid()), "--mode", "fxed"], "unknown mode 'fxed'"),
        (["--protocol", "sctp"], "invalid choice: 'sctp'"),
        (["--handoff", "fd"], "invalid choice: 'fd'"),
        (["--host", "192.0.2.1"], "is no address of this machine"),
        (["what"], "unrecognized arguments: what"),
        (["--", "what"], "unrecognized arguments: -- what"),
    ],
)
def test_bad_usage(cli: Cli, arguments: list[str], expected: str) -> None:
    done = cli.run("reserve", *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("background", [False, True])
def test_more_than_there_are(cli: Cli, background: bool) -> None:
    extra = ["--for", str(os.getpid())] if background else []
    done = cli.run("reserve", "-n", "101", "--mode", "fixed", *extra)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("ephemport: not enough ports left: looked for 101 ")
    assert "13000-13099" in done.stderr
    assert list((cli.folder / "locks").iterdir()) == []


def test_a_background_job_of_a_terminal_goes_on(cli: Cli, eventually: Eventually) -> None:
    # A shell with job control: the job is in a process group of its own, not the terminal's.
    shell = """
import fcntl, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
job = subprocess.Popen(sys.argv[1:], process_group=0)
print("job", job.pid, flush=True)
print("ended", job.wait(), flush=True)
"""
    ours, theirs = pty.openpty()
    process = cli.start_anything(
        *(sys.executable, "-c", shell, *COMMAND, "reserve"), stdin=theirs, start_new_session=True
    )
    os.close(theirs)
    answers = [line(process).split() for _ in range(2)]
    (job,) = [int(words[1]) for words in answers if words[0] == "job"]
    (port,) = [int(words[0]) for words in answers if words[0] != "job"]

    def settled() -> bool:
        """Whether it is past its attempt to read: asleep, stopped, or gone."""
        try:
            status = Path(f"/proc/{job}/status").read_text()
        except FileNotFoundError:
            return True
        fields = dict(row.split(":\t", 1) for row in status.splitlines() if ":\t" in row)
        ignores = int(fields["SigIgn"], 16) >> (signal.SIGTTIN - 1) & 1
        return fields["State"][0] in "TZ" or (bool(ignores) and fields["State"][0] == "S")

    eventually(settled)
    assert not can_bind(port)
    os.kill(job, signal.SIGTERM)
    assert line(process) == "ended 0"
    assert process.wait(30) == 0
    os.close(ours)


def test_ctrl_d_ends_it(cli: Cli) -> None:
    shell = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    ours, theirs = pty.openpty()
    process = cli.start_anything(
        *(sys.executable, "-c", shell, *COMMAND, "reserve"), stdin=theirs, start_new_session=True
    )
    os.close(theirs)
    assert not can_bind(int(line(process)))
    os.write(ours, b"\x04")
    assert process.wait(30) == 0
    os.close(ours)


def test_a_reader_that_is_gone(cli: Cli) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody:
        done = cli.run("reserve", "-n", "2", stdout=nobody)
    assert (done.status, done.stderr) == (1, "")

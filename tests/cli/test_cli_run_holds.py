"""`ephemport run`: what is held while the command runs, and the signals that reach it."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, Cli, can_bind, ended, line

# Does one thing for every line that it reads.
OBEDIENT = """
import socket, sys
port = int(sys.argv[1])
print(port, flush=True)
server = None
for order in sys.stdin:
    if order == "up\\n":
        server = socket.create_server(("127.0.0.1", port))
    elif order == "down\\n":
        server.close()
    print("done", flush=True)
"""

# Names every signal that it gets; SIGTERM ends it.
SAYS_ITS_SIGNALS = """
import signal, sys
every = [n for n in range(1, 32) if n not in (9, 17, 19)]
print(*signal.pthread_sigmask(signal.SIG_BLOCK, every), "ready", flush=True)
while (number := signal.sigwait(every)) != signal.SIGTERM:
    print(int(number), flush=True)
sys.exit(7)
"""


def tell(process: subprocess.Popen[str], order: str) -> None:
    assert process.stdin
    process.stdin.write(f"{order}\n")
    process.stdin.flush()
    assert line(process) == "done"


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_the_port_is_held_while_the_command_runs(cli: Cli, mode: str) -> None:
    process = cli.start("run", "-q", "--mode", mode, "--", sys.executable, "-c", OBEDIENT, "{PORT}")
    port = int(line(process))
    assert not can_bind(port), "before its server is up"
    tell(process, "up")
    with socket.create_connection(("127.0.0.1", port), timeout=30):
        pass
    assert not can_bind(port)
    for order in "down", "up", "down":
        tell(process, order)
        assert not can_bind(port), f"after {order}"
    assert ended(process) == (0, "", "")
    if mode == "ephemeral":
        assert can_bind(port)
    else:
        assert list((cli.folder / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "held"),
    [
        ("-p", {socket.SOCK_STREAM}),
        ("--both", {socket.SOCK_STREAM, socket.SOCK_DGRAM}),
    ],
)
def test_what_is_held_of_a_port(cli: Cli, option: str, held: set[socket.SocketKind]) -> None:
    process = cli.start("run", "-q", option, "IT", "--", sys.executable, "-c", OBEDIENT, "{IT}")
    port = int(line(process))
    assert not can_bind(port, socket.SOCK_STREAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            assert socket.SOCK_DGRAM in held
        else:
            assert socket.SOCK_DGRAM not in held
    ended(process)


def test_a_udp_port_is_kept_from_every_wildcard(cli: Cli) -> None:
    process = cli.start("run", "-q", "--udp", "U", "--", sys.executable, "-c", OBEDIENT, "{U}")
    port = int(line(process))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="Address already in use"),
    ):
        sock.bind(("0.0.0.0", port))
    ended(process)


def test_the_port_is_free_when_the_command_has_failed(cli: Cli) -> None:
    process = cli.start("run", "-q", "--", "sh", "-c", "echo {PORT}; read line; kill -9 $$")
    port = int(line(process))
    assert not can_bind(port)
    assert ended(process).status == 137
    assert can_bind(port)


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
@pytest.mark.parametrize("streams", ["", "<&-", "<&- 2>&-"])
def test_the_command_inherits_nothing_of_ours(cli: Cli, mode: str, streams: str) -> None:
    script = """
import json, os
found = dict()
for name in os.listdir("/proc/self/fd"):
    try:
        found[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps(found))
"""
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        inner = ["run", "-q", "--both", "A", "-p", "B", "--mode", mode, "--"]
        command = [*COMMAND, *inner, sys.executable, "-c", script]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {streams}', "sh", *command],
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[writer],
        )
        found = json.loads(done.stdout)
    strangers = {int(name) for name in found} - {0, 1, 2, writer}
    assert not [what for what in found.values() if what.startswith("socket:") or "locks" in what]
    # An interpreter whose streams are closed may use their descriptors, for example for a listing.
    assert len(strangers) <= 1, found


@pytest.mark.parametrize("number", [1, 2, 3, 10, 12])
def test_signals_are_forwarded(cli: Cli, number: int) -> None:
    process = cli.start("run", "-q", "--", sys.executable, "-c", SAYS_ITS_SIGNALS)
    assert line(process) == "ready", "and none is blocked in the command"
    for _ in range(2):
        process.send_signal(number)
        assert line(process) == str(number)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 7
    assert ended(process) == (7, "", "")


@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_signal_that_ends_the_command(cli: Cli, number: int) -> None:
    process = cli.start("run", "-q", "--", "sh", "-c", "echo {PORT}; exec cat")
    port = int(line(process))
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert can_bind(port)


def on_a_terminal(cli: Cli, terminal: int, *command: str) -> subprocess.Popen[str]:
    """Start a command in the foreground of a terminal of its own."""
    enter = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    return cli.start_anything(
        *(sys.executable, "-c", f"{enter}; os.execv(sys.argv[1], sys.argv[1:])", *command),
        stdin=terminal,
        start_new_session=True,
    )


def test_a_terminals_ctrl_c_reaches_the_command_once(cli: Cli) -> None:
    ours, theirs = pty.openpty()
    process = on_a_terminal(
        cli, theirs, *COMMAND, "run", "-q", "--", sys.executable, "-c", SAYS_ITS_SIGNALS
    )
    os.close(theirs)
    assert line(process) == "ready"
    # Stopped, so that the two cannot fall together: a signal that is pending is not sent twice.
    process.send_signal(signal.SIGSTOP)
    os.write(ours, b"\x03")
    assert line(process) == "2"
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGUSR1)
    assert line(process) == "10", "a second SIGINT would have come before"
    os.write(ours, b"\x1c")
    assert line(process) == "3"
    process.send_signal(signal.SIGTERM)
    assert ended(process).status == 7
    os.close(ours)


def test_a_stopped_command_goes_on(
    cli: Cli, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    process = cli.start("run", "-q", "--", "sh", "-c", "echo $$; read line; exit 5")
    child = int(line(process))

    def state() -> str:
        with open(f"/proc/{child}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0]

    os.kill(child, signal.SIGSTOP)
    eventually(lambda: state() == "T")
    assert process.poll() is None
    os.kill(child, signal.SIGCONT)
    assert process.communicate("\n")[0] == ""
    assert process.returncode == 5

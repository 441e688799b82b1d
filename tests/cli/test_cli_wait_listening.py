"""`ephemport run --wait-listening`: says that a server is up, or why not, and then ends it."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from ephemport.cli import run
from tests.cli.conftest import Cli, can_bind, ended, line

LISTENS = """
import socket, sys
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("up", flush=True)
sys.stdin.read()
"""
SLEEPS = "import sys; print(*sys.argv[1:], flush=True); sys.stdin.read()"
ENDS_AT_CTRL_C = """
import signal, time
signal.signal(15, signal.SIG_IGN)
try:
    print(flush=True)
    while True:
        time.sleep(0.1)  # not pause(): a signal may come just before it
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def python(*arguments: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", *arguments)


def all_said(process: "subprocess.Popen[str]") -> str:
    """What it says on standard error until it ends of itself, with its standard input open."""
    assert process.stderr
    # Where it does not end: Ctrl-C ends every command of these tests.
    interrupt = threading.Timer(30, process.send_signal, (signal.SIGINT,))
    interrupt.start()
    try:
        return process.stderr.read()
    finally:
        interrupt.cancel()


def test_a_server_that_comes_up(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "30", *python(LISTENS, "{PORT}"))
    assert process.stderr
    said = process.stderr.readline()
    assert said.startswith("ephemport: PORT: after "), said
    assert " listens on 127.0.0.1:" in said
    assert ended(process) == (0, "up\n", "")


def test_a_server_that_does_not_come_up_is_ended(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "0.3", *python(SLEEPS, "{PORT}"))
    said = all_said(process)
    port = int(line(process))
    assert process.wait(30) == 124
    why, ending = said.splitlines()
    assert f"PORT: nothing listened on port {port} (tcp) within 0.3 s" in why
    assert "(--wait-listening)" in why
    assert ending.endswith("whose server is not up (SIGTERM)")
    assert can_bind(port)


def test_a_command_that_does_not_end_is_killed(cli: Cli) -> None:
    shorter = "import sys; from ephemport.cli import main, run; run._GRACE = 0.2; sys.exit(main())"
    process = cli.start_anything(
        *(sys.executable, "-c", shorter, "run", "-q", "--wait-listening", "1"),
        *python(ENDS_AT_CTRL_C),
    )
    assert line(process) == ""
    assert all_said(process).endswith("still runs after 0.2 s: killed (SIGKILL)\n")
    assert ended(process) == (124, "", ""), "and not interrupted"


def test_a_signal_while_the_command_is_ended_is_forwarded(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "1", *python(ENDS_AT_CTRL_C))
    assert line(process) == ""
    assert process.stderr
    while "SIGTERM" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert ended(process) == (124, "interrupted\n", "")


def test_all_of_several_must_come_up(cli: Cli) -> None:
    names = ("-p", "A", "-p", "B")
    process = cli.start("run", "-q", *names, "--wait-listening", "2", *python(LISTENS, "{A}"))
    said = all_said(process)
    assert process.wait(30) == 124
    assert line(process) == "up"
    assert "A: after" in said
    assert "B: nothing listened" in said


def test_a_stranger_on_the_port(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "30", *python(SLEEPS, "{PORT}"))
    port = int(line(process))
    with socket.create_server(("127.0.0.1", port)):
        said = all_said(process)
    assert process.wait(30) == 124
    assert f"port {port} has the wrong listener: " in said
    assert f"pid {os.getpid()}" in said
    assert "SIGTERM" in said


@pytest.mark.parametrize(("own", "status"), [(0, 124), (1, 1), (3, 3), (126, 126)])
def test_a_command_that_ends_before_its_server_is_up(cli: Cli, own: int, status: int) -> None:
    done = cli.run("run", "-q", "--wait-listening", "30", "--", "sh", "-c", f"exit {own}")
    assert done.status == status
    assert f"exited with status {own} before it listened" in done.stderr
    assert "SIGTERM" not in done.stderr


def test_ctrl_c_stays_ctrl_c(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "30", *python(SLEEPS))
    assert line(process) == ""
    process.send_signal(signal.SIGINT)
    # Python's own way to end at Ctrl-C: by the signal.
    assert process.wait(30) == 130
    assert "was ended by signal 2 before it listened" in all_said(process)


def test_a_command_that_ends_well_when_it_is_told_to(cli: Cli) -> None:
    process = cli.start("run", "-q", "--wait-listening", "30", *python(ENDS_AT_CTRL_C))
    assert line(process) == ""
    process.send_signal(signal.SIGINT)
    assert ended(process).status == 0


def test_with_activation_it_is_up_at_once(cli: Cli) -> None:
    process = cli.start("run", "-q", "--activate", "--wait-listening", "30", *python(SLEEPS))
    assert process.stderr
    assert process.stderr.readline().startswith("ephemport: PORT: after ")
    assert ended(process).status == 0


ON_IPV6 = """
import socket, sys
kind = getattr(socket, sys.argv[2])
with socket.socket(socket.AF_INET6, kind) as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::1", int(sys.argv[1])))
    if kind == socket.SOCK_STREAM:
        server.listen()
    print("up", flush=True)
    sys.stdin.read()
"""


# The waiting thread asks for the status of a command that has ended, and meanwhile the main thread
# cannot: it goes back to waiting for signals, and SIGCHLD is gone.
ASKS_IN_THE_WAY = """
import sys, threading
from ephemport import Reservation, ServerExited
from ephemport.cli import main, run
waits, again, original = [], threading.Event(), run._next_signal
def next_signal(*arguments):
    waits.append(None)
    if len(waits) == 2:
        again.set()
    return original(*arguments)
def wait(self, timeout, process):
    with process._waitpid_lock:
        again.wait(30)
    raise ServerExited("ended")
run._next_signal, Reservation.wait_listening = next_signal, wait
sys.exit(main())
"""


def test_a_command_s_end_is_not_missed(cli: Cli) -> None:
    command = ("run", "-q", "--wait-listening", "60", *python(SLEEPS))
    process = cli.start_anything(sys.executable, "-c", ASKS_IN_THE_WAY, *command)
    assert line(process) == ""
    assert process.stdin
    process.stdin.close()
    assert process.wait(30) == 124


@pytest.mark.parametrize(("option", "kind"), [("-p", "SOCK_STREAM"), ("--udp", "SOCK_DGRAM")])
def test_up_means_reachable_at_the_host(cli: Cli, option: str, kind: str) -> None:
    command = ("-q", option, "PORT", *python(ON_IPV6, "{PORT}", kind))
    process = cli.start("run", "--wait-listening", "1.5", *command)
    said = all_said(process)
    assert process.wait(30) == 124
    assert "listens on [::1], not on 127.0.0.1: bind there, or --host ::1\n" in said
    process = cli.start("run", "--host", "::1", "--wait-listening", "30", *command)
    assert process.stderr
    assert " listens on [::1]:" in process.stderr.readline()
    assert ended(process).status == 0


def test_a_command_that_daemonizes_is_told_to_stay_in_the_foreground(cli: Cli) -> None:
    done = cli.run("run", "-q", "--wait-listening", "30", "--", "true")
    assert done.status == 124
    assert done.stderr.endswith(
        "Servers that daemonize end their first process with status 0 and live on. If this one "
        "does: start it in the foreground\n"
    )


@pytest.mark.parametrize("seconds", ["-1", "nan", "ten"])
def test_seconds_that_are_none(cli: Cli, seconds: str) -> None:
    done = cli.run("run", f"--wait-listening={seconds}", "--", "touch", "was-run")
    assert done.status == 2
    assert "--wait-listening" in done.stderr
    assert list(cli.folder.iterdir()) == []


def test_the_status_is_documented(cli: Cli) -> None:
    assert f"with --wait-listening {run.NOT_LISTENING} if" in cli.run("run", "--help").stdout

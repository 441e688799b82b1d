"""`ephemport reserve --for PID`: prints, returns, and holds until that process has ended."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, Cli, can_bind, line, processes_with

Eventually = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process to hold ports for; it ends with its standard input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process


def holder_for(process: subprocess.Popen[Any]) -> list[int]:
    return processes_with("--for", str(process.pid))


@pytest.mark.parametrize("end", ["itself", "kill -9"])
def test_held_until_the_process_ends(
    cli: Cli, somebody: subprocess.Popen[bytes], eventually: Eventually, end: str
) -> None:
    done = cli.run("reserve", "--for", str(somebody.pid))
    assert (done.status, len(done.ports), done.stderr) == (0, 1, "")
    (port,) = done.ports
    assert len(holder_for(somebody)) == 1
    assert not can_bind(port)
    with (
        socket.create_server(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port), timeout=30),
    ):
        pass
    assert not can_bind(port)
    if end == "itself":
        somebody.communicate()
    else:
        somebody.kill()
    somebody.wait()
    eventually(lambda: not holder_for(somebody))
    assert can_bind(port)


def test_several_ports_in_fixed_mode(
    cli: Cli, somebody: subprocess.Popen[bytes], eventually: Eventually
) -> None:
    done = cli.run("reserve", "-n", "3", "--mode", "fixed", "--for", str(somebody.pid))
    assert (done.status, done.stderr) == (0, "")
    assert len(set(done.ports)) == 3
    assert set(done.ports) <= set(range(13000, 13100))
    assert not any(map(can_bind, done.ports))
    locks = cli.folder / "locks"
    assert {int(path.stem) for path in locks.iterdir()} == set(done.ports)
    somebody.communicate()
    eventually(lambda: not holder_for(somebody))
    assert list(locks.iterdir()) == []


def test_in_a_shell_that_names_itself(cli: Cli, eventually: Eventually) -> None:
    script = (
        'PORT=$("$@" reserve --for $$); OTHER=$("$@" reserve --for $$); echo $PORT $OTHER; read x'
    )
    shell = cli.start_anything("sh", "-c", script, "sh", *COMMAND)
    ports = [int(word) for word in line(shell).split()]
    assert len(set(ports)) == 2, "and both substitutions returned"
    assert not any(map(can_bind, ports))
    assert len(holder_for(shell)) == 2
    shell.kill()
    shell.wait()
    eventually(lambda: not holder_for(shell))
    assert all(map(can_bind, ports))


def test_the_background_process_keeps_no_descriptor(
    cli: Cli, somebody: subprocess.Popen[bytes]
) -> None:
    # The reader of the other end, for example a test runner's fd 3, would wait for it.
    reader, writer = os.pipe()
    with open(reader), open(writer, "w"):
        done = cli.run("reserve", "--for", str(somebody.pid), pass_fds=[writer])
        assert done.status == 0
        (holder,) = holder_for(somebody)
        folder = f"/proc/{holder}/fd"
        open_there = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        assert os.readlink(f"/proc/self/fd/{writer}") not in open_there
    assert not can_bind(done.ports[0])


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-", ">&-"])
def test_with_closed_streams_it_is_held_all_the_same(
    cli: Cli, somebody: subprocess.Popen[bytes], closed: str, eventually: Eventually
) -> None:
    script = f'exec "$@" {closed}'
    pid = str(somebody.pid)
    arguments = ["reserve", "-n", "3", "--mode", "fixed", "--for", pid]
    shell = cli.start_anything("sh", "-c", script, "sh", *COMMAND, *arguments)
    stdout, _ = shell.communicate(timeout=60)
    if closed == ">&-":
        # Nobody has the ports: the command has to return with any answer.
        assert stdout == ""
        return
    assert shell.returncode == 0
    ports = [int(word) for word in stdout.split()]
    assert len(ports) == 3
    assert not any(map(can_bind, ports))
    somebody.communicate()
    eventually(lambda: not holder_for(somebody))


def test_the_terminals_signals_do_not_reach_it(cli: Cli, somebody: subprocess.Popen[bytes]) -> None:
    done = cli.run("reserve", "--for", str(somebody.pid), start_new_session=True)
    (holder,) = holder_for(somebody)
    assert os.getsid(holder) == holder != os.getsid(0)
    assert not can_bind(done.ports[0])


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_the_background_process_may_be_ended(
    cli: Cli, somebody: subprocess.Popen[bytes], eventually: Eventually, number: int
) -> None:
    done = cli.run("reserve", "--for", str(somebody.pid))
    (holder,) = holder_for(somebody)
    os.kill(holder, number)
    eventually(lambda: can_bind(done.ports[0]))


def test_no_such_process(cli: Cli) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = cli.run("reserve", "--for", str(gone.pid))
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == (
        f"ephemport: cannot hold for process {gone.pid}: there is none; "
        "in a shell its own id is $$\n"
    )


def test_what_no_process_can_have_as_its_id(cli: Cli) -> None:
    done = cli.run("reserve", "--for", "99999999999")
    assert (done.status, done.stdout) == (1, "")
    assert "cannot hold for process 99999999999: there is none" in done.stderr


def test_a_thread_is_no_process(cli: Cli) -> None:
    ids: list[int] = []
    ready, end = threading.Event(), threading.Event()

    def work() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        end.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(60)
    done = cli.run("reserve", "--for", str(ids[0]))
    end.set()
    thread.join()
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ephemport: cannot hold for process {ids[0]}: ")


def test_a_process_of_ours_that_is_a_zombie(cli: Cli, eventually: Eventually) -> None:
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    done = cli.run("reserve", "--for", str(zombie.pid))
    assert done.status == 0
    eventually(lambda: not holder_for(zombie))
    zombie.wait()

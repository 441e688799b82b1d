"""Servers that daemonize: the command ends with status 0, and the server lives on."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ephemport import Reservation, ServerExited, TakeoverTimeout, WrongListener, reserve
from ephemport._serving.watch import Watch
from tests.core.helpers import eventually

# Longer than any test: an error comes at once, or the test is too slow to pass.
LONG = 600

# A server in a session of its own, whose first process ends; it writes its pid where it is told.
DAEMON = """
import os, signal, socket, sys
port, path, *more = sys.argv[1:]
if os.fork():
    os._exit(0)
os.setsid()
server = socket.create_server(("127.0.0.1", int(port)))
with open(path, "w") as file:
    print(os.getpid(), file=file)
if more:
    if os.fork():
        signal.pause()
    os.setpgid(0, 0)
signal.pause()
"""


@contextmanager
def daemon(reservation: Reservation, path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    process = reservation.popen([sys.executable, "-c", DAEMON, "{port}", path])
    try:
        yield process
    finally:
        process.wait()
        end(path)


def end(path: Path) -> None:
    """End the server that the pid file names."""
    pid = int(eventually(lambda: path.exists() and path.read_text().strip()))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


REDIS = ["redis-server", "--port", "{port}", "--save", "", "--daemonize", "yes", "--pidfile"]
MEMCACHED = ["memcached", "-p", "{port}", "-l", "127.0.0.1", "-u", "root", "-d", "-P"]


@pytest.mark.parametrize("command", [REDIS, MEMCACHED], ids=["redis", "memcached"])
def test_a_real_server_that_daemonizes(command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    path = tmp_path / "server.pid"
    with reserve() as r:
        server = r.popen([*command, path], stdout=subprocess.DEVNULL)
        try:
            found = r.wait_listening(30, path)
            assert found.command is not None
            assert Path(command[0]).name in found.command
            assert server.wait(30) == 0
            with pytest.raises(
                ServerExited, match=r"exited with status 0 .* on which pid"
            ) as caught:
                r.wait_listening(LONG, server)
            assert caught.value.returncode == 0
            assert str(caught.value).endswith(
                "Servers that daemonize end their first process with status 0 and live on. If this "
                "one does: pass the pid file that it writes, process=Path(...), or start it in the "
                "foreground"
            )
        finally:
            end(path)
        r.wait_not_listening(30, path)


def test_the_wait_includes_the_time_until_the_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with reserve() as r:
        with pytest.raises(TakeoverTimeout) as caught:
            r.wait_listening(0.01, path)
        assert f"the process of {path} is unknown: it does not exist" in str(caught.value)
        with daemon(r, path):
            assert r.wait_listening(30, path).pid == int(path.read_text())


def test_under_asyncio(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with reserve() as r, daemon(r, path):
        found = asyncio.run(r.wait_listening_async(30, path))
        assert found.pid == int(path.read_text())


def test_a_daemon_answers_while_an_event_loop_is_blocked(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        with reserve() as r:
            with pytest.raises(TakeoverTimeout):
                r.wait_listening(0.02, path)
            with daemon(r, path):
                assert r.wait_listening(30, path).pid == int(path.read_text())
        other.cancel()

    asyncio.run(main())


def test_what_a_pid_file_may_say(tmp_path: Path) -> None:
    """Until it names the process that listens, it is waited for, and the error says what it is."""
    path = tmp_path / "server.pid"
    ended = subprocess.Popen(["true"])
    ended.wait()
    with reserve() as r, r.listen():
        for content, said in [
            ("", "is empty"),
            ("soon\n", "does not begin with a pid, but with 'soon'"),
            ("-1\n", "does not begin with a pid"),
            (f"{2**40}\n", "does not begin with a pid"),
            (f"{ended.pid}\n", f"names pid {ended.pid}, which does not run"),
        ]:
            path.write_text(content)
            with pytest.raises(TakeoverTimeout) as caught:
                r.wait_listening(0.02, path)
            assert f"the process of {path} is unknown: it {said}" in str(caught.value)
            assert "nothing that is known to be the process of" in str(caught.value)
        path.write_text(f"{os.getpid()}\nand more lines\n")
        assert r.wait_listening(10, path).pid == os.getpid()
        path.write_text(f"{os.getpid()}")
        assert r.wait_listening(10, path).pid == os.getpid()
        # Half of a pid: all processes descend from 1.
        path.write_text("1")
        with pytest.raises(TakeoverTimeout):
            r.wait_listening(0.02, path)
        # Left from an earlier server, whose pid another process has by now.
        path.write_text(f"{os.getpid()}\n")
        os.utime(path, (1e9, 1e9))
        with pytest.raises(TakeoverTimeout, match="is another process now: it is younger"):
            r.wait_listening(0.02, path)
        with pytest.raises(TakeoverTimeout, match=r"cannot be read \(Is a directory\)"):
            r.wait_listening(0.02, tmp_path)


def test_a_stranger_is_the_wrong_one_when_the_file_names_another(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with reserve() as r, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other, r.listen():
        path.write_text(f"{other.pid}\n")
        with pytest.raises(WrongListener) as caught:
            r.wait_listening(LONG, path)
        assert f"while pid {other.pid} (cat), the process of {path}, runs" in str(caught.value)
        # Without the end of its line it may be half a pid.
        path.write_text(f"{other.pid}")
        with pytest.raises(TakeoverTimeout):
            r.wait_listening(0.02, path)
        other.communicate()


LISTENS_LATER = """
import socket, sys, time
time.sleep(0.05)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(600)
"""


def test_what_a_command_left_in_its_session_counts() -> None:
    shell = '"$0" -c "$1" "$2" & exit 0'
    with reserve() as r:
        command = ["sh", "-c", shell, sys.executable, LISTENS_LATER, "{port}"]
        started = r.popen(command, start_new_session=True)
        try:
            assert started.wait(30) == 0
            found = r.wait_listening(30, started)
            assert found.pid not in (None, started.pid)
            assert os.getsid(found.pid or 0) == started.pid
        finally:
            os.killpg(started.pid, signal.SIGKILL)
        r.wait_not_listening(30)
        with pytest.raises(ServerExited, match="status 0"):
            r.wait_listening(LONG, started)


def test_a_command_that_ends_with_status_0_and_leaves_nothing() -> None:
    with reserve() as r, subprocess.Popen(["true"]) as started:
        with pytest.raises(ServerExited, match=r"exited with status 0 before .* daemonize"):
            r.wait_listening(LONG, started)


def test_a_listener_seen_when_the_command_ends_may_be_its_daemon() -> None:
    """It is no descendant any more, and no stranger for certain."""
    with reserve() as r, r.listen(), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as started:
        with Watch(r, started) as watch:
            assert watch.look() is None
            started.communicate()
            with pytest.raises(ServerExited, match=r"status 0 .*, on which this process .* daemon"):
                watch.look()


def test_a_failed_command_is_not_said_to_daemonize() -> None:
    with reserve() as r, subprocess.Popen(["false"]) as started:
        with pytest.raises(ServerExited) as caught:
            r.wait_listening(LONG, started)
    assert "daemonize" not in str(caught.value)


def test_a_stranger_beside_a_failed_command_is_named() -> None:
    with reserve() as r, r.listen(), subprocess.Popen(["false"]) as started:
        started.wait()
        with pytest.raises(ServerExited, match=r"status 1 .*, on which this process") as caught:
            r.wait_listening(LONG, started)
    assert "daemonize" not in str(caught.value)


def test_postgres_by_pg_ctl() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start_postgres(folder)


def start_postgres(folder: str) -> None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders or os.getuid() != 0:
        pytest.skip("needs PostgreSQL, and root to become its user")
    # Not in tmp_path: no other user may enter pytest's folder.
    data = Path(folder)
    shutil.chown(data, "postgres", "postgres")

    def as_postgres(*command: "str | Path") -> list[str]:
        return [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            *map(str, command),
        ]

    made = as_postgres(folders[-1] / "initdb", "--no-sync", "-A", "trust", data)
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    control = as_postgres(folders[-1] / "pg_ctl", "-D", data, "-l", data / "log")
    with reserve() as r:
        options = f"-p {r.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        started = r.popen([*control, "-W", "-o", options, "start"], stdout=subprocess.DEVNULL)
        try:
            found = r.wait_listening(60, data / "postmaster.pid")
            assert found.command is not None
            assert "postgres" in found.command
            socket.create_connection(r.address).close()
        finally:
            started.wait()
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)

"""Starting a server on a held port, talking to it, killing it, starting it again."""

import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ephemport import Reservation, ServerExited, TakeoverTimeout, listeners, reserve
from ephemport._kernel.processes import command_line, descendants
from tests.servers.row import PATH, ROOT, Place, Row

PATIENCE = 30.0
_HANDOFF = {"takeover": "takeover", "assisted": "takeover", "shadow": "shadow", "activated": "fd"}
# What servers of any language say when the port is refused.
_REFUSED = ("in use", "eaddrinuse", "errno 98", "eaddrnotavail")


class Outcome(NamedTuple):
    """What became of a server by one of the ways; `seconds` until it listened, at best."""

    took_over: bool
    came_back: bool
    seconds: float


def measure(row: Row, folder: Path) -> dict[str, Outcome]:
    """Try all ways, one after the other."""
    with _home_of(row, folder) as home:
        for command in row.prepare:
            _write_files(row, Place(0, home))
            done = subprocess.run(command, **_surroundings(row, home), capture_output=True)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        return {way: _try(row, way, home) for way in row.ways}


def _try(row: Row, way: str, folder: Path) -> Outcome:
    with reserve(protocol=row.protocol, handoff=_HANDOFF[way]) as reservation:
        place = Place(reservation.port, folder)
        first = _start(row, way, reservation, folder)
        if first is None:
            return Outcome(False, False, 0.0)
        with first:
            row.talk(place)
            first.crash()
        again = _start(row, way, reservation, folder)
        if again is None:
            return Outcome(True, False, first.seconds)
        with again:
            row.talk(place)
        return Outcome(True, True, min(first.seconds, again.seconds))


def _start(row: Row, way: str, reservation: Reservation, folder: Path) -> "Server | None":
    """The server, listening; None if the port was refused. Raises whatever else goes wrong."""
    _write_files(row, Place(reservation.port, folder))
    server = Server(row, way, reservation, folder)
    try:
        began = time.monotonic()
        reservation.wait_listening(PATIENCE, process=server.process)
        server.seconds += time.monotonic() - began
    except (ServerExited, TakeoverTimeout) as error:
        server.end()
        if any(text in server.output().lower() for text in _REFUSED):
            return None
        error.add_note(server.output())
        raise
    except BaseException:
        server.end()
        raise
    return server


class Server:
    """A server's process, with everything that it started."""

    def __init__(self, row: Row, way: str, reservation: Reservation, folder: Path) -> None:
        activated = way == "activated"
        command = row.activated if activated else row.command
        assert command is not None
        descriptor, log = tempfile.mkstemp(prefix=f"{way}-", suffix=".log", dir=folder)
        self._log = Path(log)
        self._port = reservation.port
        began = time.monotonic()
        with open(descriptor, "wb") as output:
            self.process: subprocess.Popen[bytes] = reservation.popen(
                command,
                activate=activated,
                assist=way == "assisted",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **_surroundings(row, folder),
            )
        self.seconds = time.monotonic() - began

    def output(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def crash(self) -> None:
        """Kill it, with all that it started, and wait until nothing is left of it."""
        if self.process.returncode is not None:
            return
        # Stopped first, so that it starts nothing more.
        self.process.send_signal(signal.SIGSTOP)
        self._end_all(signal.SIGKILL)

    def end(self) -> None:
        """Ask it to end, and wait until nothing is left of it."""
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.terminate()
                self._end_all(None)

    def _end_all(self, number: "signal.Signals | None") -> None:
        family = {pid: _opened(pid) for pid in descendants(self.process.pid)}
        pidfds = [pidfd for pidfd in family.values() if pidfd is not None]
        try:
            deadline = time.monotonic() + (PATIENCE if number is not None else PATIENCE / 6)
            for pid, pidfd in family.items():
                if number is not None and pidfd is not None and not _cleans_up(pid):
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, number)
            for pidfd in pidfds:
                if not _ends(pidfd, deadline):
                    # Asked, and stayed.
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    assert _ends(pidfd, time.monotonic() + PATIENCE), "it cannot be killed"
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
        self.process.wait(PATIENCE)
        assert not listeners(self._port), "somebody else listens"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if error is not None:
            error.add_note(self.output())
        self.end()


def _cleans_up(pid: int) -> bool:
    """Whether it ends after all others and takes away what they leave in /dev/shm."""
    return "multiprocessing.resource_tracker" in (command_line(pid) or "")


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ends(pidfd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


@contextmanager
def _home_of(row: Row, folder: Path) -> Iterator[Path]:
    """The server's folder: pytest's, or one that an unprivileged user can get at."""
    if not (ROOT and row.unprivileged):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ephemport-") as home:
        shutil.chown(home, _unprivileged_user(), pwd.getpwnam(_unprivileged_user()).pw_gid)
        yield Path(home)


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise LookupError("there is no user but root here")


def _surroundings(row: Row, folder: Path) -> dict[str, Any]:
    """Working directory, environment and user of the server, as Popen takes them."""
    environment = {**os.environ, "PATH": PATH, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    # Whoever runs the tests with them set does not mean the servers.
    for name in ("PYTHONWARNINGS", "PYTHONDEVMODE", "NOTIFY_SOCKET", "PORT", "HOST"):
        environment.pop(name, None)
    surroundings: dict[str, Any] = {"cwd": folder, "env": environment}
    if ROOT and row.unprivileged:
        user = pwd.getpwnam(_unprivileged_user())
        surroundings |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return surroundings


def _write_files(row: Row, place: Place) -> None:
    for name, text in row.files.items():
        text = text.replace("@PORT@", str(place.port)).replace("@FOLDER@", str(place.folder))
        (place.folder / name).write_text(text.lstrip("\n"))

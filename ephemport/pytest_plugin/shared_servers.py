"""`shared_server`: one server for all workers of a run. No lock file, no worker that owns it.

The process that starts xdist's workers also starts the server, when the first worker asks for it.
It holds the port, gives every worker the same answer, and ends the server when the run ends. So it
makes no difference which worker comes first, ends first or crashes. Without xdist the one process
does the same for itself.

A worker asks through a Unix socket in a folder of this user's. It has a path, so it belongs to no
network. But a worker with a network of its own (`--ephemport-isolate`) could not reach the server.
Such a worker starts its own, and so does a worker on another host.
"""

import os
import pickle
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import pytest

from ephemport._arguments import seconds, shown, text, whole
from ephemport._errors import EphemportError, ServerExited
from ephemport._holding.host import make_url
from ephemport._kernel.descriptors import short_path
from ephemport._kernel.locks import new_lock

if TYPE_CHECKING:
    from ephemport._reservation import Reservation

__all__ = ["SharedServer"]

# The key of `workerinput` with the folder of the socket.
_FOLDER = "ephemport_shared_servers"
_SOCKET = "ask"
# How long, in seconds, a server may take to end after SIGTERM.
_GRACE = 10.0
_LAST_LINES = 20

Argument = str | os.PathLike[str] | SupportsIndex


class SharedServer(NamedTuple):
    """A server that every worker of this run uses.

    Attributes:
        port: Its port, an int. The process that started it holds it until the run ends.
        host: The address that it binds, as it was asked for.
        pid: The id of the process that was started.
        log: The path of the file with what it writes, a string. The end of the run removes it.
    """

    port: int
    host: str
    pid: int
    log: str

    @property
    def address(self) -> tuple[str, int]:
        """The pair `(host, port)`."""
        return (self.host, self.port)

    def url(self, scheme: str = "http", path: str = "") -> str:
        """The URL of the server.

        Args:
            scheme: The part before `://`, such as "http" or "redis".
            path: The part after the port.

        Returns:
            `scheme://host:port/path`, with an IPv6 host in brackets.
        """
        return make_url(scheme, self.host, self.port, path)

    def __index__(self) -> int:
        return self.port


class Wanted(NamedTuple):
    """What a worker asks for. Two that are equal are one server."""

    args: tuple[str, ...]
    name: str
    timeout: float
    assist: bool
    env: tuple[tuple[str, str], ...]
    cwd: str
    terms: tuple[tuple[str, Any], ...]


class SharedServers:
    """The servers of a run, in the process that starts and ends them."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="ephemport-servers-")
        self._owner = os.getpid()
        self._lock = new_lock()
        self._started: dict[Wanted, _Started] = {}
        self._listener: socket.socket | None = None
        self._ended = False

    def get(self, wanted: Wanted) -> SharedServer:
        """The server that was asked for. The first call starts it, and the others wait for it.

        Raises what the start has raised, for every call: a server that failed once is not tried
        again by each worker.
        """
        with self._lock:
            if self._ended:
                raise EphemportError("the run has ended: no server is started any more")
            if wanted not in self._started:
                log = f"{self.folder}/{len(self._started)}.log"
                self._started[wanted] = _Started(wanted, log)
            started = self._started[wanted]
        return started.get()

    def listen(self) -> None:
        """Answer workers from now on."""
        self._listener = socket.socket(socket.AF_UNIX)
        with short_path(self.folder, _SOCKET) as path:
            self._listener.bind(path)
        self._listener.listen()
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                asking, _ = listener.accept()
            except OSError:
                return
            Thread(target=self._answer, args=(asking,), daemon=True).start()

    def _answer(self, asking: socket.socket) -> None:
        # A worker that has ended does not read its answer.
        with asking, suppress(OSError, EOFError):
            with asking.makefile("rb") as reader:
                wanted = pickle.load(reader)
            try:
                answer: object = self.get(wanted)
            except Exception as error:
                answer = error.with_traceback(None)
            asking.sendall(_pickled(answer))

    def end(self) -> None:
        """End all servers, and let their ports go. Nothing is started any more."""
        if os.getpid() != self._owner:
            return  # a forked child of the process that started them
        with self._lock:
            self._ended = True
            started = list(self._started.values())
        if self._listener is not None:
            with suppress(OSError):
                # Closing alone does not wake the thread that accepts.
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for one in started:
            one.ask_to_end()
        for one in started:
            one.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Started:
    """One server: not started so far, up, or failed."""

    def __init__(self, wanted: Wanted, log: str) -> None:
        self._wanted = wanted
        self._log = log
        self._lock = new_lock()
        self._reservation: Reservation | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._server: SharedServer | None = None
        self._failed: Exception | None = None

    def get(self) -> SharedServer:
        with self._lock:
            if self._failed is None and self._server is None:
                try:
                    self._server = self._start()
                except Exception as error:
                    self._failed = self._with_output(error).with_traceback(None)
                    self._end()
            if self._failed is not None:
                raise self._failed.with_traceback(None)
            assert self._server is not None
            return self._server

    def _start(self) -> SharedServer:
        from ephemport._allocator import PortAllocator
        from ephemport._holding.request import Request
        from ephemport._reservation import reserve_from

        wanted = self._wanted
        request = Request(**dict(wanted.terms))
        self._reservation = reserve_from(PortAllocator().source("testing"), request)
        with open(self._log, "wb") as log:
            self._process = self._reservation.popen(
                wanted.args,
                assist=wanted.assist,
                cwd=wanted.cwd,
                env={**os.environ, **dict(wanted.env)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for pytest: the tests need the server until they have ended.
                start_new_session=True,
            )
        self._reservation.wait_listening(wanted.timeout, self._process)
        return SharedServer(
            self._reservation.port, self._reservation.host, self._process.pid, self._log
        )

    def _with_output(self, error: Exception) -> Exception:
        if not isinstance(error, EphemportError) or self._process is None:
            return error
        with suppress(OSError):
            lines = Path(self._log).read_text(errors="replace").splitlines()[-_LAST_LINES:]
            if isinstance(error, ServerExited):
                error.output = "\n".join(lines)
            if lines:
                error.args = (f"{error}\nThe server's last lines:\n{chr(10).join(lines)}",)
        return error

    def ask_to_end(self) -> None:
        with suppress(OSError):
            if self._process is not None:
                self._process.terminate()

    def end(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._reservation is not None:
            self._reservation.release()


class Controller:
    """xdist's hook in the process that starts the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._servers: SharedServers | None = None

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of this machine where to ask."""
        if not node.gateway.spec.popen or node.gateway.spec.via:
            return
        if self._servers is None:
            self._servers = SharedServers()
            self._config.add_cleanup(self._servers.end)
            self._servers.listen()
        node.workerinput[_FOLDER] = self._servers.folder


_SERVERS = pytest.StashKey[SharedServers]()


def get(config: pytest.Config, wanted: Wanted) -> SharedServer:
    """The server that this worker asks for."""
    workerinput: dict[str, Any] = getattr(config, "workerinput", {})
    folder = workerinput.get(_FOLDER)
    if folder is not None and not _is_isolated(workerinput):
        return _ask(folder, wanted)
    if _SERVERS not in config.stash:
        config.stash[_SERVERS] = servers = SharedServers()
        config.add_cleanup(servers.end)
    return config.stash[_SERVERS].get(wanted)


def wanted(
    args: Iterable[Argument],
    name: str,
    timeout: float,
    assist: bool,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    terms: Mapping[str, Any],
) -> Wanted:
    """The arguments of `shared_server()`, checked as far as they must be to be sent."""
    if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
        raise TypeError(
            "args must be a list such as ['redis-server', '--port', '{port}'], not " + shown(args)
        )
    if env is not None and not isinstance(env, Mapping):
        raise TypeError(f"env must be a dict of strings, not {shown(env)}")
    return Wanted(
        tuple(map(_argument, args)),
        text(name, "name must be a string"),
        seconds(timeout, "timeout"),
        bool(assist),
        tuple(sorted((text(k, _ENV), text(v, _ENV)) for k, v in (env or {}).items())),
        os.path.abspath(os.getcwd() if cwd is None else cwd),
        tuple(sorted(terms.items())),
    )


_ENV = "env must be a dict of strings"


def _argument(one: Argument) -> str:
    if isinstance(one, (str, os.PathLike)):
        return os.fsdecode(one)
    return str(whole(one, "each of args must be a string, a path or an int"))


def _is_isolated(workerinput: dict[str, Any]) -> bool:
    from ephemport.pytest_plugin.isolation.worker import is_isolated

    return is_isolated(workerinput)


def _ask(folder: str, wanted: Wanted) -> SharedServer:
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            with short_path(folder, _SOCKET) as path:
                asking.connect(path)
            asking.sendall(_pickled(wanted))
            asking.shutdown(socket.SHUT_WR)
            with asking.makefile("rb") as reader:
                answer = pickle.load(reader)
        except (OSError, EOFError) as error:
            raise EphemportError(
                "cannot ask for the shared server: the process that starts the workers does not "
                f"answer ({error or 'it closed the connection'})"
            ) from error
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, SharedServer)
    return answer


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:
        # An error with something in it that cannot leave its process.
        return pickle.dumps(EphemportError(f"{type(value).__name__}: {value}"))

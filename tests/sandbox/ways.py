"""Everything that users do, each as one function: it returns, or raises what its user would see.

A command that fails raises EphemportError with what it wrote. Each runs in a forked process of its
own, whose output goes to a file.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ephemport import (
    EphemportError,
    PortUnavailable,
    Reservation,
    ServerExited,
    TakeoverTimeout,
    adopt,
    assisted,
    holders,
    isolate,
    listeners,
    port_map,
    reserve,
    reserve_many,
)
from ephemport.cli import main

# A server in Perl, so that it needs little itself. "open" sets SO_REUSEADDR.
SERVER = r"""
use strict;
use Socket;
my ($port, $address, $open) = @ARGV;
my $v6 = $address =~ /:/;
socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, pack("i", 1)) or die "setsockopt: $!" if $open;
my $raw = Socket::inet_pton($v6 ? AF_INET6 : AF_INET, $address);
bind($s, $v6 ? Socket::pack_sockaddr_in6($port, $raw) : pack_sockaddr_in($port, $raw))
    or die "bind: $!";
listen($s, 5) or die "listen: $!";
sleep 600;
"""
# Says how many sockets it got, whether they are meant for it, and where the first listens.
ACTIVATED = r"""
use Socket;
open(my $s, "+<&=", 3) or die "no descriptor 3: $!";
my ($port) = unpack_sockaddr_in(getsockname($s));
print join(" ", $ENV{LISTEN_FDS}, $ENV{LISTEN_PID} == $$ ? "mine" : "another's", $port);
"""
PATIENCE = 30.0


class Place:
    """Where the ways are tried: which loopback address servers have there."""

    host = "127.0.0.1"


def perl(port: object, opened: bool = True) -> list[str]:
    return ["perl", "-e", SERVER, str(port), Place.host, *(["open"] if opened else [])]


@contextmanager
def ended(process: "subprocess.Popen[Any]") -> "Iterator[subprocess.Popen[Any]]":
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _started(r: Reservation, opened: bool = True, **kwargs: Any) -> "subprocess.Popen[Any]":
    command = ["{{".join(one.split("{")).replace("}", "}}") for one in perl(int(r), opened)]
    return r.popen(command, **kwargs)


def reserving() -> None:
    with reserve() as r:
        assert not r.released
        again = r.port
    with reserve(port=[again, 0]), reserve(protocol="udp"), reserve(handoff="fd"):
        pass


def reserving_many() -> None:
    with reserve_many(3, contiguous=True) as group:
        assert len(group.ports) == 3
    with reserve_many(2, protocol="both"):
        pass


def shadows() -> None:
    with reserve(handoff="shadow", host=Place.host):
        pass


def shadows_of_udp() -> None:
    with reserve(handoff="shadow", host=Place.host, protocol="udp"):
        pass


def taken() -> None:
    """A port that is taken: the error says by whom, or that this is unknown."""
    with reserve(handoff="fd") as r:
        with pytest.raises(PortUnavailable, match="cannot reserve port"):
            reserve(port=r.port)


def main_example() -> None:
    """As in the README."""
    with reserve(host=Place.host) as r:
        with ended(_started(r)) as server:
            assert r.wait_listening(PATIENCE, process=server).port == r.port
            server.terminate()
        r.wait_not_listening(PATIENCE, process=server)


def without_process() -> None:
    with reserve(host=Place.host) as r, ended(_started(r)):
        r.wait_listening(PATIENCE)


def by_pid() -> None:
    with reserve(host=Place.host) as r, ended(_started(r)) as server:
        r.wait_listening(PATIENCE, server.pid)


def in_asyncio() -> None:
    async def serve() -> None:
        async with reserve(host=Place.host) as r:
            server = await asyncio.create_subprocess_exec(*perl(r.port))
            try:
                await r.wait_listening_async(PATIENCE, process=server)
            finally:
                server.kill()
                await server.wait()

    asyncio.run(serve())


def of_a_thread() -> None:
    with reserve(host=Place.host) as r:
        family = socket.AF_INET6 if ":" in Place.host else socket.AF_INET
        over = threading.Event()

        def serve() -> None:
            with socket.socket(family) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(r.address)
                server.listen()
                over.wait(PATIENCE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            r.wait_listening(PATIENCE, process=thread)
        finally:
            over.set()
            thread.join()


def exited() -> None:
    """A server that ends: noticed, with its status."""
    with reserve(host=Place.host) as r:
        server = r.popen(["sh", "-c", "exit 3"])
        with pytest.raises(ServerExited) as caught:
            r.wait_listening(PATIENCE, process=server)
        assert caught.value.returncode == 3
        pid = os.posix_spawnp("sh", ["sh", "-c", "exit 4"], os.environ)
        with pytest.raises(ServerExited, match=r"exited with status 4|ended"):
            r.wait_listening(PATIENCE, process=pid)


def timed_out() -> None:
    with reserve(host=Place.host) as r, ended(subprocess.Popen(["sleep", "600"])) as server:
        with pytest.raises(TakeoverTimeout, match="nothing"):
            r.wait_listening(0.05, process=server)


def activating() -> None:
    with reserve(host=Place.host) as r:
        with r.popen(
            ["perl", "-e", ACTIVATED.replace("{", "{{").replace("}", "}}")],
            activate=True,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.communicate(timeout=PATIENCE)[0] == f"1 mine {r.port}"


def sharing() -> None:
    with reserve() as r:
        token = r.share()

        def take() -> None:
            with adopt(token) as adopted:
                assert adopted.port == r.port

        in_another(take)


def assisting_here() -> None:
    with reserve(host=Place.host) as r, assisted():
        family = socket.AF_INET6 if ":" in Place.host else socket.AF_INET
        with socket.socket(family) as server:
            server.bind(r.address)
            server.listen()


def assisting() -> None:
    with reserve(host=Place.host) as r:
        with ended(_started(r, opened=False, assist=True)) as server:
            r.wait_listening(PATIENCE, process=server)


def isolating() -> None:
    in_another(isolate)


def mapping() -> None:
    assert 0 < port_map[9001] < 65536


def looking() -> None:
    with reserve() as r:
        listeners(r)
        holders(r)


def fixtures() -> None:
    # Other plugins take most of a second. The suite was made before: nothing may be writable now.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ["-p", "ephemport", "-p", "no:cacheprovider"]
    _status(pytest.main(["-q", "-s", *plugins, "-c", os.devnull, str(SUITE)]), 0)


def fixed_mode() -> None:
    _command("reserve", "--mode", "fixed", status=0)


def run() -> None:
    _command("run", "--", "sh", "-c", 'test "$PORT" -gt 0 && exit 5', status=5)


def run_wait_listening() -> None:
    """It reports the server; a signal then ends both."""

    def end_when_up() -> None:
        # It is for the main thread, which has it blocked and waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        deadline = time.monotonic() + PATIENCE
        while " listens on " not in output() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end_when_up, daemon=True)
    watcher.start()
    words = [one.replace("{", "{{").replace("}", "}}") for one in perl("PORT")]
    words[words.index("PORT")] = "{PORT}"
    host = [] if Place.host == "127.0.0.1" else ["--host", Place.host]
    _command("run", *host, "--wait-listening", str(PATIENCE), "--", *words, status=143)
    assert " listens on " in output()


def run_in_vain() -> None:
    _command("run", "--wait-listening", "0.05", "--", "sleep", "600", status=124)


def reserve_for() -> None:
    with ended(subprocess.Popen(["sleep", "600"])) as somebody:
        _command("reserve", "--for", str(somebody.pid), status=0)
        port = int(output().split()[-1])
        assert not _is_free(port)
    deadline = time.monotonic() + PATIENCE
    while not _is_free(port):
        assert time.monotonic() < deadline, "still held"
        time.sleep(0.005)


def who() -> None:
    with reserve() as r:
        _command("who", str(r.port), status=1)


def ls() -> None:
    with reserve():
        _command("ls", status=0)
        _command("ls", "--all", "--json", status=0)


def doctor() -> list[dict[str, str]]:
    """Its checks that are not ok."""
    before = len(output())
    status = main(["doctor", "--json"])
    checks: list[dict[str, str]] = json.loads(output()[before:])["checks"]
    assert status == any(one["state"] == "NO" for one in checks)
    return [one for one in checks if one["state"] != "ok"]


# By the names that the documents use.
WAYS: dict[str, Callable[[], object]] = {
    "reserve()": reserving,
    "reserve_many()": reserving_many,
    'handoff="shadow"': shadows,
    'handoff="shadow", UDP': shadows_of_udp,
    "an error of reserve()": taken,
    "the README's main example": main_example,
    "wait_listening()": without_process,
    "wait_listening(process=pid)": by_pid,
    "wait_listening_async(process=...)": in_asyncio,
    "wait_listening(process=thread)": of_a_thread,
    "ServerExited": exited,
    "TakeoverTimeout": timed_out,
    "popen(activate=True)": activating,
    "share()": sharing,
    "assisted()": assisting_here,
    "popen(assist=True)": assisting,
    "isolate()": isolating,
    "port_map": mapping,
    "listeners()": looking,
    "fixtures": fixtures,
    "mode fixed": fixed_mode,
    "ephemport run": run,
    "ephemport run --wait-listening": run_wait_listening,
    "ephemport run --wait-listening, in vain": run_in_vain,
    "ephemport reserve --for": reserve_for,
    "ephemport who": who,
    "ephemport ls": ls,
    "ephemport doctor": doctor,
}

SUITE = Path(tempfile.gettempdir())


def use_suite(folder: Path) -> None:
    """Take the tests of `make_suite`."""
    global SUITE
    SUITE = folder / "test_fixtures.py"


def make_suite(folder: Path) -> None:
    """Write the tests that use the fixtures."""
    (folder / "test_fixtures.py").write_text(
        "def test_fixtures(server_port, port_pair, reserve_port, port_map):\n"
        "    assert len({server_port, *port_pair, reserve_port().port, port_map[9001]}) == 5\n"
    )


def output() -> str:
    """What this process and its children wrote."""
    size = os.fstat(2).st_size
    return os.pread(2, size, 0).decode(errors="replace")


def in_another(work: Callable[[], object]) -> None:
    """Do it in a forked process, and raise here what it raises there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except EphemportError as error:
            os.write(writer, str(error).encode())
        except BaseException as error:
            os.write(writer, f"Traceback of {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as file:
        said = file.read()
    os.waitpid(pid, 0)
    if said:
        raise EphemportError(said)


def _command(*arguments: str, status: int) -> None:
    before = len(output())
    _status(main(arguments), status, before)


def _status(found: int, wanted: int, before: int = 0) -> None:
    if found != wanted:
        raise EphemportError(f"exit status {int(found)}: {output()[before:].strip()}")


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as sock:
        sock.bind(("0.0.0.0", port))
        return True
    return False

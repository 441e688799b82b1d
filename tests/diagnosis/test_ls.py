"""What `ephemport ls` finds without any registry: every hold of ours, nobody else's."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from ephemport import reserve
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._looking import mark as _mark
from tests.abilities import Ability, needs
from tests.conftest import ROOT, InNamespace
from tests.core.helpers import become_nobody, child
from tests.diagnosis.strangers import PERL, command, json_of, stranger

pytestmark = pytest.mark.skipif(PERL is None, reason="the strange programs are Perl's")


def _listed(*arguments: str) -> dict[tuple[int, str], Any]:
    return {(one["port"], one["protocol"]): one for one in json_of("ls", *arguments)}


@needs(Ability.SHOWS_BOUND)
def test_states(in_namespace: InNamespace) -> None:
    in_namespace(_states)


def _states() -> None:
    with (
        reserve() as held,
        reserve(handoff="shadow") as shadowed,
        reserve(handoff="fd") as exclusive,
        reserve(protocol="udp") as udp,
        reserve(protocol="both") as both,
        reserve() as taken,
        reserve(handoff="shadow") as taken_shadow,
        stranger("listen", "127.0.0.1", taken.port, "SO_REUSEADDR") as server,
        stranger("listen", "127.0.0.1", taken_shadow.port),
    ):
        listed = _listed()
        states = {key: one["state"] for key, one in listed.items()}
        assert states == {
            (held.port, "tcp"): "held",
            (shadowed.port, "tcp"): "shadowed",
            (exclusive.port, "tcp"): "exclusive",
            (udp.port, "udp"): "exclusive",
            (both.port, "tcp"): "held",
            (both.port, "udp"): "exclusive",
            (taken.port, "tcp"): "taken over",
            (taken_shadow.port, "tcp"): "taken over",
        }
        for one in listed.values():
            assert one["certain"]
            assert one["holder"]["pid"] == os.getpid()
        assert listed[taken.port, "tcp"]["server"]["pid"] == server.pid
        assert listed[held.port, "tcp"]["server"] is None
        status, out, _ = command("ls")
        assert status == 0
        assert re.search(rf"^{taken.port} +tcp +taken over .* {server.pid} ", out, re.MULTILINE)
        assert (
            len({len(line[: line.index("tcp")]) for line in out.splitlines()[1:5] if "tcp" in line})
            == 1
        )
    assert command("ls")[1] == "no port is held\n"


@needs(Ability.SHOWS_BOUND)
def test_strangers_are_not_ours(in_namespace: InNamespace) -> None:
    in_namespace(_strangers)


def _strangers() -> None:
    with (
        stranger("bind", "::", 40001),
        stranger("bind", "::", 40002, "SO_REUSEADDR", "SO_REUSEPORT"),
        stranger("bind", "::1", 40003, "V6ONLY"),
        stranger("bind", "127.0.0.2", 40004),
        stranger("listen", "::", 40005),
        stranger("bind", "::", 40006, kind="udp"),
        socket.socket() as own,
        reserve(port=40008) as held,
    ):
        own.bind(("0.0.0.0", 40007))  # our process, and no hold's address
        assert set(_listed()) == {(held.port, "tcp")}
        everything = {(one["port"], one["state"]) for one in json_of("ls", "--all")}
        assert everything == {
            (40001, "holds"),
            (40002, "holds"),
            (40003, "holds"),
            (40004, "holds"),
            (40005, "listens"),
            (40006, "receives"),
            (40007, "holds"),
            (40008, "holds"),
        }
        _, out, _ = command("ls", "--all")
        assert len(out.splitlines()) == 9


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@needs(Ability.SHOWS_BOUND)
def test_users(in_namespace: InNamespace) -> None:
    """Root sees all holds; an ordinary user only their own, and no "looks like" for others."""
    in_namespace(_users)


def _users() -> None:
    command("ls")
    command("ls", "--json")
    with reserve(port=40001):
        reader, writer = os.pipe()

        def be_another_user() -> None:
            become_nobody()
            import ctypes

            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a change of user takes /proc/self away
            _mark.mark_this_process()
            with reserve(port=40002):
                own = _listed()
                assert set(own) == {(40002, "tcp")}
                assert own[40002, "tcp"]["certain"]
                assert own[40002, "tcp"]["state"] == "held"
                both = {one["port"]: one for one in json_of("ls", "--all")}
                assert both[40001]["pid"] is None
                assert both[40001]["ephemport"] is None
                assert "another user's (uid 0)" in command("ls", "--all")[1]
                os.write(writer, b"x")
                signal.pause()

        with child(be_another_user):
            os.close(writer)
            assert os.read(reader, 1) == b"x"
            assert set(_listed()) == {(40001, "tcp"), (40002, "tcp")}


@needs(Ability.SHOWS_BOUND)
def test_the_worker_and_the_test_are_shown(in_namespace: InNamespace, tmp_path: Any) -> None:
    """A worker by its mark; a test by the server that it started."""
    (tmp_path / "test_it.py").write_text(
        """
import json, subprocess, sys, time
from ephemport import reserve
def test_server(tmp_path):
    with reserve() as taken, reserve() as held:
        server = taken.popen([sys.executable, "-m", "http.server", str(taken.port)],
                             stderr=subprocess.DEVNULL)
        taken.wait_listening(30, server)
        done = subprocess.run([sys.executable, "-m", "ephemport", "ls", "--json"],
                              capture_output=True, text=True, check=True)
        server.kill()
        server.wait()
        listed = {one["port"]: one for one in json.loads(done.stdout)}
        assert listed[held.port]["worker"] == "gw0"
        assert listed[taken.port]["worker"] == "gw0"
        assert listed[taken.port]["test"] == "test_it.py::test_server"
        assert listed[taken.port]["state"] == "taken over"
"""
    )
    reported = in_namespace(
        "import subprocess\n"
        "print(subprocess.run([sys.executable, '-m', 'pytest', '-n1', '-p', 'no:cacheprovider'],"
        "stdout=subprocess.PIPE, text=True).stdout)",
        cwd=tmp_path,
    )
    assert "1 passed" in reported, reported


@needs(Ability.SHOWS_BOUND)
def test_the_test_that_a_process_shows(in_namespace: InNamespace) -> None:
    in_namespace(_shown)


def _shown() -> None:
    _mark.show_test("tests/test_it.py::test_ünicode[1]")
    with reserve() as held:
        assert _listed()[held.port, "tcp"]["test"] == "tests/test_it.py::test_ünicode[1]"
        _mark.show_test("")
        assert _listed()[held.port, "tcp"]["test"] is None


@needs(Ability.SHOWS_BOUND)
def test_reserve_for_is_found(in_namespace: InNamespace) -> None:
    """Its background process has closed everything that it inherited."""
    in_namespace(_reserve_for)


def _reserve_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        reported = subprocess.run(
            [sys.executable, "-m", "ephemport", "reserve", "--for", str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert _listed()[int(reported.stdout), "tcp"]["certain"]
        process.kill()


@pytest.mark.parametrize("arguments", [["--watch"], ["--watch", "--json"]])
def test_watching_needs_a_terminal(arguments: list[str]) -> None:
    status, out, err = command("ls", *arguments)
    assert (status, out) == (2, "")
    assert "--watch" in err


@pytest.mark.parametrize("rich", [True, False])
def test_watch_refreshes_and_ends_cleanly(rich: bool) -> None:
    if rich:
        pytest.importorskip("rich")
    without = "" if rich else "sys.modules['rich.console'] = None;"
    code = (
        f"import sys; {without} from ephemport.cli import main; sys.exit(main(['ls', '--watch']))"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.pop("NO_COLOR", None)
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", code])
    try:
        said, deadline = b"", time.monotonic() + 30
        while len(re.findall(rb"ephemport ls, \d\d:\d\d:\d\d", said)) < 2:
            assert time.monotonic() < deadline, said
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 65536)
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and select.select([terminal], [], [], 30)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                break
    finally:
        # Hangs up, if it still runs.
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"Traceback" not in said
    assert said.rindex(b"\x1b[?1049l") > said.rindex(b"\x1b[?1049h")
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")


@pytest.mark.parametrize("what", ["holds", "listeners", "connections"])
def test_ten_thousand_sockets(in_namespace: InNamespace, what: str) -> None:
    in_namespace(_ten_thousand, what, ports=(20000, 60999))


def _ten_thousand(what: str) -> None:
    import resource
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10100:
        pytest.skip(f"only {hard} open files allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10100), hard))
    kept: list[Any] = []
    port = 10001
    if what == "holds":
        kept = [reserve() for _ in range(10000)]
        port = kept[0].port
    elif what == "listeners":
        kept = [socket.create_server(("127.0.0.1", 10001 + i), backlog=1) for i in range(9999)]
    else:
        server = socket.create_server(("127.0.0.1", port), backlog=4096)
        for _ in range(5000):
            kept += [socket.create_connection(("127.0.0.1", port)), server.accept()[0]]
    for arguments in (["who", str(port)], ["ls"], ["ls", "--json"], ["ls", "--all"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "ephemport", *arguments], capture_output=True, timeout=60
        )
        # An older kernel does not show holders, which is a promise that doctor sees broken.
        broken = arguments == ["doctor"] and not can_see_bound_inactive()
        assert done.returncode == (arguments[0] == "who" or broken), done.stderr

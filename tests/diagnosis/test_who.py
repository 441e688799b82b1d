"""A port in every state, by other programs: what ephemport says of it, against the truth."""

import os
import re
import socket
import time
from typing import Any

import pytest

from ephemport import PortUnavailable, reserve, reserve_many
from ephemport._findings import Diagnosis
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._looking.diagnosis import diagnose
from tests.abilities import Ability, needs
from tests.conftest import InNamespace
from tests.core.helpers import become_nobody
from tests.diagnosis.strangers import PERL, bindable, command, json_of, stranger, time_wait

pytestmark = pytest.mark.skipif(PERL is None, reason="the strange programs are Perl's")

PORT = 40001

ANY = "any server can bind it"
NOBODY = "no server can bind it"
V4_ONLY = f"{ANY} on [::1]; {NOBODY} on 127.0.0.1, 0.0.0.0 or [::]"
OPEN = "a server that sets SO_REUSEADDR or SO_REUSEPORT can bind it; one that sets neither cannot"

# name: what the stranger does, what is found, what it means for TCP and for UDP
CASES: dict[str, tuple[tuple[Any, ...], tuple[str, str, str], str, str]] = {
    "listens": (
        ("listen", "127.0.0.1", PORT),
        ("tcp", "listens", "127.0.0.1"),
        V4_ONLY,
        ANY,
    ),
    "listens, SO_REUSEADDR": (
        ("listen", "0.0.0.0", PORT, "SO_REUSEADDR"),
        ("tcp", "listens", "0.0.0.0"),
        V4_ONLY,
        ANY,
    ),
    "listens on all": (("listen", "::", PORT), ("tcp", "listens", "::"), NOBODY, ANY),
    "listens, SO_REUSEPORT": (
        ("listen", "::", PORT, "SO_REUSEPORT"),
        ("tcp", "listens", "::"),
        "a server that sets SO_REUSEPORT can bind it; one that does not set it cannot",
        ANY,
    ),
    "holds": (("bind", "0.0.0.0", PORT), ("tcp", "holds", "0.0.0.0"), V4_ONLY, ANY),
    "holds, SO_REUSEADDR": (
        ("bind", "::", PORT, "SO_REUSEADDR"),
        ("tcp", "holds", "::"),
        "a server that sets SO_REUSEADDR can bind it; one that does not set it cannot",
        ANY,
    ),
    "holds all": (("bind", "::", PORT), ("tcp", "holds", "::"), NOBODY, ANY),
    "shadows": (
        ("bind", "::1", PORT, "V6ONLY"),
        ("tcp", "holds", "::1"),
        f"{ANY} on 127.0.0.1 or 0.0.0.0; {NOBODY} on [::1] or [::]",
        ANY,
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=needs(Ability.SHOWS_BOUND) if found[1] == "holds" else ())
        for name, (_, found, _, _) in CASES.items()
    ],
)
def test_tcp(in_namespace: InNamespace, case: str) -> None:
    in_namespace(_tcp, case)


def _tcp(case: str) -> None:
    doing, (protocol, state, address), tcp, udp = CASES[case]
    with stranger(*doing) as somebody:
        answer = diagnose(PORT)
        (found,) = answer.found
        assert (found.protocol, found.state, found.address) == (protocol, state, address)
        assert (found.pid, found.uid, found.pids) == (
            somebody.pid,
            os.getuid(),
            (somebody.pid,),
        )
        assert found.command is not None
        assert found.command.startswith(f"{PERL} -e ")
        assert found.age is not None
        assert 0 <= found.age < 60
        assert found.ephemport is False
        assert answer.meaning == f"TCP: {tcp}. UDP: {udp}"
        assert not answer.free
        _check_by_trying(diagnose(PORT, "tcp"), bindable(PORT))
        # The look changed nothing: the truth is still the same.
        assert diagnose(PORT)._replace(found=()) == answer._replace(found=())
        status, out, _ = command("who", str(PORT))
        assert status == 1
        assert str(somebody.pid) in out
        assert f"TCP: {tcp}. UDP: {udp}" in out
        with pytest.raises(PortUnavailable) as caught:
            reserve(port=PORT)
        assert f"pid {somebody.pid} ({PERL} -e " in str(caught.value)
        assert tcp in str(caught.value)
    status, out, _ = command("who", str(PORT))
    assert (status, out.splitlines()[:2]) == (0, [f"{PORT} is free", f"  {ANY}"])


def _check_by_trying(answer: Diagnosis, truth: dict[str, set[str]]) -> None:
    """Read the sentence as a person would, and compare with what a program of its own gets."""
    everywhere = {"127.0.0.1", "0.0.0.0", "::1", "::"}
    said: dict[str, set[str]] = {"": set(), "SO_REUSEADDR": set(), "SO_REUSEPORT": set()}
    for clause in answer.meaning.split("; "):
        if clause.startswith("one that"):
            exceptions = set(re.findall(r"[\d.]{5,}|::1?", clause.partition("except on")[2]))
            for options in said.values():
                options |= exceptions
            continue
        _, _, places = clause.partition(" bind it on ")
        where = set(re.findall(r"[\d.]{5,}|::1?", places)) or everywhere
        if clause.startswith("any server can"):
            for options in said.values():
                options |= where
        elif clause.startswith("a server that sets"):
            for option in re.findall("SO_REUSE[A-Z]+", clause):
                said[option] |= where
    assert said == truth


@pytest.mark.parametrize(
    "protocol",
    ["udp", *(pytest.param(one, marks=needs(Ability.SHOWS_BOUND)) for one in ("tcp", "both"))],
)
@pytest.mark.parametrize("handoff", ["takeover", "shadow", "fd"])
def test_our_own_holds(in_namespace: InNamespace, handoff: str, protocol: str) -> None:
    in_namespace(_our_own, handoff, protocol)


def _our_own(handoff: str, protocol: str) -> None:
    kinds = {"takeover": "open", "shadow": "shadow", "fd": "exclusive"}
    with reserve(handoff=handoff, protocol=protocol) as held:
        answer = diagnose(held, protocol)
        for found in answer.found:
            kind = kinds[handoff]
            if found.protocol == "udp" and kind == "open":
                kind = "exclusive"
            assert (found.state, found.ephemport, found.hold) == ("holds", True, kind)
            assert found.pid == os.getpid()
            assert f"this process (pid {os.getpid()}) holds" in str(answer)
            assert f"ephemport's {kind} hold" in str(answer)
        assert len(answer.found) == (2 if protocol == "both" else 1)
        if protocol != "both":
            _check_by_trying(answer, bindable(held.port, protocol))
        if protocol == "tcp" and handoff == "takeover":
            assert answer.meaning == OPEN
            with held.listen():
                assert [one.state for one in diagnose(held, "tcp").found] == ["listens", "holds"]
    assert diagnose(held.port).free


def test_udp(in_namespace: InNamespace) -> None:
    in_namespace(_udp)


def _udp() -> None:
    with stranger("bind", "127.0.0.1", PORT, kind="udp") as somebody:
        (found,) = diagnose(PORT).found
        assert (found.protocol, found.state, found.pid) == ("udp", "receives", somebody.pid)
        meaning = diagnose(PORT, "udp").meaning
        assert meaning == (
            f"{ANY} on [::1]; a server that sets no option cannot bind it on 127.0.0.1, 0.0.0.0 or "
            "[::]; SO_REUSEADDR was not tried, so that no datagram is lost"
        )
        assert diagnose(PORT, "tcp").free
        assert command("who", f"{PORT}/tcp")[0] == 0
        assert command("who", f"{PORT}/udp")[0] == command("who", str(PORT))[0] == 1
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", PORT))
            own = client.getsockname()[1]
            (found,) = diagnose(own).found
            assert (found.state, found.peer) == ("connected", f"127.0.0.1:{PORT}")


def test_no_datagram_is_swallowed(in_namespace: InNamespace) -> None:
    in_namespace(_no_datagram)


def _no_datagram() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", PORT))
        server.settimeout(20)
        from ephemport._looking import trial as _trial

        real, sent = _trial._try, []

        def send_and_try(*arguments: Any) -> int:
            client.sendto(b"x", ("127.0.0.1", PORT))
            sent.append(arguments)
            return real(*arguments)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_trial, "_try", send_and_try)
            diagnose(PORT)
        assert sent
        for _ in sent:
            assert server.recv(10) == b"x"


def test_no_connection_is_swallowed(in_namespace: InNamespace) -> None:
    """A trial that is let in beside a server must not listen."""
    in_namespace(_no_connection)


def _no_connection() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", PORT))
        server.listen(64)
        server.settimeout(20)
        clients: list[socket.socket] = []
        real = socket.socket.bind

        def bind_and_connect(self: socket.socket, address: Any) -> None:
            real(self, address)
            if self.type == socket.SOCK_STREAM:
                clients.append(socket.create_connection(("127.0.0.1", PORT), timeout=20))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket.socket, "bind", bind_and_connect)
            diagnose(PORT, "tcp")
        assert clients
        for client in clients:
            accepted, peer = server.accept()
            assert peer == client.getsockname()
            accepted.close()
            client.close()


@pytest.mark.parametrize("reuse", [True, False])
def test_time_wait(in_namespace: InNamespace, reuse: bool) -> None:
    in_namespace(_time_wait, reuse)


def _time_wait(reuse: bool) -> None:
    began = time.time()
    time_wait(PORT, *([socket.SO_REUSEADDR] if reuse else []))
    answer = diagnose(PORT, "tcp")
    (found,) = answer.found
    assert (found.state, found.pid, found.connections) == ("TIME_WAIT", None, 1)
    assert found.seconds_left is not None
    assert 60 - (time.time() - began) - 1 < found.seconds_left <= 61
    match = re.search(r"until (\d\d:\d\d:\d\d)", answer.meaning)
    assert match is not None
    ends = time.strftime("%H:%M:%S", time.localtime(began + 59))
    latest = time.strftime("%H:%M:%S", time.localtime(time.time() + 63))
    if ends < latest:  # not around midnight
        assert ends <= match[1] <= latest
    _check_by_trying(answer, bindable(PORT))
    if reuse:
        reported = re.sub(r"\d\d:\d\d:\d\d", "14:03:07", answer.meaning)
        assert reported == (
            "a server that sets SO_REUSEADDR can bind it; one that does not set it cannot until "
            "14:03:07 (except on [::1])"
        )
    status, out, _ = command("who", str(PORT))
    assert status == 1
    assert re.search(r"1 connection to 127\.0\.0\.1:\d+, \d\d s left", out)


def test_what_the_time_wait_says_comes_true(in_namespace: InNamespace) -> None:
    # net.ipv4.tcp_fin_timeout does not shorten it. So the test does not wait for the end, only
    # until it is nearer.
    in_namespace(_nearer)


def _nearer() -> None:
    time_wait(PORT)
    first = diagnose(PORT, "tcp").found[0].seconds_left
    began = time.monotonic()
    while time.monotonic() - began < 0.2:
        pass
    second = diagnose(PORT, "tcp").found[0].seconds_left
    assert first is not None
    assert second is not None
    assert 0.1 < first - second < 5


def test_outgoing_connection(in_namespace: InNamespace) -> None:
    in_namespace(_outgoing)


def _outgoing() -> None:
    with socket.create_server(("127.0.0.1", 9)), stranger("connect", "127.0.0.1", 9) as somebody:
        answer = diagnose(somebody.port)
        (found,) = answer.found
        assert (found.state, found.pid, found.peer) == ("connected", somebody.pid, "127.0.0.1:9")
        _check_by_trying(diagnose(somebody.port, "tcp"), bindable(somebody.port))
        assert "has 1 connection from" in str(answer)
        # The same on the server's side, of which there is a listener and its connection.
        assert [one.state for one in diagnose(9).found] == ["listens", "closing"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("what", ["listen", pytest.param("bind", marks=needs(Ability.SHOWS_BOUND))])
def test_another_users(in_namespace: InNamespace, what: str) -> None:
    in_namespace(_another_users, what)


def _another_users(what: str) -> None:
    address = "::" if what == "bind" else "127.0.0.1"
    with stranger(what, address, PORT, uid=4242) as theirs, stranger("listen", "127.0.0.1", 40003):
        assert diagnose(PORT).found[0].pid == theirs.pid  # root sees
        assert diagnose(PORT).found[0].uid == 4242
        import ctypes  # noqa: F401
        import encodings.idna  # noqa: F401
        import pwd  # noqa: F401

        import ephemport._kernel.libc  # noqa: F401

        command("who", "1")
        become_nobody()
        (found,) = diagnose(PORT).found
        assert (found.uid, found.pid, found.command) == (4242, None, None)
        assert "another user's (uid 4242) process" in str(diagnose(PORT))
        status, out, _ = command("who", str(PORT), "40003")
        assert status == 1
        assert "another user's (uid 4242)" in out
        assert "another user's (uid 0)" in out
        if what == "bind":
            # Nothing distinguishes it from a hold.
            assert found.ephemport is None
            assert "which looks like ephemport's hold" in str(found)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("may_enter", [True, False])
def test_another_network(in_namespace: InNamespace, may_enter: bool) -> None:
    in_namespace(_another_network, may_enter)


def _another_network(may_enter: bool) -> None:
    from ephemport._kernel.namespaces import enter_new_network
    from ephemport._looking import diagnosis as _diagnosis

    def refused(*_: object) -> None:
        raise PermissionError(1, "setns()")

    if not may_enter:  # as an ordinary user: /proc/PID/net shows listeners, and no holders
        vars(_diagnosis)["inside"] = refused
    for what in ("listen", "bind") if may_enter and can_see_bound_inactive() else ("listen",):
        with stranger(what, "127.0.0.1", 40009) as outside:
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                enter_new_network()
                answer = diagnose(40009, elsewhere=True)
                (found,) = (one for one in answer.elsewhere if one.pid == outside.pid)
                assert found.network == os.stat(f"/proc/{outside.pid}/ns/net").st_ino
                assert found.state == ("listens" if what == "listen" else "holds")
                status, out, _ = command("who", "40009")
                assert "other network namespaces" in out, out
                assert f"network {found.network}" in out, out
                os.write(writer, b"%d %d" % (status, answer.free))
                os._exit(0)
            os.close(writer)
            assert os.read(reader, 100) == b"0 1"
            os.close(reader)
            os.waitpid(pid, 0)


def test_every_state_at_once(in_namespace: InNamespace) -> None:
    in_namespace(_at_once)


def _at_once() -> None:
    with reserve() as held, held.listen() as server:
        client = socket.create_connection(server.getsockname())
        accepted = server.accept()[0]
        states = [one["state"] for one in json_of("who", str(held.port))[0]["found"]]
        hold = ["holds"] if can_see_bound_inactive() else []
        assert states == ["listens", *hold, "connected"]
        client.close()
        accepted.close()


@needs(Ability.SHOWS_BOUND)
def test_json(in_namespace: InNamespace) -> None:
    in_namespace(_json)


def _json() -> None:
    with reserve_many(2) as (first, second):
        reported = json_of("who", str(first.port), f"{second.port}/tcp", "39999")
        assert [one["port"] for one in reported] == [first.port, second.port, 39999]
        assert [one["free"] for one in reported] == [False, False, True]
        assert reported[0]["found"][0]["hold"] == "open"
        assert reported[1]["protocol"] == "tcp"
        assert reported[2] == {
            "port": 39999,
            "protocol": "both",
            "free": True,
            "found": [],
            "elsewhere": reported[2]["elsewhere"],
            "meaning": ANY,
            "unseen": [],
        }


@pytest.mark.skipif(os.getuid() != 0, reason="in a user namespace of its own nobody is refused")
def test_privileged_numbers(in_namespace: InNamespace) -> None:
    in_namespace(_privileged)


def _privileged() -> None:
    command("who", "1")
    become_nobody()
    status, out, _ = command("who", "81")
    assert status == 0
    assert "only root (CAP_NET_BIND_SERVICE) can bind ports below" in out


def test_timeouts_say_the_same(in_namespace: InNamespace) -> None:
    in_namespace(_timeout)


def _timeout() -> None:
    from ephemport import TakeoverTimeout

    with reserve() as held:
        with pytest.raises(TakeoverTimeout) as caught:
            held.wait_listening(0.01)
        assert str(diagnose(held, "tcp")) in str(caught.value)


def test_a_look_does_not_open_a_shadow(in_namespace: InNamespace) -> None:
    """SO_REUSEPORT leaves a trace in the kernel, which would let strangers onto [::]."""
    in_namespace(_trace)


def _trace() -> None:
    with reserve(handoff="shadow") as held:
        truth = bindable(held.port)
        for _ in range(3):
            diagnose(held)
            assert "::" not in bindable(held.port)["SO_REUSEPORT"]
        assert bindable(held.port) == truth

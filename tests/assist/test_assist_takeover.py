"""Servers that set no option bind and listen on a held port."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ephemport._kernel.fork import lock
from tests.abilities import Ability, needs
from tests.assist.conftest import NewHold, Start

BARE = """
import socketserver
server = socketserver.TCPServer(({host!r}, {port}), socketserver.BaseRequestHandler)
print("listening", flush=True)
input()
"""

PERL = """
use IO::Socket::INET; $| = 1;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 5)
    or do { print "failed: $@\\n"; exit 1 };
print "listening\\n"; <STDIN>;
"""

C = """
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    struct sockaddr_in a = {AF_INET, htons(atoi(argv[1])), {htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    errno = 0;
    if (bind(s, (void *)&a, sizeof a) == 0 && listen(s, 5) == 0) puts("listening");
    else printf("failed: %d\\n", errno);
    fflush(stdout);
    return getchar();
}
"""

UDP = """
import socket, sys
sock = socket.socket({family}, socket.SOCK_DGRAM)
sock.bind(({host!r}, {port}))
print("bound", sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), flush=True)
data, peer = sock.recvfrom(100)
print(data.decode(), flush=True)
input()
"""


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_bare_python_server(start_python: Start, new_hold: NewHold, host: str) -> None:
    held = new_hold()
    assert start_python(BARE.format(host=host, port=held.port), [held]).line() == "listening"
    assert connects(held.port)
    assert not held.closed


def test_the_same_servers_fail_without_assistance(
    start: Start, start_python: Start, new_hold: NewHold
) -> None:
    held = new_hold()
    program = BARE.format(host="127.0.0.1", port=held.port)
    assert start_python(program, stderr=subprocess.DEVNULL).line() == ""
    assert "Address already in use" in start(["perl", "-e", PERL, str(held.port)]).line()
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="in use"):
        sock.bind(("127.0.0.1", new_hold("udp").port))


def test_perl(start: Start, new_hold: NewHold) -> None:
    held = new_hold()
    assert start(["perl", "-e", PERL, str(held.port)], [held]).line() == "listening"
    assert connects(held.port)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_static_binary(start: Start, new_hold: NewHold, tmp_path: Path) -> None:
    source = tmp_path / "server.c"
    source.write_text(C)
    subprocess.run(["gcc", "-static", "-o", tmp_path / "server", source], check=True)
    held = new_hold()
    assert start([str(tmp_path / "server"), str(held.port)], [held]).line() == "listening"
    assert connects(held.port)


@pytest.mark.parametrize(
    ("family", "host", "to"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::", "::1"),
        (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
    ],
)
@pytest.mark.parametrize("protocol", ["udp", "both"])
def test_udp_server_gets_the_datagrams_and_the_hold_is_shut_again(
    start_python: Start, new_hold: NewHold, family: int, host: str, to: str, protocol: str
) -> None:
    held = new_hold(protocol)
    server = start_python(UDP.format(family=int(family), host=host, port=held.port), [held])
    assert server.line() == "bound 0"
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", (to, held.port))
    assert server.line() == "hello"
    udp = held.sockets[-1]
    assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", held.port))


@needs(Ability.MPTCP)
def test_mptcp_shares_the_numbers_of_tcp(start_python: Start, new_hold: NewHold) -> None:
    held = new_hold()
    program = f"""
import socket
sock = socket.socket(proto=socket.IPPROTO_MPTCP)
sock.bind(("127.0.0.1", {held.port}))
sock.listen()
print("listening", flush=True)
"""
    assert start_python(program, [held]).line() == "listening"


def test_udp_server_keeps_the_option_that_it_set(start_python: Start, new_hold: NewHold) -> None:
    held = new_hold("udp")
    program = UDP.format(family=int(socket.AF_INET), host="127.0.0.1", port=held.port)
    program = program.replace("sock.bind", "sock.setsockopt(1, 2, 1); sock.bind")
    assert start_python(program, [held]).line() == "bound 1"


def test_a_second_server_is_refused_as_ever(
    start: Start, start_python: Start, new_hold: NewHold
) -> None:
    held = new_hold("both")
    program = f"""
import socket
first, second = (socket.socket(type=socket.{{kind}}) for _ in range(2))
first.bind(("127.0.0.1", {held.port}))
if first.type == socket.SOCK_STREAM:
    first.listen()
try:
    second.bind(("127.0.0.1", {held.port}))
    print("bound twice", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
"""
    for kind in ("SOCK_STREAM", "SOCK_DGRAM"):
        assert start_python(program.format(kind=kind), [held]).line() == "Address already in use"


def test_two_holds_with_one_number(start_python: Start, new_hold: NewHold) -> None:
    from ephemport._holding.acquire import hold

    tcp = new_hold()
    udp = hold(tcp.port, "udp")
    try:
        program = BARE.format(host="127.0.0.1", port=tcp.port)
        assert start_python(program, [udp, tcp]).line() == "listening"
        program = UDP.format(family=int(socket.AF_INET), host="127.0.0.1", port=tcp.port)
        assert start_python(program, [tcp, udp]).line() == "bound 0"
    finally:
        udp.close()


def test_grandchild(start: Start, new_hold: NewHold) -> None:
    held = new_hold()
    program = BARE.format(host="127.0.0.1", port=held.port)
    server = start(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", program], [held])
    assert server.line() == "listening"


def test_orphan_in_a_session_of_its_own(start: Start, new_hold: NewHold) -> None:
    held = new_hold()
    program = BARE.format(host="127.0.0.1", port=held.port)
    script = '(setsid "$@" <&3 &) 3<&0; echo gone'
    server = start(["sh", "-c", script, "sh", sys.executable, "-c", program], [held])
    assert {server.line(), server.line()} == {"gone", "listening"}
    server.say()


@pytest.mark.parametrize("how", ["thread", "fork", "fork in a thread"])
def test_thread_and_fork(start_python: Start, new_hold: NewHold, how: str) -> None:
    held = new_hold()
    program = f"""
import os, socket, threading
def serve():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", {held.port}))
        sock.listen()
        print("listening", flush=True)
        input()
def fork():
    if os.fork() == 0:
        serve()
        os._exit(0)
    os.wait()
target = serve if {how!r} == "thread" else fork
if "thread" in {how!r}:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
else:
    target()
"""
    server = start_python(program, [held])
    assert server.line() == "listening"
    assert connects(held.port)
    server.say()


def test_crash_and_restart(start: Start, new_hold: NewHold) -> None:
    held = new_hold()
    # Closes an accepted connection first, so that its own TIME_WAIT is in the way of the next one.
    program = f"""
import os, signal, socket
sock = socket.socket()
sock.bind(("127.0.0.1", {held.port}))
sock.listen()
print("listening", flush=True)
sock.accept()[0].close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    loop = 'while "$@" || test $? != 1; do :; done'
    server = start(["sh", "-c", loop, "sh", sys.executable, "-c", program], [held], stderr=-3)
    for _ in range(5):
        assert server.line() == "listening"
        with socket.create_connection(("127.0.0.1", held.port)) as client:
            assert client.recv(1) == b""
    assert server.line() == "listening"
    server.process.kill()
    assert connects(held.port)  # lets the last one end too


def test_several_holds(start_python: Start, new_hold: NewHold) -> None:
    holds = [new_hold("both") for _ in range(5)]
    program = f"""
import socket
kept = []
for port in {[held.port for held in holds]}:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        kept.append(socket.socket(type=kind))
        kept[-1].bind(("127.0.0.1", port))
print("bound", flush=True)
"""
    assert start_python(program, holds).line() == "bound"


TELL = 'open F, ">&=", $ENV{FD}; syswrite F, "$$ ".getpgrp(0)." $ENV{PWD}";'


def test_popen_arguments(start: Start, new_hold: NewHold, tmp_path: Path) -> None:
    held = new_hold()
    read, write = os.pipe()
    server = start(
        ["perl", "-e", TELL + PERL, str(held.port)],
        [held],
        cwd=tmp_path,
        env={"FD": str(write), "PWD": "here", "PATH": os.environ["PATH"]},
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(write)
    assert server.line() == "listening"
    pid = server.process.pid
    assert os.read(read, 100).decode() == f"{pid} {pid} here"
    assert Path(f"/proc/{pid}/cwd").resolve() == tmp_path
    os.close(read)


def test_the_servers_socket_stays_as_it_was(start_python: Start, new_hold: NewHold) -> None:
    held = new_hold("both")
    program = f"""
import os, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    sock = socket.socket(type=kind)
    sock.bind(("127.0.0.1", {held.port}))
    print(os.get_blocking(sock.fileno()), os.get_inheritable(sock.fileno()), flush=True)
"""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(7)
    try:
        server = start_python(program, [held])
        assert [server.line(), server.line()] == ["True False"] * 2
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root giving up its rights")
def test_as_an_ordinary_user(start_python: Start) -> None:
    program = f"""
import ctypes, os, subprocess
from ephemport._serving.assist import check_assist, start_assisted
from ephemport._holding.acquire import hold
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
check_assist()
held = hold(0, "tcp")
held.open()
child = start_assisted(
    lambda: subprocess.Popen(["perl", "-e", {PERL!r}, str(held.port)], stdin=0, cwd="/"), [held]
)
child.wait()
"""
    assert start_python(program).line() == "listening"


def test_root_that_becomes_another_user_is_helped_by_root_only(
    start: Start, new_hold: NewHold
) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    held = new_hold()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert start([*nobody, "perl", "-e", PERL, str(held.port)], [held]).line() == "listening"


def test_start_that_binds_itself_does_not_wait_for_us(new_hold: NewHold) -> None:
    """`start` may hold the lock that the supervisor takes for a port of ours."""
    from ephemport._serving.assist import start_assisted

    held = new_hold("udp")

    def start() -> str:
        with lock, socket.socket(type=socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", held.port))
            except OSError as error:
                return str(error)
        return "bound"

    assert "in use" in start_assisted(start, [held])


def test_forked_child_of_ours(start_python: Start) -> None:
    program = """
import os, socket
from ephemport._serving.assist import start_assisted
from ephemport._holding.acquire import hold
held = hold(0, "tcp")
held.open()
def fork():
    pid = os.fork()
    if pid == 0:
        sock = socket.socket()
        sock.bind(("127.0.0.1", held.port))
        sock.listen()
        print("listening", flush=True)
        os._exit(0)
    return pid
os.waitpid(start_assisted(fork, [held]), 0)
"""
    assert start_python(program).line() == "listening"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_kernel.other_process._PIDFD_THREAD", 1),  # before Linux 6.9
        ("_kernel.other_process._SO_NETNS_COOKIE", 9999),  # before 5.14
        ("_serving.assist.filter._FLAG_WAIT_KILLABLE_RECV", 1 << 20),  # before 5.19
    ],
)
def test_older_kernels(
    start_python: Start,
    new_hold: NewHold,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: int,
) -> None:
    monkeypatch.setattr(f"ephemport.{name}", value)
    held = new_hold("both")
    program = f"""
import socket, threading
def serve():
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(type=kind)
        sock.bind(("127.0.0.1", {held.port}))
        print("bound", flush=True)
thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""
    server = start_python(program, [held])
    assert [server.line(), server.line()] == ["bound", "bound"]

"""Strange programs, and what the commands say of them. Perl, so that nothing of ours is in them."""

import io
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from ephemport.cli import main
from tests.core.helpers import eventually

PERL = shutil.which("perl")

STRANGER = r"""
use strict;
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 unpack_sockaddr_in6 IPPROTO_IPV6 IPV6_V6ONLY);
$| = 1;
my ($kind, $address, $port, $what, @options) = @ARGV;
my $v6 = $address =~ /:/;
socket(my $s, $v6 ? AF_INET6 : AF_INET, $kind eq "udp" ? SOCK_DGRAM : SOCK_STREAM, 0) or die $!;
my $v6only = grep({ $_ eq "V6ONLY" } @options) ? 1 : 0;
setsockopt($s, IPPROTO_IPV6, IPV6_V6ONLY, pack("i", $v6only)) or die $! if $v6;
for (@options) {
    setsockopt($s, SOL_SOCKET, 2, pack("i", 1)) or die $! if $_ eq "SO_REUSEADDR";
    setsockopt($s, SOL_SOCKET, 15, pack("i", 1)) or die $! if $_ eq "SO_REUSEPORT";
}
my $raw = inet_pton($v6 ? AF_INET6 : AF_INET, $address);
my $where = $v6 ? pack_sockaddr_in6($port, $raw) : pack_sockaddr_in($port, $raw);
if ($what eq "connect") {
    connect($s, $where) or die $!;
} else {
    bind($s, $where) or do { print "refused\n"; exit 0 };
    listen($s, 5) or die $! if $what eq "listen";
}
my $own = getsockname($s);
print +($v6 ? (unpack_sockaddr_in6($own))[0] : (unpack_sockaddr_in($own))[0]), "\n";
exit 0 if $what eq "try";
<STDIN>;
"""


class Stranger:
    """A program that has a socket; `command` is what a person reads of it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.pid = process.pid
        self.port = port


@contextmanager
def stranger(
    what: str, address: str, port: int, *options: str, kind: str = "tcp", uid: int | None = None
) -> Iterator[Stranger]:
    """`what` is "listen", "bind" or "connect"; ends with the block."""
    assert PERL is not None
    command = [PERL, "-e", STRANGER, kind, address, str(port), what, *options]
    user: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **user
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        reported = process.stdout.readline()
        try:
            yield Stranger(process, int(reported))
        finally:
            process.stdin.close()


def can_bind(port: int, address: str, *options: str, kind: str = "tcp") -> bool:
    """The truth: whether a program of its own gets the port."""
    assert PERL is not None
    command = [PERL, "-e", STRANGER, kind, address, str(port), "try", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout != "refused\n"


def bindable(port: int, kind: str = "tcp") -> dict[str, set[str]]:
    """The truth for a port: by option, the addresses on which it can be bound."""
    truth: dict[str, set[str]] = {"": set(), "SO_REUSEADDR": set(), "SO_REUSEPORT": set()}
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        # SO_REUSEPORT leaves a trace, which one without it removes.
        for option in ("SO_REUSEPORT", "SO_REUSEADDR", ""):
            options = [option] if option else []
            if can_bind(port, address, *options, *_v6only(address), kind=kind):
                truth[option].add(address)
    return truth


def _v6only(address: str) -> list[str]:
    return ["V6ONLY"] if address == "::1" else []


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process: its status, and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = int(str(error.code))
    return status, out.getvalue(), err.getvalue()


def json_of(*arguments: str) -> Any:
    _, out, _ = command(*arguments, "--json")
    return json.loads(out)


def time_wait(port: int, *options: int) -> None:
    """Leave one connection of a server in TIME_WAIT."""
    from ephemport._kernel.sockets import State, read_sockets

    with socket.socket() as server:
        for option in options:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        client = socket.create_connection(("127.0.0.1", port))
        server.accept()[0].close()
        with client:
            assert client.recv(1) == b""
    eventually(lambda: read_sockets("tcp", {State.TIME_WAIT}, port=port))
    eventually(lambda: len(read_sockets("tcp", tuple(State), port=port)) == 1)

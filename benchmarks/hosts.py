"""Two hosts on this machine: network namespaces with a pair of virtual Ethernet devices (veth(4)).

They have no names, and end with the process that made them.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

RSH = str(Path(__file__).with_name("rsh.py"))

_IS_FREE = """
import socket, sys
with socket.socket() as sock:
    try:
        sock.bind((sys.argv[1], int(sys.argv[2])))
    except OSError as error:
        print(error.errno)
"""


class Host(NamedTuple):
    """A network namespace, and a process in it that keeps it. device: the one to the other host."""

    address: str
    device: str
    process: "subprocess.Popen[str]"

    @property
    def enter(self) -> list[str]:
        """The words that run a command there."""
        return ["nsenter", "-t", str(self.process.pid), "-n", "--"]

    def run(self, *words: str) -> str:
        """Run a command there, and return what it prints."""
        return subprocess.run(
            [*self.enter, *words], check=True, text=True, stdout=subprocess.PIPE, timeout=60
        ).stdout

    def is_free(self, port: int) -> bool:
        """Whether a socket without options can bind the port there."""
        return self.run(sys.executable, "-c", _IS_FREE, self.address, str(port)) == ""

    def cut(self) -> None:
        """Cut the link between the hosts."""
        self.run("ip", "link", "set", self.device, "down")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other. Only root can make them."""
    with ExitStack() as stack:
        first, second = (
            Host(f"10.77.0.{number}", f"veth{number}", stack.enter_context(_namespace()))
            for number in (1, 2)
        )
        one, two = str(first.process.pid), str(second.process.pid)
        link = ["ip", "link", "add", "veth1", "netns", one, "type", "veth"]
        subprocess.run([*link, "peer", "name", "veth2", "netns", two], check=True)
        for host in (first, second):
            host.run("ip", "address", "add", f"{host.address}/24", "dev", host.device)
            host.run("ip", "link", "set", host.device, "up")
        yield first, second


@contextmanager
def _namespace() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.stdin.close()
        process.wait(30)


@contextmanager
def shell_server(here: Host, there: Host) -> Iterator[list[str]]:
    """The words with which `here` runs a command `there`, over the link."""
    with subprocess.Popen(
        [*there.enter, sys.executable, RSH, "serve", there.address, "0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            port = str(int(server.stdout.readline()))
            yield [*here.enter, sys.executable, RSH, "run", there.address, port]
        finally:
            server.kill()

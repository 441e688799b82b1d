"""What does a port on another host cost, and what ends it? `python -m benchmarks.nodes` tells.

Needs root: the hosts are network namespaces on this machine, with a pair of virtual Ethernet
devices between them. So a network adds its own delay to every figure.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.cells import environment
from benchmarks.hosts import Host, shell_server, two_hosts
from benchmarks.record import describe_environment
from benchmarks.report import spread_in_words
from benchmarks.stats import spread
from ephemport import EphemportError, Node, on

_LEASE = 2.0

# Prints the time at which the port can be bound, as time.monotonic() has it in every process.
_UNTIL_FREE = """
import socket, sys, time
print("ready", flush=True)
while True:
    with socket.socket() as sock:
        try:
            sock.bind((sys.argv[1], int(sys.argv[2])))
        except OSError:
            time.sleep(0.0002)
        else:
            print(time.monotonic(), flush=True)
            break
"""
_CLIENT = """
import os, sys, ephemport
node = ephemport.on(sys.argv[2:], python=sys.executable, lease=float(sys.argv[1]) or None)
print(node.reserve(host="10.77.0.2").port, flush=True)
if os.environ.get("FORK"):
    import warnings
    warnings.simplefilter("ignore")  # that it forks beside a thread is the point
    if os.fork() == 0:
        import time
        time.sleep(60)
sys.stdin.read()
node.close()
"""
# Binds, connects and lets go without rest, as other users of the host do.
_SQUATTER = """
import random, socket, time
kept = []
while True:
    sock = socket.socket()
    try:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
    except OSError:
        sock.close()
    else:
        kept.append(sock)
    if len(kept) > 12:
        kept.pop(random.randrange(len(kept))).close()
    time.sleep(random.expovariate(200))
"""
# A server that sets SO_REUSEADDR, as nearly all do.
_SERVER = """
import socket, sys
with socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((sys.argv[1], int(sys.argv[2])))
        sock.listen()
    except OSError as error:
        print("refused", flush=True)
    else:
        print("up", flush=True)
        sys.stdin.read()
"""
_PICK = (
    "import socket, sys; s = socket.socket(); s.bind((sys.argv[1], 0)); print(s.getsockname()[1])"
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables as Markdown, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    parser.add_argument("--groups", type=int, default=100, help="default: 100")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("only root can connect two network namespaces", file=sys.stderr)
        return 2
    print(f"{_environment()}\n")
    with two_hosts() as (here, there), shell_server(here, there) as shell:
        _print_costs({"nsenter": there.enter, "a TCP connection": shell}, options.rounds)
        _print_ends(here, there, shell, max(options.rounds // 4, 3))
    _print_groups(options.groups)
    return 0


def _environment() -> str:
    found = describe_environment()
    return (
        f"{time.strftime('%Y-%m-%d')}: {found['cores']} cores ({found['processor']}), "
        f"{found['kernel']}, Python {found['python']}, load {found['load_at_start']} at the start; "
        "medians and quartiles"
    )


def _print_costs(ways: dict[str, list[str]], rounds: int) -> None:
    print("| the channel | open | the first port | each further one | release |")
    print("| --- | --- | --- | --- | --- |")
    for name, words in ways.items():
        taken: dict[str, list[float]] = {"open": [], "first": [], "next": [], "release": []}
        for _ in range(rounds):
            with _timed(taken["open"]):
                node = on(words, python=sys.executable)
            with node:
                with _timed(taken["first"]):
                    node.reserve(host="10.77.0.2")
                for _ in range(10):
                    with _timed(taken["next"]):
                        r = node.reserve(host="10.77.0.2")
                    with _timed(taken["release"]):
                        r.release()
        print(f"| {name} | {' | '.join(map(_shown, taken.values()))} |")
    print()


@contextmanager
def _timed(to: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    to.append(time.perf_counter() - began)


def _shown(times: list[float]) -> str:
    return spread_in_words(spread(times))


def _print_ends(here: Host, there: Host, shell: list[str], rounds: int) -> None:
    """What ends a hold, and after how long the port is free over there."""

    def kill(client: "subprocess.Popen[str]") -> None:
        client.kill()

    def end(client: "subprocess.Popen[str]") -> None:
        assert client.stdin is not None
        client.stdin.close()

    rows: list[tuple[str, list[str], float, Callable[[subprocess.Popen[str]], None], bool]] = [
        ("the client ends", there.enter, 0, end, False),
        ("the client is killed (SIGKILL)", there.enter, 0, kill, False),
        ("the same, over a TCP connection", shell, 0, kill, False),
        ("the same, while a forked child of the client lives", there.enter, 0, kill, True),
        (f"the link is cut (lease {_LEASE:g} s)", shell, _LEASE, lambda _: here.cut(), False),
    ]
    print("| what happens | the port is free there after |")
    print("| --- | --- |")
    for name, words, lease, do, fork in rows:
        times = []
        for _ in range(rounds):
            times.append(_time_until_free(there, words, lease, do, fork))
            if "cut" in name:
                here.run("ip", "link", "set", here.device, "up")
        print(f"| {name} | {_shown(times)} |")
    times = []
    for _ in range(rounds):
        with on(there.enter, python=sys.executable) as node:
            node.reserve(host=there.address)
            began = time.monotonic()
            os.kill(node.pid, signal.SIGKILL)
            while not node.lost:
                pass
            times.append(time.monotonic() - began)
    print(f"| the agent is killed: `lost` is true here | {_shown(times)} |")
    print()


def _time_until_free(
    there: Host,
    words: list[str],
    lease: float,
    do: "Callable[[subprocess.Popen[str]], None]",
    fork: bool,
) -> float:
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(lease), *words],
        env=environment(**({"FORK": "1"} if fork else {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as client:
        assert client.stdout is not None
        port = client.stdout.readline().strip()
        with subprocess.Popen(
            [*there.enter, sys.executable, "-c", _UNTIL_FREE, there.address, port],
            stdout=subprocess.PIPE,
            text=True,
        ) as prober:
            assert prober.stdout is not None
            prober.stdout.readline()
            began = time.monotonic()
            do(client)
            free = float(prober.stdout.readline())
        # The client that was cut off, and a child of a killed one, which is in its session.
        os.killpg(client.pid, signal.SIGKILL)
    return free - began


def _print_groups(groups: int) -> None:
    """Groups of one server on each of two hosts, beside a squatter on each, 64 ports."""
    print(f"| how the ports are picked, {groups} groups of two servers | groups that failed |")
    print("| --- | --- |")
    with two_hosts() as hosts:
        for host in hosts:
            host.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")
        squatters = [
            subprocess.Popen([*host.enter, sys.executable, "-c", _SQUATTER]) for host in hosts
        ]
        try:
            nodes = [on(host.enter, python=sys.executable) for host in hosts]
            ours = sum(_group_fails(hosts, nodes) for _ in range(groups))
            theirs = sum(_group_fails(hosts, None) for _ in range(groups))
            for node in nodes:
                node.close()
        finally:
            for one in squatters:
                one.kill()
                one.wait()
    print(f"| held on each host until its server has it | {ours} |")
    print(f"| picked on each host, let go, published | {theirs} |")


def _group_fails(hosts: tuple[Host, Host], nodes: list[Node] | None) -> bool:
    """Pick a port on each host, publish both, start a server on each: whether one fails."""
    held = []
    ports = []
    try:
        for position, host in enumerate(hosts):
            if nodes is None:
                ports.append(host.run(sys.executable, "-c", _PICK, host.address).strip())
            else:
                held.append(nodes[position].reserve(host=host.address))
                ports.append(str(held[-1].port))
        # What a job has to do before its servers start; it is the same for both.
        time.sleep(random.uniform(0.1, 0.3))
        servers = [
            subprocess.Popen(
                [*host.enter, sys.executable, "-c", _SERVER, host.address, port],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for host, port in zip(hosts, ports, strict=True)
        ]
        said = []
        for server in servers:
            with server:
                assert server.stdout is not None
                said.append(server.stdout.readline().strip())
        return said != ["up", "up"]
    except EphemportError:
        return True
    finally:
        for one in held:
            one.release()


if __name__ == "__main__":
    sys.exit(main())

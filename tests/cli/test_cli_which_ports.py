"""The options of `ephemport run` and `reserve` that say which ports."""

import os
import re
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ephemport import reserve, reserve_many
from ephemport._kernel.port_range import ephemeral_range
from tests.cli.conftest import Cli, can_bind, ended, line, reported

PRINT = [sys.executable, "-c", "import sys; print(*sys.argv[1:], sep=',')"]


@pytest.fixture
def free() -> list[int]:
    """Ten ports in a row that nobody has. They lie where the system assigns none to others."""
    begin = 20000 + os.getpid() % 1000 * 10
    wanted = [*range(begin, 30000, 10), *range(20000, begin, 10)]
    with reserve_many(10, contiguous=True, port=wanted) as group:
        return group.ports


def test_one_port(cli: Cli, free: list[int]) -> None:
    port = free[3]
    process = cli.start("reserve", "--port", str(port))
    assert line(process) == str(port)
    assert not can_bind(port)
    assert ended(process) == (0, "", "")
    done = cli.run("run", "--port", str(port), "--", *PRINT, "{PORT}")
    assert done == (0, f"{port}\n", f"ephemport: PORT={port}\n")


def test_a_list_a_range_and_both_several_times(cli: Cli, free: list[int]) -> None:
    first, last = free[0], free[-1]
    for options, expected in (
        ([f"--port={first},{last}"], [first, last]),
        ([f"--port={first}-{last}"], [first, first + 1]),
        (["--port", str(last), "--port", f"{first}-{first + 3}"], [last, first]),
        ([f"--port={first}, {first + 5}-{first + 6}"], [first, first + 5]),
        (
            [f"--port={first}-{last}", f"--exclude={first},{first + 2}-{last - 1}"],
            [first + 1, last],
        ),
        ([f"--port={first}-{last}", f"--exclude={first}", "--exclude", f"{first + 1}"], free[2:4]),
    ):
        assert cli.run("reserve", "-n", "2", *options).ports == expected
        done = cli.run("run", "-p", "A", "-p", "B", *options, "--", *PRINT, "{A}", "{B}")
        assert done.stdout == ",".join(map(str, expected)) + "\n"
        assert list(reported(done.stderr).values()) == expected


def test_a_background_holder_takes_the_same_options(cli: Cli, free: list[int]) -> None:
    process = cli.start_anything("sleep", "60")
    done = cli.run("reserve", "--for", str(process.pid), "--port", f"{free[0]}-{free[-1]}", "-n2")
    assert done == (0, f"{free[0]}\n{free[1]}\n", "")
    assert not any(map(can_bind, free[:2]))
    done = cli.run("reserve", "--for", str(process.pid), "--port", str(free[0]))
    assert (done.status, done.stdout) == (1, "")
    assert f"ephemport: cannot reserve port {free[0]} (tcp): Address already in use: pid " in (
        done.stderr
    )
    process.kill()


def test_a_port_that_is_taken_and_what_to_write(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for command in (["reserve"], ["run", "--", "true"]):
            done = cli.run(command[0], "--port", str(port), *command[1:])
            assert (done.status, done.stdout) == (1, "")
            assert f"pid {os.getpid()} (" in done.stderr
            assert f"ask for another port (--port {port},0 falls back to any)" in done.stderr
            assert "port=" not in done.stderr
        done = cli.run("reserve", "--port", f"{port},0")
        assert done.status == 0
        assert done.ports != [port]
        done = cli.run("reserve", "-n2", "--port", f"{port},{port}")
        assert done.status == 1
        assert "End --port in 0 to fall back to any port" in done.stderr
        assert "port=" not in done.stderr


def test_in_a_row_and_at_distances(cli: Cli, free: list[int]) -> None:
    first, second, third = cli.run("reserve", "-n", "3", "--contiguous").ports
    assert (second, third) == (first + 1, first + 2)
    assert cli.run("reserve", "-n3", "--contiguous", f"--port={free[0]}").ports == free[:3]
    even, odd = cli.run("reserve", "--offsets", "0,1", "--multiple-of", "2").ports
    assert (even % 2, odd) == (0, even + 1)
    assert cli.run("reserve", "--multiple-of", "100").ports[0] % 100 == 0
    port, bus = cli.run("reserve", "--offsets", "0,10000").ports
    assert bus == port + 10000
    bus, port = cli.run("reserve", "--offsets=10000,0", "-n", "2").ports
    assert bus == port + 10000
    names = ["-p", "WEB", "--udp", "DNS", "--both", "X"]
    done = cli.run("run", *names, "--contiguous", "--", *PRINT, "{WEB}", "{DNS}", "{X}")
    web, dns, other = reported(done.stderr).values()
    assert (dns, other) == (web + 1, web + 2)


def test_any_of_a_range(cli: Cli, free: list[int]) -> None:
    span = f"{free[0]}-{free[-1]}"
    assert sorted(cli.run("reserve", "-n10", "--range", span).ports) == free
    some = ["--range", f"{free[0]},{free[2]}", "--range", str(free[4])]
    assert sorted(cli.run("reserve", "-n3", *some).ports) == free[:6:2]
    assert cli.run("reserve", "--range", span, "--port", f"{free[3]},0").ports == [free[3]]
    row = cli.run("reserve", "-n9", "--contiguous", "--range", span, "--exclude", str(free[0]))
    assert row.ports == free[1:]
    names = ["-p", "WEB", "--udp", "DNS", "--both", "X"]
    done = cli.run("run", *names, "--range", span, "--", *PRINT, "{WEB}", "{DNS}", "{X}")
    assert set(reported(done.stderr).values()) <= {*free}
    with reserve(range=free[:1]) as r:
        for command in (["reserve"], ["run", "--", "true"]):
            done = cli.run(command[0], "--range", str(r.port), *command[1:])
            assert (done.status, done.stdout) == (1, "")
            assert f"no port left: looked for a port for TCP in {r.port} (--range)" in done.stderr
            assert f"pid {os.getpid()} (" in done.stderr
            assert "or allow more ports (--range)" in done.stderr


def test_outside_of_the_ephemeral_range(cli: Cli, free: list[int]) -> None:
    for port in cli.run("reserve", "-n50", "--outside-ephemeral").ports:
        assert port not in ephemeral_range()
    span = f"{free[0]}-{free[-1]}"
    done = cli.run("reserve", "--outside-ephemeral", "--range", span)
    assert set(done.ports) <= {*free}
    inside = ephemeral_range().start
    done = cli.run("reserve", "--outside-ephemeral", "--range", f"{inside}-{inside + 9}")
    assert done.status == 1
    assert "(--range) and outside of the ephemeral port range" in done.stderr
    assert "or leave out --outside-ephemeral" in done.stderr


def test_one_port_for_two_protocols(cli: Cli, free: list[int]) -> None:
    port = free[0]
    done = cli.run("run", "-p", "TCP", "--udp", "QUIC", "--port", str(port), "--", "true")
    assert reported(done.stderr) == {"TCP": port, "QUIC": port}


def test_the_fixed_mode_has_its_own_ranges(cli: Cli) -> None:
    fixed = ["reserve", "--mode", "fixed"]
    assert cli.run(*fixed, "--port", "13050").ports == [13050]
    assert cli.run(*fixed, "--offsets", "0,50", "--multiple-of", "10").ports[0] % 10 == 0
    done = cli.run(*fixed, "--port", "13050,9001", "-n2")
    assert done.status == 1
    assert "port 9001 is outside the range 13000-13099" in done.stderr
    assert cli.run(*fixed, "-n2", "--range", "13098-20000").ports == [13098, 13099]
    done = cli.run(*fixed, "--range", "20000-20099")
    assert done.status == 1
    assert "13000-13099 of worker 'master' and in 20000-20099 (--range): no port is" in done.stderr
    done = cli.run(*fixed, "--offsets", "0,10000")
    assert done.status == 1
    assert "13000-13099 of worker 'master', which has only 100 ports" in done.stderr
    assert list((cli.folder / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "80a"], "argument --port: '80a' is no port: ports are 1 to 65535 (0: any)"),
        (["--port", ""], "argument --port: '' has an empty item"),
        (["--port", "8080,,1"], "argument --port: '8080,,1' has an empty item"),
        (["--port", "8000-"], "argument --port: '8000-' is no port"),
        (["--port", "8010-8000"], "argument --port: 8010-8000 ends before it begins"),
        (["--port", "0-10"], "argument --port: '0' is no port"),
        (["--port", "65536"], "argument --port: '65536' is no port"),
        (["--port=-1"], "argument --port: '-1' is no port"),
        (["--port", "8_080"], "argument --port: '8_080' is no port"),
        (["--port", "٨٠٨٠"], "argument --port: '٨٠٨٠' is no port"),
        (["--port", "9" * 5000], "argument --port: '999"),
        (["--port", "0,8080"], "0 means any port, so it can only be the last of --port"),
        (["--port", "0", "--port", "8080"], "so it can only be the last of --port"),
        (["--exclude", "0"], "argument --exclude: '0' is no port: ports are 1 to 65535;"),
        (["--range", "0-9"], "argument --range: '0' is no port: ports are 1 to 65535;"),
        (["--range", "x"], "argument --range: 'x' is no port"),
        (["--range", "9-8"], "argument --range: 9-8 ends before it begins"),
        (["--range", "8000-8009", "--port", "9"], "9 is requested, but --range does not have it"),
        (["--exclude", "x"], "argument --exclude: 'x' is no port"),
        (["--port", "8080", "--exclude", "8080"], "port 8080 is requested and excluded at once"),
        (["--offsets", "1,2"], "--offsets must contain 0, the first port itself"),
        (["--offsets", "0,x"], "argument --offsets: 'x' is no distance, such as 10000"),
        (["--offsets", "0,65536"], "--offsets takes distances below 65536"),
        (["--offsets", "0,5,5"], "--offsets has 5 twice"),
        (["--multiple-of", "0"], "--multiple-of takes an int from 1"),
        (["--multiple-of", "x"], "argument --multiple-of: invalid int value: 'x'"),
    ],
)
@pytest.mark.parametrize("command", ["reserve", "run"])
def test_what_makes_no_sense(cli: Cli, command: str, options: list[str], words: str) -> None:
    names = ["-p", "A", "-p", "B", "-p", "C", "--", "true"] if "--offsets" in options else []
    behind = names if command == "run" else []
    done = cli.run(command, *options, *(behind or (["--", "true"] if command == "run" else [])))
    assert (done.status, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("reserve -n 2 --port 8080", "pass --contiguous for a row"),
        ("reserve -n 2 --port 8080", "name several (--port 8080,8081), or"),
        ("reserve -n 2 --port 8080 --for 1", "one port cannot serve 2 reservations"),
        ("reserve -n 2 --port 65535", "name several (--port 65534,65535), or"),
        ("reserve -n 2 --multiple-of 2", "pass --offsets or --contiguous as well"),
        ("reserve -n 3 --offsets 0,1", "--offsets has 2 ports, but 3 are asked for"),
        ("reserve --contiguous --offsets 0,1", "--contiguous and --offsets both say"),
        ("reserve --port 8081 --multiple-of 2 --contiguous", "8081 is requested, but is no"),
        ("run --offsets 0,1 -- true", "--offsets has 2 ports, but 1 is asked for"),
        ("run -p A -p B --port 8080 -- true", "one port cannot serve 2 reservations"),
        ("run -p A --both B --port 8080 -- true", "one port cannot serve 2 reservations"),
    ],
)
def test_what_does_not_go_together(cli: Cli, command: str, words: str) -> None:
    done = cli.run(*command.split())
    assert (done.status, done.stdout) == (2, "")
    assert words in done.stderr


def test_the_help_has_examples_that_work(cli: Cli) -> None:
    text = cli.run("reserve", "--help").stdout
    examples = re.findall(r"^  ephemport (reserve (?!--port 8080|--on ).*?)(?:   .*)?$", text, re.M)
    assert any("--offsets 0,10000" in example for example in examples)
    for example in examples:
        done = cli.run(*example.split())
        assert (done.status, done.stderr) == (0, ""), example
        assert done.ports
    text = cli.run("run", "--help").stdout
    for option in (
        "--port",
        "--exclude",
        "--range",
        "--outside-ephemeral",
        "--contiguous",
        "--offsets",
        "--multiple-of",
    ):
        assert option in text


def test_a_node_of_a_redis_cluster(cli: Cli, tmp_path: Path) -> None:
    redis = _redis_or_skip()
    process = cli.start(
        *("run", "-p", "PORT", "-p", "BUS", "--offsets", "0,10000", "--wait-listening", "20"),
        *("--", redis, "--cluster-enabled", "yes", "--dir", str(tmp_path), "--save", ""),
        *("--port", "{PORT}"),
    )
    assert process.stderr is not None
    ports = reported(process.stderr.readline())
    said = process.stderr.readline() + process.stderr.readline()
    # It names itself anew when it is up.
    assert len(re.findall(r"pid \d+ \('?\S*redis-server ", said)) == said.count(" listens on ") == 2
    with socket.create_connection(("127.0.0.1", ports["PORT"])) as client:
        client.sendall(b"CLUSTER MYID\r\n")
        assert client.recv(1) == b"$"
    assert ports["BUS"] == ports["PORT"] + 10000
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_node_whose_bus_is_taken_is_never_started() -> None:
    with ExitStack() as stack:
        bus = stack.enter_context(reserve(port=range(50000, 60000)))
        group = stack.enter_context(reserve_many(offsets=[0, 10000], port=[bus.port - 10000, 0]))
        assert group.ports[0] != bus.port - 10000


def _redis_or_skip() -> str:
    from shutil import which

    found = which("redis-server")
    if found is None:
        pytest.skip("no redis-server here")
    return found

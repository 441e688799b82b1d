"""`ephemport run`: names, arguments, environment, status."""

import json
import socket
import sys
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import urlopen

import pytest

import ephemport.cli
from tests.cli.conftest import Cli, line, reported

# Says what it was given.
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
SHOW_IT = ("--", sys.executable, "-c", SHOW)


def shown(stdout: str) -> tuple[list[str], dict[str, str]]:
    arguments, environment = json.loads(stdout)
    return arguments, environment


def test_ports_in_arguments_and_environment(cli: Cli) -> None:
    done = cli.run("run", "-p", "HTTP", "-p", "GRPC", *SHOW_IT, "--http", "{HTTP}", "[::1]:{GRPC}")
    assert done.status == 0
    ports = reported(done.stderr)
    assert list(ports) == ["HTTP", "GRPC"]
    assert ports["HTTP"] != ports["GRPC"]
    arguments, environment = shown(done.stdout)
    assert arguments == ["--http", str(ports["HTTP"]), f"[::1]:{ports['GRPC']}"]
    assert environment["HTTP"] == str(ports["HTTP"])
    assert environment["GRPC"] == str(ports["GRPC"])
    assert "PORT" not in environment


def test_without_a_name_it_is_port(cli: Cli) -> None:
    done = cli.run("run", *SHOW_IT, "{PORT}", env={"PORT": "80", "OTHER": "kept"})
    arguments, environment = shown(done.stdout)
    assert reported(done.stderr) == {"PORT": int(arguments[0])}
    assert (environment["PORT"], environment["OTHER"]) == (arguments[0], "kept")


def test_braces(cli: Cli) -> None:
    literal = ["{{PORT}}", "{{}}", '{{"port": {PORT}}}', "${PORT}", "$PORT", "${X:-1}", "a{PORT}b"]
    done = cli.run("run", "-q", *SHOW_IT, *literal)
    arguments, environment = shown(done.stdout)
    port = environment["PORT"]
    assert arguments == [
        *("{PORT}", "{}", f'{{"port": {port}}}', "${PORT}", "$PORT", "${X:-1}", f"a{port}b")
    ]


def test_the_shells_own_names_are_left_to_it(cli: Cli) -> None:
    done = cli.run("run", "-q", "--", "sh", "-c", 'test "${PORT}" = {PORT} && echo "$PORT"')
    assert done.status == 0
    assert 0 < int(done.stdout) < 65536


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("{HTPP}", "unknown name {HTPP} in '{HTPP}': known are {HTTP}"),
        ("x{HTTP", "a single '{' in 'x{HTTP'"),
        ("HTTP}", "a single '}' in 'HTTP}'"),
        ("{}", "a single '{'"),
        ("{0}", "a single '{'"),
    ],
)
def test_an_argument_that_cannot_be_filled(cli: Cli, argument: str, expected: str) -> None:
    done = cli.run("run", "-p", "HTTP", "--", "touch", "was-run", argument)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ephemport: {expected}")
    assert len(done.stderr.splitlines()) == 1
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-p", "HTTP"], "no command given"),
        (["-p", "HTTP", "--"], "no command given"),
        (["-p", "9001", "--", "touch", "was-run"], "'9001' is no name of an environment variable"),
        (["-p", "A-B", "--", "touch", "was-run"], "'A-B' is no name"),
        (["-p", "", "--", "touch", "was-run"], "'' is no name"),
        (["-p", "GRÖSSE", "--", "touch", "was-run"], "'GRÖSSE' is no name"),
        (["-p", "A", "--udp", "A", "--", "touch", "was-run"], "a name is given twice: A A"),
        (["-p", "PATH", "--", "touch", "was-run"], "PATH is read by programs for something else"),
        (["--udp", "HOME", "--", "touch", "was-run"], "-p PORT -- env HOME={PORT} COMMAND"),
        (["--both", "LD_PRELOAD", "--", "touch", "was-run"], "LD_PRELOAD is read"),
        (["--mode", "fxed", "--", "touch", "was-run"], "unknown mode 'fxed'"),
        (["--host", "192.0.2.1", "--", "touch", "was-run"], "host '192.0.2.1' is no address"),
        (["--no-such-option", "--", "touch", "was-run"], "--no-such-option"),
    ],
)
def test_bad_usage_runs_nothing(cli: Cli, arguments: list[str], expected: str) -> None:
    done = cli.run("run", *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(cli.folder.iterdir()) == []


def test_a_second_double_dash_is_the_commands(cli: Cli) -> None:
    done = cli.run("run", "-q", *SHOW_IT, "--", "-p", "{PORT}", "--help", "-q")
    arguments, environment = shown(done.stdout)
    assert arguments == ["--", "-p", environment["PORT"], "--help", "-q"]


def test_quiet(cli: Cli) -> None:
    assert cli.run("run", "-q", "--", "true") == (0, "", "")
    assert cli.run("run", "--quiet", "--", "true") == (0, "", "")


def test_an_http_server_answers(cli: Cli) -> None:
    (cli.folder / "page").write_text("hello")
    process = cli.start(
        *("run", "-p", "WEB", "--", sys.executable, "-u", "-m", "http.server", "{WEB}"),
    )
    assert process.stderr
    port = reported(process.stderr.readline())["WEB"]
    assert line(process).startswith(f"Serving HTTP on 0.0.0.0 port {port} ")
    with urlopen(f"http://127.0.0.1:{port}/page", timeout=30) as answer:
        assert answer.read() == b"hello"
    process.terminate()
    assert process.wait(30) == 128 + 15


@pytest.mark.parametrize("status", [0, 1, 3, 42, 126, 127, 255])
def test_the_status_is_the_commands(cli: Cli, status: int) -> None:
    assert cli.run("run", "-q", "--", "sh", "-c", f"exit {status}") == (status, "", "")


@pytest.mark.parametrize("number", [1, 9, 11, 13, 15])
def test_the_status_of_a_command_that_a_signal_ended(cli: Cli, number: int) -> None:
    code = (
        f"import os, signal; signal.signal({number}, signal.SIG_DFL)"
        if number != 9
        else "import os"
    )
    done = cli.run(
        "run", "-q", "--", sys.executable, "-c", f"{code}; os.kill(os.getpid(), {number})"
    )
    assert done == (128 + number, "", "")


def test_a_command_that_is_not_found(cli: Cli) -> None:
    done = cli.run("run", "-q", "--", "no-such-command-anywhere")
    assert done == (127, "", "ephemport: command not found: no-such-command-anywhere\n")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_command_that_cannot_be_executed(cli: Cli, what: str) -> None:
    path = cli.folder / "it"
    if what == "file":
        path.write_text("#!/bin/sh\n")
    else:
        path.mkdir()
    done = cli.run("run", "-q", "--", str(path))
    assert done == (126, "", f"ephemport: cannot execute {path}: Permission denied\n")


def test_standard_streams_are_the_commands(cli: Cli) -> None:
    done = cli.run("run", "-q", "--", "sh", "-c", "cat; echo err >&2", input="in\n")
    assert done == (0, "in\n", "err\n")


def test_fixed_mode(cli: Cli) -> None:
    for option, environment in ([], "fixed"), (["--mode", "fixed"], "ephemeral"):
        done = cli.run("run", *option, "-q", *SHOW_IT, env={"EPHEMPORT_MODE": environment})
        assert int(shown(done.stdout)[1]["PORT"]) in range(13000, 13100)
    assert list((cli.folder / "locks").iterdir()) == []


def test_a_bad_mode_in_the_environment(cli: Cli) -> None:
    done = cli.run("run", "--", "touch", "was-run", env={"EPHEMPORT_MODE": "fxed"})
    assert (done.status, done.stdout) == (2, "")
    assert "unknown mode 'fxed' (from the environment's EPHEMPORT_MODE)" in done.stderr
    assert list(cli.folder.iterdir()) == []
    done = cli.run("run", "-q", "--mode=ephemeral", "--", "true", env={"EPHEMPORT_MODE": "fxed"})
    assert done == (0, "", "")


@pytest.mark.parametrize(
    ("option", "host", "kinds"),
    [
        ("--udp", "127.0.0.1", [socket.SOCK_DGRAM]),
        ("--udp", "::1", [socket.SOCK_DGRAM]),
        ("--both", "127.0.0.1", [socket.SOCK_STREAM, socket.SOCK_DGRAM]),
    ],
)
def test_udp_servers_bind_a_shadowed_port(
    cli: Cli, tmp_path: Path, option: str, host: str, kinds: list[socket.SocketKind]
) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        """
import socket, sys
host, port, kinds = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
servers = []
for kind in map(int, kinds):
    server = socket.socket(family, kind)
    if kind == socket.SOCK_STREAM:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    if kind == socket.SOCK_STREAM:
        server.listen()
    servers.append(server)
print(port, flush=True)
for server in servers:
    if server.type == socket.SOCK_DGRAM:
        data, client = server.recvfrom(100)
        server.sendto(data.upper(), client)
    else:
        client, _ = server.accept()
        client.sendall(b"tcp")
"""
    )
    kind_numbers = [str(int(kind)) for kind in kinds]
    process = cli.start(
        *("run", "-q", option, "DNS", "--host", host, "--"),
        *(sys.executable, str(script), host, "{DNS}", *kind_numbers),
    )
    port = int(line(process) or 0)
    assert port, process.communicate()[1]
    for kind in kinds:
        if kind == socket.SOCK_STREAM:
            with socket.create_connection((host, port), timeout=30) as client:
                assert client.recv(100) == b"tcp"
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, kind) as client:
                client.settimeout(30)
                client.sendto(b"udp", (host, port))
                assert client.recv(100) == b"UDP"
    assert process.wait(30) == 0


def test_help_has_an_example(cli: Cli) -> None:
    for arguments, example in (
        (["--help"], "ephemport run -p PORT -- python -m http.server {PORT}"),
        (["run", "--help"], "ephemport run -p HTTP -p GRPC -- server"),
        (["reserve", "--help"], "PORT=$(ephemport reserve --for $$)"),
    ):
        done = cli.run(*arguments)
        assert done.status == 0
        assert example in done.stdout
        assert done.stderr == ""


def test_without_a_subcommand(cli: Cli) -> None:
    done = cli.run()
    assert (done.status, done.stdout) == (2, "")
    assert "COMMAND" in done.stderr


def test_the_installed_command_is_the_module() -> None:
    (script,) = entry_points(group="console_scripts", name="ephemport")
    assert script.load() is ephemport.cli.main


def test_the_version(cli: Cli) -> None:
    assert cli.run("--version") == (0, f"ephemport {ephemport.__version__}\n", "")

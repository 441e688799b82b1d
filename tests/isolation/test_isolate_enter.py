"""The network inside: the loopback, the machine's own addresses and settings, no other host."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ephemport._isolating import wrapper
from tests.conftest import InNamespace, run_python

pytestmark = pytest.mark.usefixtures("isolation")

REPORT = """
import json, os, socket, sys

def usable(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 9001), family=family) as server:
        with socket.create_connection((address, 9001)) as client:
            return True

def unreachable(address):
    try:
        socket.create_connection((address, 9001)).close()
    except OSError as error:
        return error.errno
    return 0

settings = [open(f"/proc/sys/net/{name}").read().split() for name in json.loads(sys.argv[2])]
print(json.dumps({
    "usable": [usable(one) for one in json.loads(sys.argv[1])],
    "elsewhere": unreachable("192.0.2.77"),
    "settings": settings,
    "network": os.readlink("/proc/self/ns/net"),
}))
"""


def own_addresses() -> list[str]:
    listed = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    return ["127.0.0.1", "127.0.0.9", "::1", *listed]


def test_what_is_inside() -> None:
    settings = ["ipv4/ip_local_port_range", "ipv4/ip_unprivileged_port_start", "core/somaxconn"]
    addresses = own_addresses()
    done = subprocess.run(
        [
            *wrapper.wrapper(),
            sys.executable,
            "-c",
            REPORT,
            *map(json.dumps, (addresses, settings)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["usable"] == [True] * len(addresses)
    assert report["elsewhere"] != 0
    assert report["settings"] == [Path("/proc/sys/net", x).read_text().split() for x in settings]
    assert report["network"] != os.readlink("/proc/self/ns/net")


def test_settings_of_the_network_outside_are_kept(in_namespace: InNamespace) -> None:
    source = """
import subprocess, sys
from ephemport._isolating import enter, networks, wrapper
sys.stdout.flush()
subprocess.run([*wrapper.wrapper(), "cat", "/proc/sys/net/ipv4/ip_local_port_range",
                "/proc/sys/net/ipv4/ip_unprivileged_port_start"], check=True)
"""
    said = in_namespace(source, settings={"ipv4/ip_unprivileged_port_start": "0"})
    assert re.findall(r"\d+", said) == ["40000", "40063", "0"]


def test_the_wrapper_becomes_the_program() -> None:
    source = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    process = subprocess.Popen(
        [*wrapper.wrapper(), sys.executable, "-c", source, "--", "-x", ""],
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    assert output == f"{process.pid} ['--', '-x', '']\n"
    assert process.returncode == 7


def test_open_sockets_stay_outside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = run_python(
            f"""
import socket
from ephemport._isolating import enter, networks, wrapper
outside = socket.create_connection(("127.0.0.1", {port}))
before = networks.network_of()
enter.enter()
assert networks.network_of() != before
outside.sendall(b"still here")
socket.create_server(("127.0.0.1", {port})).close()
"""
        )
        assert said.returncode == 0, said.stderr
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"still here"

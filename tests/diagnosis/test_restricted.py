"""Where the kernel shows less: the answer has what can be seen, and names what cannot."""

import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import InNamespace, run_python

needs_filter = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="system call numbers"
)

REFUSE = """
import errno, os, socket, sys, json
from tests.sandbox.refusing import call_named, refuse
from tests.diagnosis.strangers import command, json_of
"""


@needs_filter
def test_without_netlink() -> None:
    done = run_python(
        REFUSE
        + """
from ephemport import reserve
refuse(call_named("AF_NETLINK"), error=errno.EAFNOSUPPORT)
with socket.create_server(("127.0.0.1", 0)) as server:
    (answer,) = json_of("who", str(server.getsockname()[1]))
    (found,) = answer["found"]
    assert (found["state"], found["pid"]) == ("listens", os.getpid())
    assert not answer["free"]
    assert "netlink (sock_diag) is refused" in answer["unseen"][0]
with reserve() as held:
    (answer,) = json_of("who", str(held.port))
    assert answer["found"] == []
    assert not answer["free"]  # found by trying
    assert "the kernel does not show who has it" in answer["meaning"]
    status, out, _ = command("who", str(held.port))
    assert status == 1
    assert "not seen: TCP sockets that are bound and do not listen" in out
    status, out, _ = command("ls")
    assert status == 0
    assert "not seen" in out
checks = {one["name"].partition(" (")[0]: one for one in json_of("doctor")["checks"]}
assert checks["seeing holders"]["state"] == "NO"
assert checks["seeing listeners"]["state"] == "note"
assert checks["self-test"]["state"] == "ok"
assert command("doctor")[0] == 1
"""
    )
    assert done.returncode == 0, done.stderr


@needs_filter
def test_without_ipv6(in_namespace: InNamespace) -> None:
    in_namespace(
        REFUSE
        + """
refuse(call_named("AF_INET6"), error=errno.EAFNOSUPPORT)
from ephemport import reserve
from ephemport._kernel.sockets import can_see_bound_inactive
from ephemport._looking.diagnosis import diagnose
with reserve() as held:
    answer = diagnose(held, "tcp")
    assert answer.meaning.startswith("a server that sets SO_REUSEADDR or SO_REUSEPORT can bind it; "
                                     "one that sets neither cannot")
    if can_see_bound_inactive():
        (found,) = answer.found
        assert (found.address, found.ephemport, found.hold) == ("0.0.0.0", True, "open")
        (listed,) = json_of("ls")
        assert (listed["port"], listed["state"]) == (held.port, "held")
assert diagnose(held.port).free
checks = {one["name"]: one for one in json_of("doctor")["checks"]}
assert checks["IPv6"]["state"] == "note"
assert checks["self-test"]["state"] == "ok"
"""
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_without_proc(tmp_path: Any) -> None:
    """In a directory that has nothing: netlink answers, no process has a name."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").touch()
    done = run_python(
        """
import os, sys, json, socket, encodings.idna, pwd, ctypes
from tests.diagnosis.strangers import command, json_of
import ephemport._kernel.libc
command("ls"); json_of("who", "1")
os.chroot(sys.argv[1])
os.chdir("/")
with socket.create_server(("127.0.0.1", 0)) as server:
    (answer,) = json_of("who", str(server.getsockname()[1]))
    (found,) = answer["found"]
    assert (found["state"], found["pid"], found["uid"]) == ("listens", None, 0)
    assert "/proc is not mounted: no process can be named" in answer["unseen"]
    assert command("ls", "--all")[0] == 0
""",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_with_hidden_processes(tmp_path: Any) -> None:
    """/proc mounted with hidepid=2, in a mount namespace of its own."""
    folder = tmp_path / "proc"
    folder.mkdir()
    mount = ["mount", "-t", "proc", "-o", "hidepid=2", "proc", str(folder)]
    if subprocess.run(["unshare", "--mount", *mount], capture_output=True).returncode != 0:
        pytest.skip("no mount namespace here")
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc; exec "$@"'),
            *("sh", sys.executable, "-c", HIDDEN),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


HIDDEN = """
import os, socket, encodings.idna, pwd, ctypes
from tests.core.helpers import become_nobody
from tests.diagnosis.strangers import command, json_of
import ephemport._kernel.libc
command("ls"); json_of("who", "1")
server = socket.create_server(("127.0.0.1", 0))
become_nobody()
(answer,) = json_of("who", str(server.getsockname()[1]))
(found,) = answer["found"]
assert found["state"] == "listens"
assert "/proc hides the processes of other users" in " ".join(answer["unseen"]), answer
"""

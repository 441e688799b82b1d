"""What `ephemport doctor` promises, on machines of every kind."""

import os
import shutil
import socket
import subprocess
import sys
from typing import Any

import pytest

from ephemport._kernel.sockets import can_see_bound_inactive
from tests.conftest import InNamespace
from tests.diagnosis.strangers import command, json_of


def _checks() -> dict[str, Any]:
    return {one["name"].partition(" (")[0]: one for one in json_of("doctor")["checks"]}


def test_every_line_is_there(in_namespace: InNamespace) -> None:
    in_namespace(_every_line)


def _every_line() -> None:
    status, out, _ = command("doctor")
    checks = _checks()
    assert list(checks) == [
        "self-test",
        "ephemeral port range",
        "ip_local_reserved_ports",
        "ip_autobind_reuse",
        "IPv4",
        "IPv6",
        "file descriptors",
        "seeing listeners",
        "seeing holders",
        "seeing processes",
        "pidfd",
        "activation",
        "sharing",
        "assisted take-over",
        "isolation",
        "files",
        "portserver",
        "other packages that hand out unheld ports",
    ]
    assert checks["self-test"]["state"] == "ok"
    assert checks["ephemeral port range"]["state"] == "note"  # 64 ports
    assert "40000-40063, 64 ports" in checks["ephemeral port range"]["reason"]
    broken = [one for one in checks.values() if one["state"] == "NO"]
    assert status == bool(broken)
    assert out.count("\nNO ") + out.startswith("NO ") == len(broken)
    assert all(one["remedy"] for one in checks.values() if one["state"] == "NO")


@pytest.mark.parametrize(
    ("name", "value", "check", "state", "reason"),
    [
        ("ipv4/ip_autobind_reuse", "1", "ip_autobind_reuse", "NO", "1: bind() to port 0"),
        (
            "ipv4/ip_local_reserved_ports",
            "40000-40009,9000",
            "ip_local_reserved_ports",
            "ok",
            "11 ports, 10 of them in",
        ),
        ("ipv6/conf/lo/disable_ipv6", "1", "IPv6", "note", "no ::1"),
    ],
)
def test_settings(
    in_namespace: InNamespace, name: str, value: str, check: str, state: str, reason: str
) -> None:
    in_namespace(_setting, check, state, reason, settings={name: value})


def _setting(check: str, state: str, reason: str) -> None:
    found = _checks()[check]
    assert found["state"] == state
    assert reason in found["reason"]
    assert command("doctor")[0] == (state == "NO" or not can_see_bound_inactive())


def test_a_full_range(in_namespace: InNamespace) -> None:
    in_namespace(_full, ports=(40000, 40001))


def _full() -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("", 40000))
        second.bind(("", 40001))
        checks = _checks()
        if can_see_bound_inactive():
            assert checks["ephemeral port range"]["state"] == "NO"
        assert checks["self-test"]["state"] == "NO"
        assert "no port left" in checks["self-test"]["reason"]
        assert command("doctor")[0] == 1


def test_a_portserver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSERVER_ADDRESS", "@ephemport-no-such-portserver")
    check = _checks()["portserver"]
    assert check["state"] == "NO"
    assert check["remedy"]
    assert command("doctor")[0] == 1


def test_the_self_test_finds_a_promise_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from ephemport.cli import checks

    def gets_it(port: int) -> dict[str, int]:
        return {"127.0.0.1 None": 0, "127.0.0.1 SO_REUSEADDR": 0}

    monkeypatch.setattr(checks, "_neighbour", gets_it)
    check = _checks()["self-test"]
    assert check["state"] == "NO"
    assert "a neighbour process got port" in check["reason"]


def test_no_isolation_is_said(in_namespace: InNamespace) -> None:
    if not shutil.which("setpriv") or os.getuid() != 0:
        pytest.skip("needs root and setpriv")
    # Without capabilities, and where user namespaces are refused.
    in_namespace(_no_isolation)


def _no_isolation() -> None:
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"),
            *(sys.executable, "-c", "from ephemport.cli import main; main(['doctor'])"),
        ],
        capture_output=True,
        text=True,
    )
    assert "isolation (network namespaces)" in done.stdout, done.stderr

"""Kernels before 6.8 show no TCP socket that is bound and does not listen: every answer says so."""

import socket
from typing import Any

import pytest

from ephemport import PortsExhausted, diagnose, holders, reserve, reserve_many
from ephemport._findings import HOLDERS_UNSEEN
from tests.abilities import Ability, without
from tests.conftest import InNamespace
from tests.core.helpers import bound
from tests.diagnosis.strangers import command, json_of

pytestmark = without(Ability.SHOWS_BOUND)


def _says_why(text: str) -> bool:
    return f"{HOLDERS_UNSEEN}: Linux" in text and "Linux 6.8 does" in text


def test_ls(in_namespace: InNamespace) -> None:
    in_namespace(_ls)


def _ls() -> None:
    with reserve(), reserve(protocol="udp") as udp:
        _, out, _ = command("ls")
        assert _says_why(out)
        assert str(udp.port) in out
        _, out, err = command("ls", "--json")
        assert '"tcp"' not in out
        assert _says_why(err)
    assert command("ls")[1].startswith("no held port is seen\n")


def test_who(in_namespace: InNamespace) -> None:
    in_namespace(_who)


def _who() -> None:
    with reserve() as r:
        status, out, _ = command("who", f"{r.port}/tcp")
        assert status == 1
        assert "is taken" in out
        assert _says_why(out)
        (answer,) = json_of("who", f"{r.port}/tcp")
        assert _says_why(answer["unseen"][0])
        assert "the kernel does not show who has it" in answer["meaning"]
        with socket.create_server(r.address):
            assert diagnose(r.port, "tcp").found[0].state == "listens"
    status, out, _ = command("who", f"{r.port}/tcp")
    assert status == 0
    assert "any server can bind it" in out


def test_doctor(in_namespace: InNamespace) -> None:
    in_namespace(_doctor)


def _doctor() -> None:
    checks: dict[str, Any] = {one["name"]: one for one in json_of("doctor")["checks"]}
    assert checks["seeing holders"]["state"] == "NO"
    assert "Ports are held all the same" in checks["seeing holders"]["reason"]
    assert "at least 0 (tcp) and 0 (udp)" in checks["ephemeral port range"]["reason"]
    assert checks["self-test"]["state"] == "ok"


def test_holders_has_those_of_udp_only() -> None:
    with reserve(protocol="both") as r:
        assert [one.protocol for one in holders(r)] == ["udp"]


def test_what_is_counted_is_a_least(in_namespace: InNamespace) -> None:
    in_namespace(_counted)


def _counted() -> None:
    with bound(40000), pytest.raises(PortsExhausted) as caught:
        reserve_many(64, contiguous=True)
    text = str(caught.value)
    assert "at least 0 of its 64 ports are in use (tcp)" in text
    assert "the longest row left has at most 64" in text
    assert _says_why(text)

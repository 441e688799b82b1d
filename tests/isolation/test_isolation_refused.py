"""Where isolation is refused: one line before the first test, or a warning."""

import errno
import os
import sys

import pytest

from ephemport import EphemportError
from ephemport._isolating import enter, wrapper
from tests.isolation.conftest import NO_MORE_NETWORKS, Suite


@pytest.fixture
def refusing(suite: Suite) -> Suite:
    suite.file("conftest.py", "X = 1")
    suite.file("test_it.py", "import pathlib\ndef test_it(): pathlib.Path('ran').touch()")
    return suite


@pytest.mark.parametrize("arguments", [["-n", "2"], []])
def test_the_run_stops(refusing: Suite, arguments: list[str]) -> None:
    run = refusing.run("--ephemport-isolate", *arguments, prefix=NO_MORE_NETWORKS)
    run.refused(os.strerror(errno.ENOSPC), "sysctl -w user.max_user_namespaces", "=auto")
    assert not (refusing.folder / "ran").exists()


@pytest.mark.parametrize("arguments", [["-n", "2"], []])
def test_auto_goes_on_and_says_so(refusing: Suite, arguments: list[str]) -> None:
    refusing.file("pytest.ini", "")
    run = refusing.run("--ephemport-isolate=auto", *arguments, prefix=NO_MORE_NETWORKS)
    assert run.status == 0
    assert run.outcomes == {"passed": 1, "warning": 1}, run.output
    assert "ephemport: NOT isolated: " in run.output
    assert "NotIsolatedWarning" in run.output
    refusing.run(
        "--ephemport-isolate=auto", "-W", "error", *arguments, prefix=NO_MORE_NETWORKS
    ).passed(1)


def test_workers_of_other_hosts(refusing: Suite) -> None:
    run = refusing.run("--ephemport-isolate", "--dist=load", "--tx=popen", "--tx=ssh=elsewhere")
    run.refused("ssh=elsewhere", "on this machine (popen), and only such workers")


def test_loop_on_fail(refusing: Suite) -> None:
    refusing.run("--ephemport-isolate", "--looponfail").refused("--looponfail")


def test_unknown_wish(refusing: Suite) -> None:
    run = refusing.run("--ephemport-isolate=perhaps")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "--ephemport-isolate" in run.output


@pytest.mark.parametrize(
    ("number", "setting", "value", "expected"),
    [
        (errno.EPERM, "kernel/unprivileged_userns_clone", "0", "userns_clone=1"),
        (errno.EACCES, "kernel/apparmor_restrict_unprivileged_userns", "1", "_userns=0"),
        (errno.EPERM, "none", "", "seccomp=unconfined"),
        (errno.ENOSPC, "none", "", "user.max_net_namespaces=10000"),
    ],
)
def test_what_would_allow_it(
    monkeypatch: pytest.MonkeyPatch, number: int, setting: str, value: str, expected: str
) -> None:
    def refuse() -> None:
        raise OSError(number, "unshare(): no")

    def setting_of(path: str) -> str | None:
        return value if path == f"/proc/sys/{setting}" else None

    monkeypatch.setattr(enter, "enter_new_network", refuse)
    monkeypatch.setattr(enter, "setting", setting_of)
    with pytest.raises(EphemportError) as caught:
        enter.enter()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    reason = wrapper.why_not()
    assert reason is not None
    assert "darwin" in reason
    with pytest.raises(EphemportError, match="darwin"):
        enter.enter()

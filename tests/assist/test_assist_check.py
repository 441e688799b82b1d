"""Whether assisted take-over works here, and how the error says that it does not."""

import os
import sys

import pytest

from ephemport._serving.assist import check_assist
from tests.assist.conftest import NewHold, Start

# As a container does it, which answers one system call with an error.
REFUSE = """
from tests.sandbox.refusing import call_named, refuse
refuse(call_named({call!r}), error={error})
"""

CHECK = """
import os, threading
from ephemport import EphemportError
from ephemport._serving.assist import check_assist, start_assisted
from tests.assist.conftest import NewHold, Start
before = len(os.listdir("/proc/self/fd"))
try:
    check_assist()
    print("yes")
except EphemportError as error:
    print(error)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print(len(os.listdir("/proc/self/fd")) - before, flush=True)
called = []
try:
    start_assisted(lambda: called.append(1), ())
    print("started", called)
except EphemportError as error:
    print("not started", called, flush=True)
"""


def test_it_can_be_had_here() -> None:
    check_assist()


def test_a_yes_costs_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    check_assist()
    monkeypatch.delattr(subprocess, "Popen")
    check_assist()


@pytest.mark.parametrize(
    ("call", "error", "expected", "then"),
    [
        ("seccomp", 1, "NEW_LISTENER): Operation not permitted (commonly", "not started []"),
        ("seccomp", 38, "NEW_LISTENER): Function not implemented (commonly", "not started []"),
        ("seccomp", 22, "NEW_LISTENER): Invalid argument (this kernel has no", "not started []"),
        ("pidfd_getfd", 1, "pidfd_getfd() on a child: Operation not permitted", "started [1]"),
        ("pidfd_getfd", 38, "pidfd_getfd() on a child: Function not", "started [1]"),
        ("pidfd_open", 1, "here: pidfd_open(): Operation not", "started [1]"),
        ("process_vm_readv", 1, "process_vm_readv() on a child: Operation not", "started [1]"),
    ],
)
def test_what_a_container_may_refuse(
    start_python: Start, call: str, error: int, expected: str, then: str
) -> None:
    server = start_python(REFUSE.format(call=call, error=error) + CHECK)
    message = server.line()
    assert message.startswith("assisted take-over does not work here: ")
    assert expected in message
    assert "handoff='shadow'" in message
    assert "activate=True" in message
    assert server.line() == "0"
    assert server.line() == then


def test_inside_of_another_assisted_start(start_python: Start, new_hold: NewHold) -> None:
    server = start_python(CHECK, [new_hold()])
    assert "this process is itself below a seccomp listener" in server.line()


@pytest.mark.parametrize(
    ("machine", "release", "expected"),
    [
        ("riscv64", "6.18.0", "this is riscv64"),
        ("i686", "6.18.0", "this is i686"),
        ("x86_64", "5.8.0-generic", "it needs Linux 5.9, this is 5.8.0-generic"),
        ("x86_64", "4.19", "it needs Linux 5.9, this is 4.19"),
    ],
)
def test_another_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, release: str, expected: str
) -> None:
    from ephemport import EphemportError

    check_assist.cache_clear()
    system = os.uname_result(("Linux", "here", release, "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: system)
    with pytest.raises(EphemportError, match=expected):
        check_assist()


def test_a_32_bit_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from ephemport import EphemportError

    check_assist.cache_clear()
    monkeypatch.setattr(sys, "maxsize", (1 << 31) - 1)
    with pytest.raises(EphemportError, match="64-bit"):
        check_assist()


@pytest.mark.parametrize("release", ["5.9.0", "6.1-rc3", "7.0.0-foo"])
def test_release_numbers(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    check_assist.cache_clear()
    system = os.uname_result(("Linux", "here", release, "#1", os.uname().machine))
    monkeypatch.setattr(os, "uname", lambda: system)
    check_assist()

"""Every way under every sandbox: it works, or its error says what is refused. See `conditions`."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.conftest import ROOT, WARNINGS_ARE_ERRORS
from tests.sandbox.conditions import (
    CONDITIONS,
    ISOLATE,
    NEEDED,
    OTHERWISE,
    REFUSALS,
    in_words,
)
from tests.sandbox.ways import WAYS, make_suite

# Not: what subprocess and threads of Python are made of (pipe2, dup2, wait4, kill, poll, vfork,
# clone3 unless with ENOSYS, rt_sigprocmask, getpid), getpgrp and getcwd (bash and importing), and
# accept4: adopt() then gives up only after 10 s.
SWEPT = (
    *("AF_INET6", "AF_NETLINK", "AF_UNIX", "F_DUPFD_CLOEXEC", "IPV6_V6ONLY", "MAP_SHARED"),
    *("P_PIDFD", "PIDFD_THREAD", "PR_SET_NO_NEW_PRIVS", "PR_SET_SECCOMP", "SO_COOKIE"),
    *("SO_DOMAIN", "SO_NETNS_COOKIE", "SO_PEERCRED", "SO_PROTOCOL", "SO_RCVBUF", "SO_TYPE"),
    *("clone with namespaces", "close_range", "connect", "dup", "dup3", "epoll_pwait"),
    *("eventfd2", "faccessat2", "flock", "getegid", "geteuid", "getpeername", "getppid"),
    *("getrandom", "getsockopt", "inotify_init1", "io_uring_setup", "kcmp", "madvise"),
    *("membarrier", "memfd_create", "mremap", "name_to_handle_at", "pidfd_getfd", "pidfd_open"),
    *("pidfd_send_signal", "prctl", "prlimit64", "process_vm_readv", "ptrace", "readlink"),
    *("readlinkat", "recvmsg", "renameat2", "rt_sigtimedwait", "sched_getaffinity"),
    *("sched_yield", "seccomp", "sendmsg", "sendto", "setns", "setsid", "shutdown"),
    *("sigaltstack", "signalfd4", "socketpair", "statx", "sysinfo", "tgkill", "timerfd_create"),
    *("uname", "unlink", "unshare", "waitid"),
)
SWEPT_WAYS = (
    *("reserve()", "the README's main example", "wait_listening(process=thread)"),
    *("ServerExited", "popen(activate=True)", "share()", "popen(assist=True)", "port_map"),
    *("ephemport run --wait-listening", "ephemport reserve --for", "ephemport who"),
    *("ephemport ls", "ephemport run --wait-listening, in vain"),
)


class Try(Protocol):
    def __call__(
        self, condition: str, error: int, ways: Iterable[str] = WAYS
    ) -> dict[str, Any]: ...


@contextmanager
def forks(
    folder: Path, wrap: Callable[[list[str]], list[str]] = lambda command: command
) -> Iterator[Try]:
    """A process that tries all ways under a condition; perhaps itself in a sandbox."""
    make_suite(folder)
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-m", "tests.sandbox.forks", str(folder)]
    with subprocess.Popen(
        wrap(command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run(condition: str, error: int, ways: Iterable[str] = WAYS) -> dict[str, Any]:
            stdin.write(json.dumps([condition, error, list(ways)]) + "\n")
            stdin.flush()
            outcome: dict[str, Any] = json.loads(stdout.readline())
            if "refused" in outcome:
                pytest.skip(outcome["refused"])
            return outcome

        yield run
        stdin.close()


@pytest.fixture(scope="module")
def try_ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Try]:
    """Try all ways under a condition, in forks of one process that lives as long as this module."""
    with forks(tmp_path_factory.mktemp("suite")) as run:
        yield run


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param(name, error, id=name if one.errors == OTHERWISE else f"{name} ({error})")
        for name, one in CONDITIONS.items()
        for error in one.errors
    ],
)
def test_it_works_or_says_what_is_refused(try_ways: Try, name: str, error: int) -> None:
    condition = CONDITIONS[name]
    refused, doctor = dict(condition.refused), dict(condition.doctor)
    if condition.roots_alone and os.geteuid() != 0:
        refused.pop(ISOLATE)
        doctor.pop("isolation")
    check(try_ways(name, error), refused, doctor, in_words(error))


def check(
    outcome: dict[str, Any],
    refused: Mapping[str, str],
    doctor: Mapping[str, tuple[str, str]],
    error: str,
) -> None:
    """Check that only the ways in `refused` fail, and that `doctor` says what it should."""
    wrong = []
    for way, (kind, text, _) in outcome.items():
        expected = refused.get(way)
        if expected is None:
            if kind != "works":
                wrong.append(f"{way} {kind}: {text}")
        elif kind != "named" or expected.format(error) not in text:
            wrong.append(f"{way} should say {expected.format(error)!r}, {kind}: {text}")
    checks = {
        one["name"].partition(" (")[0]: one
        for one in outcome["ephemport doctor"][2] or ()
        if one["name"] not in _OF_THIS_MACHINE
    }
    for name, (state, reason) in doctor.items():
        found = checks.pop(name, None)
        if found is None or found["state"] != state or reason.format(error) not in found["reason"]:
            wrong.append(f"doctor, {name}: should say {(state, reason)}, says {found}")
        elif state == "NO" and not found["remedy"] and "use " not in found["reason"]:
            wrong.append(f"doctor, {name}: says not what to do: {found}")
    wrong += [f"doctor, {one['name']}: {one['state']} {one['reason']}" for one in checks.values()]
    assert not wrong, "\n\n".join(wrong)


# What is installed beside ephemport is none of a sandbox.
_OF_THIS_MACHINE = ("other packages that hand out unheld ports",)


@pytest.mark.parametrize("call", SWEPT)
def test_whatever_is_refused_it_works_or_has_a_name(try_ways: Try, call: str) -> None:
    """One by one, every system call that the ways make and that Python itself can do without."""
    for error in REFUSALS:
        outcome = try_ways(call, error, SWEPT_WAYS)
        wrong = {way: one for way, one in outcome.items() if one[0] not in ("works", "named")}
        assert not wrong, in_words(error)


def test_where_no_hold_can_be_made_the_call_is_named(try_ways: Try) -> None:
    for call, error in itertools.product(NEEDED, REFUSALS):
        outcome = try_ways(call, error, ["reserve()", "reserve_many()", "ephemport run"])
        for kind, text, _ in outcome.values():
            assert kind == "named"
            assert f"{call.removeprefix('AF_')}" in text
            assert in_words(error) in text


def test_every_expectation_is_about_a_way() -> None:
    for condition in CONDITIONS.values():
        assert condition.refused.keys() <= WAYS.keys()


def test_the_page_has_the_table() -> None:
    from tests.sandbox.page import PAGE, filled

    text = PAGE.read_text(encoding="utf-8")
    assert text == filled(text), "run: python -m tests.sandbox.page"

"""Every option of every command, with good and bad values, and streams of every kind."""

import argparse
import ctypes
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ephemport.cli import _parser
from tests.fuzz.command import Ran, import_all, run
from tests.fuzz.conftest import Fuzz
from tests.fuzz.effort import examples
from tests.fuzz.watch import Watch

_PR_SET_CHILD_SUBREAPER = 36

words = st.sampled_from(["", "x", "-", "--", "-1", "{", "{PORT}", "\udc80", "ü", "9" * 5000, " "])
# Only Python has these. Who types a command is not helped by them.
_PYTHONS = re.compile(
    r"(?<![-\w])(?:timeout|lock_dir|handoff|port|exclude|range|outside_ephemeral|activate|assist|contiguous|process|count)=|"
    r"\b(?:popen|reserve|reserve_many|adopt|listen|setrlimit)\(|\bTraceback\b|Exception ignored"
)


def _numbers(*more: str) -> SearchStrategy[str]:
    odd = ["0", "-1", "1.5", "nan", "inf", "1e400", "0x10", "\u0661", "+1", "1_0", " 1", "²"]
    return st.sampled_from([*more * 4, *odd, str(2**40), str(10**30), "9" * 5000])


def _pids() -> SearchStrategy[str]:
    return st.one_of(_numbers("1", str(2**22 + 1), str(2**31)), st.builds(lambda: str(os.getpid())))


PROGRAMS = st.sampled_from(
    [
        ["true"],
        ["false"],
        ["sh", "-c", "exit 3"],
        ["sh", "-c", "kill -9 $$"],
        ["echo", "{PORT}", "{{}}"],
        ["nosuch"],
        ["/"],
        ["/dev/null"],
        [""],
        ["true", "{"],
        ["true", "{nosuch}"],
        ["true", "\udc80"],
        ["true", "--help"],
        ["-c"],
        [],
    ]
)
PORTS = st.sampled_from(
    [
        *["80", "40000", ":40000", "40000/udp", "40001/tcp", "localhost:40000", "[::1]:40000"] * 2,
        *["http://127.0.0.1:40000/x", "https://h", "ws://h", "tcp://:1", "udp://h:9"],
        *["0", "65536", "99999999", "٣٣", "x", "", " ", "/", "/udp", "1/tcp/udp", "h:", ":", "1.5"],
        *["http://", "http://[", "http://[::1", "://", "://:1", "nosuch://h", "h\udc80://x", "-1"],
        "http://h:" + "9" * 5000,
        "1" * 5000,
        "\udc80",
        "a" * 1000 + "://x",
    ]
)
# What every option and argument takes, by the name that argparse has for it. A flag takes nothing.
PORT_SPECS = st.sampled_from(
    [
        "40001",
        "40001,40002",
        "40000-40010",
        "40001,0",
        "0",
        "0,40001",
        "9-8",
        "-",
        "1-",
        "",
        ",",
        "x",
    ]
)
VALUES: dict[str, SearchStrategy[str]] = {
    "names": st.sampled_from(["PORT", "A", "_x", "PATH", "PORT", "1x", "a b", "ü", "", "LANG"]),
    "host": st.sampled_from(["127.0.0.1", "::", "::1", "localhost", "0.0.0.0", "192.0.2.1", ""]),
    "mode": st.sampled_from(["ephemeral", "fixed", "portserver", "portserver:@no", "fixed:x", ""]),
    "wanted": PORT_SPECS,
    "excluded": PORT_SPECS,
    "allowed": PORT_SPECS,
    "offsets": st.sampled_from(["0,10000", "0,1", "0", "1", "0,-1", "0,70000", "0,,1", "x", ""]),
    "multiple_of": _numbers("1", "2", "8", "0"),
    # No agent answers: that is tests/nodes.
    "on": st.sampled_from(["true", "false", "nosuch", "sh -c 'exit 3'", "'", " ", "/"]),
    "python": st.sampled_from(["python3", "nosuch", "", "\0"]),
    "lease": _numbers("1", "30"),
    "wait_listening": _numbers("0", "0.01"),
    "n": _numbers("1", "2", "128", "129"),
    "holder_for": _pids(),
    "protocol": st.sampled_from(["tcp", "udp", "both", "x"]),
    "handoff": st.sampled_from(["takeover", "shadow", "fd", "x"]),
    "style": st.sampled_from(["auto", "map", "fixtures", "x"]),
    "select": st.sampled_from(["EPH001", "EPH", "eph1,EPH2", "X", ",", ""]),
    "ignore": st.sampled_from(["EPH001", "EPH", "X", ""]),
    "exclude": st.sampled_from(["*", "tests/", "[", "!", "**", "\udc80", "", "/"]),
    "explain": st.sampled_from(["EPH001", "eph201", "X", "", "\udc80"]),
    "ports": PORTS,
    "paths": st.sampled_from(
        ["tests", ".", "tests/test_a.py", "nosuch", "", "fifo", "loop", "link", "bin.py", "\udc80"]
    ),
}
# Longer than a fuzzer has: one run of it is enough.
_SLOW = {"doctor"}


def _commands() -> dict[str, argparse.ArgumentParser]:
    (group,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(group.choices)


def _options_of(action: argparse.Action) -> SearchStrategy[list[str]]:
    names = st.sampled_from(action.option_strings)
    if action.nargs == 0:
        return names.map(lambda name: [name])
    values = st.one_of(*[VALUES[action.dest]] * 4, words)
    return st.one_of(
        st.tuples(names, values).map(list),
        st.tuples(names, values).map(lambda one: ["=".join(one)]),
        names.map(lambda name: [name]),
    )


def lines_of(command: str) -> SearchStrategy[list[str]]:
    """Command lines for a command: some of its options, in any order, and arguments."""
    actions = _commands()[command]._actions
    options = st.one_of(
        *(_options_of(one) for one in actions if one.option_strings and one.dest != "help"),
        words.map(lambda word: [word]),
    )
    some = st.lists(options, max_size=4).map(lambda parts: [*chain.from_iterable(parts)])
    if command == "run":
        behind = PROGRAMS.map(lambda program: ["--", *program])
    else:
        places = [one for one in actions if not one.option_strings]
        behind = st.lists(VALUES[places[0].dest], max_size=3) if places else st.just([])
    return st.tuples(some, behind).map(lambda parts: [command, *parts[0], *parts[1]])


def lines() -> SearchStrategy[list[str]]:
    known = st.one_of(*(lines_of(one) for one in sorted(_commands()) if one not in _SLOW))
    unknown = st.lists(st.one_of(words, st.just("--version")), max_size=2)
    return st.one_of(known, known, known, known, known, known, unknown)


def check(arguments: list[str], odd: Mapping[int, str], ran: Ran) -> None:
    """Fail for a traceback, a word that only Python knows, or a status that is not documented."""
    said = f"{arguments} ended with {ran.status}: {ran.err[:2000]}"
    found = _PYTHONS.search(ran.err)
    assert not found, f"{found}\n{said}"
    # What was written is said again.
    assert len(ran.err) < 20_000 + 10 * sum(map(len, arguments)), said
    if "run" in arguments[:1] and ran.status not in (0, 1, 2):
        assert 0 < ran.status < 256, said
    else:
        assert ran.status in (0, 1, 2), said
    if 2 in odd or odd.get(1) == "broken":
        return  # nothing is said of it, as there is nobody who reads
    if ran.status == 2:
        assert ran.err.splitlines()[-1].startswith("ephemport"), said
    elif ran.status == 1 and arguments[0] in ("reserve", "run"):
        assert "true" in arguments or "false" in arguments or "ephemport" in ran.err, said
    if "--json" in arguments and ran.status in (0, 1) and "--diff" not in arguments and ran.out:
        assert "--explain" in " ".join(arguments) or json.loads(ran.out) is not None, said


def make_tree() -> None:
    """Something to migrate, with files in it that nobody can."""
    Path("tests").mkdir()
    Path("tests/test_a.py").write_text(
        "import socket\n\n\ndef test_a():\n    with socket.create_server(('127.0.0.1', 9001)):\n"
        "        assert 'http://127.0.0.1:9001'\n"
    )
    Path("tests/conftest.py").write_text("PORT = 9002\n")
    Path("bin.py").write_bytes(b"\0\xff\xfe(((")
    Path("tests/test_b.py").write_bytes(b"# -*- coding: nosuch -*-\nPORT = 9001\n")
    Path("tests/test_c.py").mkdir()
    Path("tests/test_d.py").symlink_to("test_d.py")
    Path("loop").symlink_to("loop")
    Path("link").symlink_to("tests")
    os.mkfifo("fifo")
    os.mkfifo("tests/test_fifo.py")


def children() -> Iterator[int]:
    for thread in os.listdir("/proc/self/task"):
        yield from map(int, Path(f"/proc/self/task/{thread}/children").read_text().split())


def end_children(expected: bool) -> None:
    """End what a command left in the background; nothing is left but what --for leaves."""
    deadline = time.monotonic() + 20
    while left := list(children()):
        assert time.monotonic() < deadline, f"still there: {left}"
        for pid in left:
            if expected:
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0 if expected else os.WNOHANG)


def fuzz_command() -> None:
    import_all()
    # What commands leave behind becomes a child of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    make_tree()
    watch = Watch()
    kinds = ["closed", "backwards", "broken"]
    outputs = st.sampled_from([*kinds, "full"])
    # The full device has no end of input.
    streams = st.fixed_dictionaries(
        {}, optional={0: st.sampled_from(kinds), 1: outputs, 2: outputs}
    )

    @given(lines(), st.one_of(st.just({}), st.just({}), streams))
    @examples(100)
    def one_line(arguments: list[str], odd: dict[int, str]) -> None:
        ran = run(arguments, odd)
        end_children(expected=any(one.startswith("--f") for one in arguments))
        check(arguments, odd, ran)
        watch.check()

    one_line()


def test_command(fuzz: Fuzz) -> None:
    fuzz(fuzz_command)

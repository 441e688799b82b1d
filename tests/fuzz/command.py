"""The command in a forked process, with streams of every kind: how it ended and what it wrote."""

import importlib
import os
import pkgutil
import select
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

import ephemport
from ephemport.cli import main

_LIMIT = 30.0
_UNRAISABLE = 120  # of an interpreter that cannot write what it has buffered


class Ran(NamedTuple):
    """How the command ended: its status as a shell has it, and what it wrote, where it could."""

    status: int
    out: str
    err: str


def import_all() -> None:
    """Import what commands need once, not in every process that is forked."""
    for module in pkgutil.walk_packages(ephemport.__path__, "ephemport."):
        if module.name.startswith(("ephemport.cli.", "ephemport.migrate.")):
            importlib.import_module(module.name)


def run(arguments: Sequence[str], streams: Mapping[int, str] | None = None) -> Ran:
    """Run `main(arguments)` as an interpreter does, in a process of its own that must end.

    streams: what 0, 1 and 2 are, as far as they are not the null device and two files: "closed",
    "full" (as a disk), "backwards" (opened for the other direction) or "broken" (a pipe that nobody
    reads, or that ends at once).
    """
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        child = os.fork()
        if child == 0:
            _become_the_command(arguments, {0: "null", 1: out, 2: err, **(streams or {})})
        status = _wait(child)
        return Ran(status, _all_of(out), _all_of(err))
    finally:
        os.close(out)
        os.close(err)


def _all_of(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def _wait(child: int) -> int:
    watched = os.pidfd_open(child)
    try:
        ended = select.select([watched], [], [], _LIMIT)[0]
        if not ended:
            os.kill(child, signal.SIGABRT)  # faulthandler says where it is
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended, f"still running after {_LIMIT} s"
        return status
    finally:
        os.close(watched)


def _become_the_command(arguments: Sequence[str], streams: Mapping[int, str | int]) -> None:
    status = 1
    try:
        # Above those that are replaced.
        there = {number: _opened(number, kind) for number, kind in streams.items()}
        for number, descriptor in there.items():
            os.close(number)
            if descriptor is not None:
                os.dup2(descriptor, number)
        os.closerange(3, 64)
        status = _like_an_interpreter(arguments)
    except BaseException:
        traceback.print_exc()
        if sys.stderr is not None:
            sys.stderr.flush()
    finally:
        os._exit(status)


def _opened(number: int, kind: str | int) -> int | None:
    if isinstance(kind, int):
        return os.dup(kind)
    backwards = os.O_WRONLY if number == 0 else os.O_RDONLY
    if kind == "closed":
        return None
    if kind == "broken":
        reader, writer = os.pipe()
        kept, closed = (reader, writer) if number == 0 else (writer, reader)
        os.close(closed)
        return kept
    path = "/dev/full" if kind == "full" else os.devnull
    return os.open(path, backwards if kind == "backwards" else os.O_RDWR)


def _like_an_interpreter(arguments: Sequence[str]) -> int:
    sys.stdin, sys.stdout, sys.stderr = (
        _stream(0, "r", "strict"), _stream(1, "w", "strict"), _stream(2, "w", "backslashreplace")
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        status = 1
        traceback.print_exc()
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.flush()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = _UNRAISABLE
        with suppress(OSError):
            os.write(2, b"Exception ignored in: <_io.TextIOWrapper name='<stdout>'>\n")
    return status


def _stream(number: int, mode: str, errors: str) -> IO[str] | None:
    try:
        os.fstat(number)
    except OSError:
        return None
    buffering = 1 if number == 2 else -1
    return open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)

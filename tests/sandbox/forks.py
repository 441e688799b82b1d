"""One process that has imported everything, and tries ways in forks of itself, each in a sandbox.

    python -m tests.sandbox.forks FOLDER      (of make_suite())

It reads a line of JSON, [condition, errno, [way, ...]], of which the first may also be the name of
a system call that is refused, and answers with one: what came of each way
(`Outcome`). A fork costs milliseconds, an interpreter ten times as much.
"""

import asyncio.subprocess
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest  # noqa: F401

import ephemport._port_map
import ephemport._serving.adopt
import ephemport._serving.assist
import ephemport._serving.inside
import ephemport._serving.share
import ephemport.pytest_plugin  # noqa: F401
from ephemport import EphemportError
from tests.sandbox.conditions import CONDITIONS, Refused
from tests.sandbox.refusing import call_named, refuse
from tests.sandbox.ways import WAYS, use_suite

# How long a way may take, in seconds. None waits longer than half of it for anything.
LIMIT = 60.0


def main() -> None:
    use_suite(Path(sys.argv[1]))
    for line in sys.stdin:
        condition, error, ways = json.loads(line)
        print(json.dumps(_in_fork(lambda: _try_all(condition, error, ways))), flush=True)  # noqa: B023


def _try_all(condition: str, error: int, ways: list[str]) -> Any:
    try:
        if condition in CONDITIONS:
            CONDITIONS[condition].enter(error)
        else:
            refuse(call_named(condition), error=error)
    except Refused as refused:
        return {"refused": str(refused)}
    return {way: _in_fork(lambda: _try(way)) for way in ways}  # noqa: B023


def _try(way: str) -> Any:
    """Return kind, text and answer: "works", "named" or "traceback"."""
    answer: Any = None
    try:
        answer = WAYS[way]()
        kind, text = "works", ""
    except EphemportError as error:
        kind, text = "named", str(error)
    except BaseException:
        kind, text = "traceback", traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    wrote = os.pread(2, 1 << 20, 0).decode(errors="replace")
    if "Traceback" in wrote + text:
        kind, text = "traceback", text + wrote
    return kind, text, answer


def _in_fork(work: Any) -> Any:
    reader, writer = os.pipe()
    file = _FILES.pop() if _FILES else None
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with suppress(OSError):
                os.setpgid(0, 0)
            if file is None:
                # Opened here: below, nothing may be writable.
                _FILES.extend(_output_files())
            else:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(file, 1)
                os.dup2(file, 2)
                for other in (file, *_FILES):
                    os.close(other)
                _FILES.clear()
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
            os.write(writer, json.dumps(work()).encode())
        except BaseException:
            os.write(writer, json.dumps(("traceback", traceback.format_exc(), None)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    if file is not None:
        os.close(file)
    answer = b""
    while select.select([reader], [], [], LIMIT * (1 if file else 40))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        answer += part
    else:
        answer = json.dumps(("hangs", _stacks(pid), None)).encode()
    os.close(reader)
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return json.loads(answer or '["died", "", null]')


# Where the forks of a fork write to, one each.
_FILES: list[int] = []


def _output_files() -> list[int]:
    found = []
    for _ in WAYS:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        found.append(descriptor)
    return found


def _stacks(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/wchan").read_text()
    return ""


if __name__ == "__main__":
    assert asyncio.subprocess
    main()

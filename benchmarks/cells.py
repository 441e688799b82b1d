"""A cell: one measurement in a process of its own, in a network of its own where that is needed.

Cells run in a session of their own, so that Ctrl-C reaches only the process that started them,
which then ends them by their ids. Should it be killed itself, the kernel ends them
(PR_SET_PDEATHSIG).
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

Row = dict[str, Any]
Function = Callable[..., Iterable[Row]]

ROOT = Path(__file__).resolve().parent.parent
# The kernel's default, net.ipv4.ip_local_port_range.
DEFAULT_RANGE = (32768, 60999)

_PR_SET_PDEATHSIG = 1
_GRACE = 5.0


class CellFailed(Exception):
    """The process of a cell ended without its result."""


def run_cell(
    function: Function,
    arguments: dict[str, Any],
    *,
    network: tuple[int, int] | None = None,
    timeout: float = 300.0,
) -> Iterator[Row]:
    """The rows that `function(**arguments)` yields in a fresh interpreter.

    network: the ephemeral port range of a fresh network; None stays in the present one.
    """
    task = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "arguments": arguments,
        "network": network,
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cells"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(timeout, process.kill)
        # Ctrl-C in start() leaves it running, and the interpreter must not wait for it at its end.
        watchdog.daemon = True
        try:
            watchdog.start()
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            if process.wait() != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                reason = said[-1] if said else f"status {process.returncode}"
                raise CellFailed(f"{task['function']}: {reason}")
        finally:
            watchdog.cancel()
            end(process)
            process.stdout.close()


def end(process: "subprocess.Popen[Any]") -> None:
    """End a process that we started, politely first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(**more: str) -> dict[str, str]:
    """The environment, with this source tree first on the path and nobody else's mode in it."""
    left_behind = ("EPHEMPORT_", "PYTEST_", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(left_behind)}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends (man 2 prctl)."""
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def background(function: Callable[..., NoReturn], *arguments: Any) -> Iterator[None]:
    """Run `function` in a forked process while the block runs."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(function, arguments))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def together(work: Sequence[Callable[[], Row]]) -> list[Row]:
    """Run each in a forked process of its own, at the same time, and return what they return."""
    context = multiprocessing.get_context("fork")
    line = context.Barrier(len(work))
    with ExitStack() as stack:
        readers = []
        for one in work:
            reader, writer = context.Pipe(duplex=False)

            def run(one: Callable[[], Row] = one, writer: Any = writer) -> None:
                line.wait(60)
                writer.send(one())

            process = context.Process(target=_alone, args=(run, ()))
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            # Ours only was the original: end of file must mean that the process has ended.
            writer.close()
            readers.append(reader)
        try:
            return [reader.recv() for reader in readers]
        except EOFError:
            raise CellFailed("a worker ended without its result") from None


def _alone(function: Callable[..., object], arguments: Sequence[Any]) -> None:
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    function(*arguments)


def can_have_networks() -> str | None:
    """Why a cell cannot have a network of its own here; None when it can."""
    try:
        for _ in run_cell(nothing, {}, network=DEFAULT_RANGE):
            pass
    except CellFailed as error:
        return str(error)
    return None


def nothing() -> Iterable[Row]:
    return ()


def _main() -> None:
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Whatever the function prints must not get among the rows.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    if task["network"] is not None:
        from ephemport._kernel.namespaces import enter_new_network, set_ephemeral_range

        enter_new_network()
        set_ephemeral_range(*task["network"])
    module, _, name = task["function"].partition(":")
    for row in getattr(importlib.import_module(module), name)(**task["arguments"]):
        print(json.dumps(row), file=rows, flush=True)


if __name__ == "__main__":
    _main()

"""A lock that a signal handler finds at any moment: nobody has it afterwards."""

import ast
import signal
from pathlib import Path

import ephemport
from ephemport._kernel.locks import new_lock

INTERRUPTIONS = 1000


class Interrupted(BaseException):
    """What the signal handler raises."""


def test_a_signal_at_any_moment_leaves_no_lock_behind() -> None:
    lock = new_lock()
    free = 0

    def interrupt(*_: object) -> None:
        raise Interrupted

    def use_it_for_ever() -> None:
        while True:
            use_it()

    def use_it() -> None:
        with lock:
            pass

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(INTERRUPTIONS):
            try:
                # If one is lost, the next one ends the loop.
                signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.05)
                try:
                    use_it_for_ever()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                free += not lock._is_owned()  # type: ignore[attr-defined]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert free == INTERRUPTIONS


def test_no_loop_that_python_makes_by_itself_stands_in_a_with_lock() -> None:
    """Python 3.15 makes a loop of all() and any(), and looks for signals at its jump back."""
    found = [
        f"{path}:{call.lineno}: {ast.unparse(call)}"
        for path in sorted(Path(ephemport.__file__).parent.rglob("*.py"))
        for block in ast.walk(ast.parse(path.read_text()))
        if isinstance(block, ast.With)
        if any("lock" in ast.unparse(item.context_expr) for item in block.items)
        for call in ast.walk(block)
        if isinstance(call, ast.Call)
        if isinstance(call.func, ast.Name) and call.func.id in ("all", "any", "tuple")
        if any(isinstance(argument, ast.GeneratorExp) for argument in call.args)
    ]
    assert found == []

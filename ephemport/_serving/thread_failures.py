"""The exception that ended a thread. Python reports it and keeps it nowhere.

It is kept on the thread itself, and not for long: its traceback keeps alive what the frames of the
thread had, such as a socket.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FAILURE = "_ephemport_failure"


def failure_of(thread: threading.Thread) -> BaseException | None:
    """Return the exception that ended the thread, as far as it was kept."""
    failure: BaseException | None = vars(thread).get(_FAILURE)
    return failure


def keep_failure(thread: threading.Thread) -> Callable[[], None]:
    """Keep the exception of this thread from now on. Returns what forgets it and keeps none.

    threading.excepthook is one for all threads, and others replace it. Each thread has the function
    that calls it (`_invoke_excepthook`, Python 3.8 to 3.15). Without that nothing is kept.
    """
    invoke = getattr(thread, "_invoke_excepthook", None)
    if invoke is None:
        return lambda: None
    kept = failure_of(thread)

    def keep(failed: threading.Thread) -> None:
        vars(failed)[_FAILURE] = sys.exception()
        invoke(failed)

    thread._invoke_excepthook = keep  # type: ignore[attr-defined]

    def undo() -> None:
        if vars(thread).get("_invoke_excepthook") is keep:
            thread._invoke_excepthook = invoke  # type: ignore[attr-defined]
        if kept is None:
            vars(thread).pop(_FAILURE, None)

    return undo


@contextmanager
def kept_failures() -> Iterator[None]:
    """Keep the exceptions of all threads that end in the block, until its end."""
    before = threading.excepthook
    failed: list[threading.Thread] = []
    is_over = False

    def keep(args: threading.ExceptHookArgs) -> None:
        # Whoever replaced the hook in the block may put this one back after it.
        if args.thread is not None and not is_over:
            vars(args.thread)[_FAILURE] = args.exc_value
            failed.append(args.thread)
        before(args)

    threading.excepthook = keep
    try:
        yield
    finally:
        is_over = True
        if threading.excepthook is keep:
            threading.excepthook = before
        for thread in failed:
            vars(thread).pop(_FAILURE, None)

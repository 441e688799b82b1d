"""A lock that a signal handler finds at any moment: nobody has it afterwards."""

import signal

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
                signal.setitimer(signal.ITIMER_REAL, 0.0001)
                use_it_for_ever()
            except Interrupted:
                free += not lock._is_owned()  # type: ignore[attr-defined]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert free == INTERRUPTIONS

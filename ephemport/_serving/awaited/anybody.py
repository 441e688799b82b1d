"""Nobody in particular is awaited; and what every kind of server that is awaited can tell."""

import time
from typing import NamedTuple

from ephemport._serving.event_loop import Loop


class Ending(NamedTuple):
    """How somebody ended.

    how: in words, such as "exited with status 3". returncode: the exit status, where there is one
    and it is known. cause: the exception that ended a thread or a task.
    """

    how: str
    returncode: int | None = None
    cause: BaseException | None = None


class Anybody:
    """Nobody in particular is awaited: every listener counts."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return "a server"

    @property
    def else_name(self) -> str:
        """What else the caller may have meant, in words that follow an advice."""
        return ". If the server is another process or a thread, process= can say which"

    @property
    def state(self) -> str:
        """What it does now, in words that follow the name."""
        return "has ended" if self.has_ended else "still runs"

    def family(self) -> list[int] | None:
        """Return the processes whose sockets count; None: those of any process."""
        return None

    @property
    def is_known(self) -> bool:
        """Whether a socket of none of these processes is certainly a stranger's."""
        return True

    @property
    def has_ended(self) -> bool:
        """Whether none of these processes will listen any more."""
        return False

    def ending(self) -> Ending:
        """Return how it ended."""
        return Ending("ended")

    def output(self) -> str | None:
        """Return its last output, None where it was not captured."""
        return None

    def why_in_vain(self, loop: Loop | None, port: int) -> str:
        """Say why a wait in this thread would keep the server from listening; "" if it would not.

        loop: the event loop that runs in this thread. port: the port that is waited on.
        """
        return "" if loop is None else loop.why_in_vain(port)

    def sleep(self, seconds: float) -> None:
        """Sleep, and wake up early if it ends."""
        time.sleep(seconds)

    def close(self) -> None:
        """Give back what the watching took."""

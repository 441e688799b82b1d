"""An agent as an actor: its methods are called from afar, instead of lines on standard input.

Ray makes the actor (see `ephemport.ray`). This module knows nothing of Ray.
"""

import os
import threading
import time

from ephemport._nodes.agent import LEASE_OVER, Held, answer_to, greeting
from ephemport._nodes.wire import Message


class Holder:
    """Holds ports in the process that it is made in, until the process ends.

    lease: seconds without a call after which the process ends itself; None: for ever.
    """

    def __init__(self, lease: float | None) -> None:
        self._held: Held = {}
        self._lease = lease
        self._heard = time.monotonic()
        self._let_go = threading.Event()
        if lease is not None:
            threading.Thread(target=self._end_with_the_lease, args=(lease,), daemon=True).start()

    def hello(self) -> Message:
        """What an agent says first."""
        self._heard = time.monotonic()
        return greeting(self._lease)

    def ask(self, request: Message) -> Message:
        """The answer to a request."""
        self._heard = time.monotonic()
        return answer_to(self._held, request)

    def last(self) -> None:
        """Wait for `let_go()`. Whoever waits for this learns at once that the process has ended."""
        self._let_go.wait()

    def let_go(self) -> None:
        """End `last()`: an actor does not end while a call runs."""
        self._let_go.set()

    def forget(self, answer: Message) -> None:
        """Release what an answer has brought that nobody took."""
        for number in answer.get("ok", {}).get("holds", ()):
            self.ask({"id": 0, "do": "release", "holds": [number]})

    def _end_with_the_lease(self, lease: float) -> None:
        while (left := self._heard + lease - time.monotonic()) > 0:
            time.sleep(left)
        os._exit(LEASE_OVER)

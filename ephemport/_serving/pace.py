"""How often a wait looks."""

import time
from collections.abc import Iterator

# Pauses between two looks, in seconds. The median delay is half a pause, and a look with the sleep
# before it costs up to 90 us, on a busy machine twice that. So the pause is 6 ms while most servers
# start. Later it is 5 % of the time waited, and at most 100 ms. That makes some 110 looks in 5 s,
# and 160 in 10 s.
FIRST_PAUSE = 0.001
_USUAL_PAUSE = 0.006
_SHARE_OF_WAIT = 0.05
_LONGEST_PAUSE = 0.1
# An expensive look (/proc/net on a busy machine) takes at most this share of the time.
_LARGEST_SHARE = 0.05


class Pace:
    """The pauses of one wait.

    timeout: how long it lasts, in seconds. since: when it began, by time.monotonic(); None: now.
    cost: how long the last look took, in seconds.
    """

    def __init__(self, timeout: float, since: float | None = None) -> None:
        self._timeout = timeout
        self._since = since
        self.cost = 0.0

    def pauses(self) -> Iterator[float]:
        """Yield how long to sleep before the next look, until the time is up."""
        began = time.monotonic() if self._since is None else self._since
        pause = FIRST_PAUSE
        while True:
            waited = time.monotonic() - began
            left = self._timeout - waited
            patient = min(max(pause, waited * _SHARE_OF_WAIT), _LONGEST_PAUSE)
            yield max(min(max(patient, self.cost / _LARGEST_SHARE), left), 0)
            if left <= 0:
                return
            pause = min(pause * 1.2, _USUAL_PAUSE)

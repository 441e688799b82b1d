"""How much is tried.

Usually the same examples every time, and all of tests/fuzz takes less than a minute. For a long run
set EPHEMPORT_FUZZ to how many times as many examples it shall be: they are new ones each time.

    EPHEMPORT_FUZZ=50 python -m pytest tests/fuzz

A failure shows the example, which belongs into a test of its own.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, settings

FACTOR = max(int(os.environ.get("EPHEMPORT_FUZZ") or 1), 1)

T = TypeVar("T")


def examples(count: int) -> Callable[[T], T]:
    """Hypothesis' settings for a fuzzer that usually tries `count` examples."""
    decorate: Callable[[T], T] = settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        # Other tests run beside these, and real processes are started: no timing says anything.
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Nobody reads which of several values made a difference.
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        print_blob=False,
    )
    return decorate

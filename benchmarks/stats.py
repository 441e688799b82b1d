"""Medians, their spread, and ratios of times that were taken in the same round."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the quartiles, both ends, and how many values there are."""
    if not values:
        raise ValueError("nothing was measured")
    if len(values) == 1:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The spread of ours divided by theirs, round by round: drift of the machine cancels out."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def seconds_each(once: Callable[[], object], most: int, budget: float = 0.02) -> float:
    """How long one call takes, from at most `most` calls and about `budget` seconds."""
    # The first after another peer's turn finds the processor's caches cold.
    once()
    clock = time.perf_counter_ns
    calls = 0
    began = now = clock()
    until = began + int(budget * 1e9)
    while calls < most and now < until:
        once()
        calls += 1
        now = clock()
    return (now - began) / calls / 1e9


@contextmanager
def collected_before() -> Iterator[None]:
    """Garbage of one round must not be collected at the expense of the next."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

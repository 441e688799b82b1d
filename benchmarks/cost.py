"""What does one cost? Reserve and release, interleaved with the bare system calls and the peers."""

import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.cells import DEFAULT_RANGE, Row, can_have_networks, run_cell
from benchmarks.peers import EPHEMPORT, LIMIT, installed, loaded
from benchmarks.pickers import Picker
from benchmarks.record import Record
from benchmarks.stats import collected_before, ratios, seconds_each, spread

NAME = "cost"
TITLE = "What does one cost?"
GROUPS = (1, 2, 4, 100)
HELD = (LIMIT, EPHEMPORT)


def run(record: Record) -> None:
    # A network of its own where that can be had: the TIME_WAITs of one peer are left behind there.
    network = None if can_have_networks() else DEFAULT_RANGE
    for size in GROUPS:
        rounds = {1: 200, 2: 60, 4: 60, 100: 30}[size] // (10 if record.quick else 1)
        record.step(NAME, f"{rounds} rounds of all peers, groups of {size}")
        for row in run_cell(time_all, {"size": size, "rounds": rounds}, network=network):
            record.add(NAME, row)
    for peer in HELD:
        record.step(NAME, f"memory of {peer.name}")
        arguments = {"peer": peer.name, "count": 500 if record.quick else 5000}
        for row in run_cell(weigh, arguments, network=network):
            record.add(NAME, row)


def time_all(size: int, rounds: int) -> Iterator[Row]:
    """Seconds and ratio to the limit, per peer, for taking and giving back `size` ports."""
    with ExitStack() as stack:
        pickers = {
            peer: stack.enter_context(loaded(peer))
            for peer in installed()
            # 100 picks a round would use up the portserver's pool, or the range by TIME_WAITs.
            if size < 100 or peer.most >= size // 2
        }
        times: dict[str, list[float]] = {peer.name: [] for peer in pickers}
        for turn in range(-2, rounds):
            in_any_order = list(pickers.items())
            random.shuffle(in_any_order)
            with collected_before():
                for peer, picker in in_any_order:
                    each = seconds_each(_what_is_timed(picker, size), max(peer.most // size, 1))
                    # The first rounds fill caches, ours and the kernel's.
                    if turn >= 0:
                        times[peer.name].append(each)
    for name, values in times.items():
        yield {
            "measure": "time",
            "peer": name,
            "group": size,
            "seconds": spread(values),
            "ratio": ratios(values, times[LIMIT.name]),
        }


def weigh(peer: str, count: int) -> Iterator[Row]:
    """Memory and descriptors of one held port, once with Python's own count and once without."""
    picker = next(one for one in HELD if one.name == peer)
    with loaded(picker) as ready:
        ready.give_back(ready.take())
        resident, descriptors = _resident(), _descriptors()
        ports = [ready.take() for _ in range(count)]
        held = {
            "resident_bytes": (_resident() - resident) / count,
            "descriptors": (_descriptors() - descriptors) / count,
        }
        for port in ports:
            ready.give_back(port)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        ports = [ready.take() for _ in range(count)]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for port in ports:
            ready.give_back(port)
    allocated = (after - before) / count
    yield {"measure": "memory", "peer": peer, "held": count, "python_bytes": allocated, **held}


def _what_is_timed(picker: Picker, size: int) -> Callable[[], object]:
    return picker.once if size == 1 else partial(picker.group, size)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

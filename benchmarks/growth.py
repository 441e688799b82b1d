"""How does it grow? With thousands of ports held, with several processes, until it runs dry."""

import random
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.cells import DEFAULT_RANGE, Row, can_have_networks, run_cell, together
from benchmarks.peers import LIMIT, installed, loaded, named, surroundings
from benchmarks.record import Record
from benchmarks.stats import collected_before, ratios, seconds_each, spread
from ephemport import PortsExhausted, Reservation, reserve
from ephemport.compat import PortAllocator

NAME = "growth"
TITLE = "How does it grow?"
HELD = (0, 100, 1000, 5000, 10000, 14000, 18000)
PROCESSES = (1, 2, 4, 8)
# Ports of the fixed range and of the portserver have nothing to do with how full the ephemeral
# port range is, and port-for's 15 ms a pick would be most of this question's time.
_BESIDE_HOLDS = {
    "the limit",
    "ephemport",
    "bind(0), close",
    "portpicker",
    "ephemeral-port-reserve",
    "anyio",
    "pytest-asyncio",
}
_SPARE_DESCRIPTORS = 200


def run(record: Record) -> None:
    refused = can_have_networks()
    if refused is not None:
        record.leave_out(NAME, f"needs network namespaces: {refused}")
        return
    record.step(NAME, f"the next one with up to {HELD[-1]:,} held")
    rounds = 5 if record.quick else 40
    for row in run_cell(with_held, {"rounds": rounds}, network=DEFAULT_RANGE):
        if "left_out" in row:
            record.leave_out(f"{NAME}, {row['held']:,} held", row["left_out"])
        else:
            record.step(NAME, f"{row['held']:,} held")
            record.add(NAME, row)
    seconds = 0.1 if record.quick else 0.7
    for count in (1, 4) if record.quick else PROCESSES:
        for peer in installed():
            record.step(NAME, f"{peer.name}, {count} at once")
            arguments = {"peer": peer.name, "processes": count, "seconds": seconds}
            for row in run_cell(at_once, arguments, network=DEFAULT_RANGE):
                record.add(NAME, row)
    record.step(NAME, "fixed mode until it runs dry")
    for row in run_cell(until_dry, {}, network=DEFAULT_RANGE):
        record.add(NAME, row)


def with_held(rounds: int) -> Iterator[Row]:
    """What the next port costs while so many are held; the holds are ephemport's for everyone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[Reservation] = []
    first: dict[str, list[float]] = {}
    with ExitStack() as stack:
        pickers = {
            peer: stack.enter_context(loaded(peer))
            for peer in installed()
            if peer.name in _BESIDE_HOLDS
        }
        for level in HELD:
            if hard != resource.RLIM_INFINITY and level + _SPARE_DESCRIPTORS > hard:
                reason = f"RLIMIT_NOFILE allows {hard:,} descriptors"
                yield {"held": level, "left_out": reason}
                continue
            while len(held) < level:
                held.append(reserve())
            times: dict[str, list[float]] = {peer.name: [] for peer in pickers}
            for turn in range(-1, rounds):
                in_any_order = list(pickers.items())
                random.shuffle(in_any_order)
                with collected_before():
                    for peer, picker in in_any_order:
                        each = seconds_each(picker.once, peer.most)
                        if turn >= 0:
                            times[peer.name].append(each)
            first = first or times
            for name, values in times.items():
                yield {
                    "measure": "held",
                    "held": level,
                    "peer": name,
                    "seconds": spread(values),
                    "ratio": ratios(values, times[LIMIT.name]),
                    # Not paired: the two levels are minutes apart, so medians it is.
                    "own_ratio": statistics.median(values) / statistics.median(first[name]),
                }
        for reservation in held:
            reservation.release()


def at_once(peer: str, processes: int, seconds: float) -> Iterator[Row]:
    """How many ports several processes take and give back in a second, together."""
    competitor = named(peer)
    with surroundings(competitor) as around:

        def work() -> Row:
            picker = competitor.load(around)
            times: list[float] = []
            failed = 0
            began = now = time.perf_counter()
            while now - began < seconds:
                try:
                    picker.once()
                except Exception:
                    failed += 1
                before, now = now, time.perf_counter()
                times.append(now - before)
            return {"times": times, "failed": failed}

        rows = together([work] * processes)
    times = [one for row in rows for one in row["times"]]
    yield {
        "measure": "processes",
        "peer": peer,
        "processes": processes,
        "seconds": spread(times),
        "per_second": len(times) / seconds,
        "failed_picks": sum(row["failed"] for row in rows),
    }


def until_dry() -> Iterator[Row]:
    """How many ports of one category a worker gets in fixed mode, and what each costs."""
    with (
        surroundings(named("ephemport fixed")) as folder,
        PortAllocator("fixed", worker_id="gw0", lock_dir=folder) as allocator,
    ):
        times: list[float] = []
        said = ""
        while not said:
            began = time.perf_counter()
            try:
                allocator.allocate_port("servers")
            except PortsExhausted as error:
                said = str(error)
            else:
                times.append(time.perf_counter() - began)
    yield {
        "measure": "dry",
        "peer": "ephemport fixed",
        "numbers": len(times),
        "seconds": spread(times),
        "said": said,
    }

"""`python -m benchmarks.soak`: start a million servers on held ports, and say what went wrong."""

import argparse
import json
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.cells import CellFailed, Row, can_have_networks, run_cell
from benchmarks.collide import RANGES
from benchmarks.record import Progress, describe_environment
from benchmarks.soak.books import BLOCKS_ALLOWANCE, MEMORY_ALLOWANCE
from benchmarks.soak.ledger import Promise
from benchmarks.soak.network import cell, share_of

T = TypeVar("T", int, float)

_STARTS = 1_000_000
_MOST_WORKERS = 16
_LONGEST = 24 * 3600.0
_BROKEN, _CANNOT_RUN, _STOPPED_BY_CTRL_C = 1, 2, 130
_MIB = 1024 * 1024

# The names of the counts, in the order of the report.
_WORDS = {
    "restarts": "restarts of a server on its held port",
    "crashes": "servers killed by SIGKILL",
    "asked": "servers waited for and connected to",
    "reserved": "reservations",
    "released": "of them released or given away",
    "groups": "groups asked for",
    "no_row": "of them not to be had in a row",
    "refused": "held ports asked for again, and refused",
    "forks": "forks",
    "holders_killed": "holders killed by SIGKILL",
    "shared": "reservations adopted by another process, which was killed",
    "signals": "signals",
    "signals_raised": "of them raised inside of reserve() or release()",
    "shadow_taken": "shadow ports given to a neighbour, as documented",
    "audits": "audits of all descriptors",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit status: 0 all well, 1 a promise broken, 2 not run, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    starts, seconds, seed = options.starts, options.seconds, options.seed
    if starts is None and seconds is None:
        starts = _STARTS
    results: dict[str, Row] = {}
    environment: Row = {}
    status = 0
    try:
        refused = can_have_networks()
        if refused is not None:
            print(f"the soak needs network namespaces: {refused}", file=sys.stderr)
            return _CANNOT_RUN
        environment |= describe_environment() if options.json is not None else {}
        print(f"seed {seed}, {options.workers} workers and 2 neighbours a range", flush=True)
        for number, span in enumerate(RANGES):
            work = {
                "seed": seed,
                "workers": options.workers,
                "starts": None if starts is None else share_of(starts, len(RANGES), number),
                "seconds": None if seconds is None else seconds / len(RANGES),
            }
            _soak(span, work, results)
            print(_section(span, results[span]), flush=True)
    except KeyboardInterrupt:
        status = _STOPPED_BY_CTRL_C
        print("stopped; until then:")
        for span, row in results.items():
            if not row["done"]:
                print(_section(span, row))
    except CellFailed as error:
        status = _BROKEN
        print(f"the soak itself failed: {error}", file=sys.stderr)
    faults = [{**fault, "range": span} for span, row in results.items() for fault in row["faults"]]
    for fault in faults:
        print(_told(fault, seed, options.workers), file=sys.stderr)
    if options.json is not None:
        found = {"seed": seed, "status": status or bool(faults), "environment": environment}
        options.json.write_text(json.dumps({**found, "ranges": results}, indent=1) + "\n")
    print(_verdict(results, faults, whole=not status))
    return status or (_BROKEN if faults else 0)


def _soak(span: str, work: Row, results: dict[str, Row]) -> None:
    progress = Progress() if sys.stderr.isatty() else None
    for row in run_cell(cell, work, network=RANGES[span], timeout=_LONGEST):
        results[span] = row
        if progress is not None:
            progress.step("soak", f"{span} range, {_rate(row)}, {len(row['faults'])} broken")
    if progress is not None:
        progress.clear()


def _section(span: str, row: Row) -> str:
    first, last = RANGES[span]
    faults = Counter(fault["promise"] for fault in row["faults"])
    counts = row["counts"]
    lines = [
        f"{span} range ({first}-{last}): {_rate(row)}",
        ", ".join(f"{faults[promise]} {promise}" for promise in Promise),
        *(f"{counts[name]:>9,} {words}" for name, words in _WORDS.items() if counts[name]),
        *_flatness(row["ends"]),
    ]
    return "\n    ".join(lines)


def _rate(row: Row) -> str:
    starts, seconds = row["counts"]["starts"], row["seconds"]
    return f"{starts:,} starts in {seconds:,.1f} s ({starts / seconds:,.0f} a second)"


def _flatness(ends: Sequence[Row]) -> list[str]:
    lines = []
    if ends:
        before, after = zip(*(end["descriptors"] for end in ends), strict=True)
        lines.append(f"descriptors of the workers: {before} at first, {after} at the end")
    for what, unit, size, allowed in (
        ("blocks", "Python objects", 1, BLOCKS_ALLOWANCE),
        ("memory", "MiB of memory", _MIB, MEMORY_ALLOWANCE),
    ):
        if grown := [
            f"{(end[what][1] - end[what][0]) / size:+,.{2 * (size > 1)}f}"
            for end in ends
            if end[what]
        ]:
            lines.append(
                f"{unit} of the workers: {', '.join(grown)} from the first to the last quarter "
                f"(medians; allowed are {allowed // size:,})"
            )
    return lines


def _told(fault: Row, seed: int, workers: int) -> str:
    who = "the network" if fault["worker"] is None else f"worker {fault['worker']}"
    when = f", event {fault['event']:,} ({fault['kind']})" if "event" in fault else ""
    return (
        f"BROKEN ({fault['promise']}): {fault['what']}\n"
        f"    {fault['range']} range, {who}{when}; again with --seed {seed} --workers {workers}"
    )


def _verdict(results: dict[str, Row], faults: Sequence[Row], *, whole: bool) -> str:
    starts = sum(row["counts"]["starts"] for row in results.values())
    seconds = sum(row["seconds"] for row in results.values())
    broken = f"promises broken {len(faults)} times" if faults else "no promise broken"
    return f"{'' if whole else 'not finished: '}{starts:,} starts in {seconds:,.0f} s: {broken}"


def _positive(kind: type[T]) -> Callable[[str], T]:
    def positive(text: str) -> T:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return positive


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Start servers on held ports beside the benchmark's neighbours, half of them "
        "in the default range and half in one of 200 ports, with releases, crashes, forks, "
        "signals and restarts mixed in. Nothing may be lost, double or left behind.",
        epilog="example: python -m benchmarks.soak --seconds 60 --seed 7. Exit status: 0 all "
        "well, 1 a promise was broken, 2 it could not run, 130 Ctrl-C.",
    )
    parser.add_argument(
        "--starts",
        type=_positive(int),
        metavar="N",
        help=f"how many servers to start (default: {_STARTS:,}, with --seconds without limit)",
    )
    parser.add_argument(
        "--seconds", type=_positive(float), metavar="S", help="end after that time, half a range"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=secrets.randbits(32),
        help="what is done is chosen by it (default: another one each time, which is printed)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        choices=range(1, _MOST_WORKERS + 1),
        default=4,
        help=f"processes that start servers, up to {_MOST_WORKERS} (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())

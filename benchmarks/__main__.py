"""`python -m benchmarks`: ask all questions, or one, and write down the answers."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import collide, cost, growth, report, suite, up
from benchmarks.record import Progress, Record

QUESTIONS = {question.NAME: question for question in (collide, cost, growth, suite, up)}
_STOPPED_BY_CTRL_C = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit status: 0 unless a port of ours collided or a question failed."""
    options = _parser().parse_args(arguments)
    record = Record(quick=options.quick, progress=Progress())
    status = 0
    try:
        for name in options.only or QUESTIONS:
            status |= _ask(name, record)
    except KeyboardInterrupt:
        record.interrupted = True
        record.progress.say("stopped: what follows is what was measured until then")
        status = _STOPPED_BY_CTRL_C
    whole = not (options.quick or options.only or record.interrupted or status)
    where = options.json or (report.RESULTS if whole else None)
    if where is not None:
        record.save(where)
        record.progress.say(f"written: {where}")
    print(report.as_text(record.as_json()))
    if whole and options.json is None:
        report.publish(report.RESULTS)
    collisions = record.collisions()
    for collision in collisions:
        print(f"ephemport collided: {collision}", file=sys.stderr)
    return status or bool(collisions)


def _ask(name: str, record: Record) -> int:
    began = time.monotonic()
    try:
        QUESTIONS[name].run(record)
    except Exception as error:
        # One question that fails must not cost the answers to the others.
        record.leave_out(name, f"failed: {type(error).__name__}: {error}")
        return 1
    finally:
        record.took[name] = round(time.monotonic() - began, 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ephemport beside everything else that picks ports. A whole run writes "
        "benchmarks/results/; --quick and --only just print.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small run; its only verdict is whether a port of ephemport collided",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        choices=list(QUESTIONS),
        action="append",
        help=f"one question: {', '.join(QUESTIONS)} (may be repeated)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())

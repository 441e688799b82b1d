"""The answers as a table and as pictures: `python -m benchmarks.report [FILE] [--readme README]`.

Draws one SVG a question beside the results file, writes results.md there, and with --readme puts
its first part between the two marks in that file.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import answers, collide, cost, growth, suite, up
from benchmarks.answers import KINDS, OURS, Results
from benchmarks.peers import LIMIT

RESULTS = Path(__file__).with_name("results") / "results.json"
BEGIN = "<!-- benchmarks: python -m benchmarks.report --readme README.md -->"
END = "<!-- /benchmarks -->"
_BUSY = "without rest"


def as_text(results: Results) -> str:
    """Everything in Markdown, without the pictures."""
    return "\n\n".join([*_summary(results, pictures=None), *_details(results, pictures=None)])


def publish(path: Path, readme: Path | None = None) -> None:
    """Draw the pictures and write results.md beside the results file at `path`."""
    from benchmarks import pictures

    results = json.loads(path.read_text(encoding="utf-8"))
    drawn = pictures.draw_all(results, path.parent)
    parts = [*_summary(results, drawn), *_details(results, drawn)]
    whole = "\n\n".join(["# Results of `python -m benchmarks`", *parts])
    path.with_name("results.md").write_text(whole + "\n", encoding="utf-8")
    if readme is not None:
        folder = path.parent.resolve().relative_to(readme.parent.resolve()).as_posix()
        here = {name: f"{folder}/{file}" for name, file in drawn.items()}
        more = f"[All answers]({folder}/results.md), from `python -m benchmarks`."
        _include("\n\n".join([*_summary(results, here), more]), readme)


def _include(text: str, readme: Path) -> None:
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{readme} has no place for the table: put these two lines there:\n"
                         f"{BEGIN}\n{END}")  # fmt: skip
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _summary(results: Results, pictures: dict[str, str] | None) -> Iterable[str]:
    yield from _picture(collide.NAME, collide.TITLE, pictures)
    yield _table(
        [
            "how a port is picked", "failed starts, default range", "200-port range",
            "failed picks, 200-port range", "wrong answers", "one, times the limit",
            "with 10,000 held",
        ],
        (_line(results, peer) for peer in answers.peers(results)),
    )  # fmt: skip
    tried = answers.starts(results, peer=OURS)
    yield (
        f"Failures per 10,000 servers, of {tried:,} with ephemport and as many with nearly every "
        "other, started by four workers beside two neighbours. The limit is the system calls of "
        "a hold and nothing else; ratios are medians of rounds in which all took turns."
    )
    yield from _machine(results)


def _line(results: Results, peer: str) -> list[str]:
    default = answers.per_10000(results, peer, "default")
    narrow = answers.per_10000(results, peer, "200-port")
    one = answers.cost(results, peer)
    held = answers.rows(results, growth.NAME, measure="held", held=10000, peer=peer)
    wrong = [each["wrong_answers"] for each in (default, narrow) if each]
    return [
        f"**{peer}**" if peer == OURS else peer,
        _number(default.get("failed_starts")),
        _number(narrow.get("failed_starts")),
        _number(narrow.get("failed_picks")),
        _number(sum(wrong) / len(wrong) if wrong else None),
        f"{_number(one['ratio']['median'])} ({_time(one['seconds']['median'])})" if one else "",
        _time(answers.value(held, "seconds", "median")),
    ]


def _details(results: Results, pictures: dict[str, str] | None) -> Iterable[str]:
    sections = ((collide, _collide), (cost, _cost), (growth, _growth), (suite, _suite), (up, _up))
    for question, tables in sections:
        if results["questions"].get(question.NAME):
            yield f"## {question.TITLE}"
            if question is not collide:
                yield from _picture(question.NAME, question.TITLE, pictures)
            yield from (table for table in tables(results) if table)


def _collide(results: Results) -> Iterable[str]:
    lines = []
    for span in collide.RANGES:
        for rest in collide.RESTS:
            for peer in answers.peers(results):
                found = answers.per_10000(results, peer, span, rest)
                tried = answers.starts(results, peer=peer, range=span, rest=rest)
                if found:
                    counts = [_number(found[kind]) for kind in KINDS]
                    lines.append([span, rest, peer, f"{tried:,}", *counts])
    heads = ["range", "neighbours", "how a port is picked", "starts"]
    yield _table([*heads, *(kind.replace("_", " ") for kind in KINDS)], lines)


def _cost(results: Results) -> Iterable[str]:
    lines = []
    for peer in answers.peers(results, limit=True):
        found = [answers.cost(results, peer, size) for size in cost.GROUPS]
        cells = [
            f"{_time(row['seconds']['median'])}, {_number(row['ratio']['median'])} "
            f"({_number(row['ratio']['low'])}-{_number(row['ratio']['high'])})"
            if row
            else ""
            for row in found
        ]
        lines.append([peer, *cells])
    heads = ["one" if size == 1 else f"group of {size}" for size in cost.GROUPS]
    yield _table(["time, ratio to the limit (quartiles)", *heads], lines)
    yield _table(
        ["a held port", "resident memory", "of it Python objects", "descriptors"],
        (
            [row["peer"], f"{row['resident_bytes']:.0f} B", f"{row['python_bytes']:.0f} B",
             f"{row['descriptors']:.2f}"]
            for row in answers.rows(results, cost.NAME, measure="memory")
        ),
    )  # fmt: skip


def _growth(results: Results) -> Iterable[str]:
    lines = []
    for peer in answers.peers(results, limit=True):
        levels = [
            answers.rows(results, growth.NAME, measure="held", held=held, peer=peer)
            for held in growth.HELD
        ]
        cells = [
            f"{_time(found[0]['seconds']['median'])} (x{_number(found[0]['own_ratio'])})"
            if found
            else ""
            for found in levels
        ]
        if any(cells):
            lines.append([peer, *cells])
    yield _table(["the next one, with held", *(f"{held:,}" for held in growth.HELD)], lines)
    lines = []
    for peer in answers.peers(results, limit=True):
        found = [
            answers.rows(results, growth.NAME, measure="processes", peer=peer, processes=count)
            for count in growth.PROCESSES
        ]
        lines.append([peer, *(_at_once(one[0]) if one else "" for one in found)])
    yield _table(["one, while so many processes", *map(str, growth.PROCESSES)], lines)
    for row in answers.rows(results, growth.NAME, measure="dry"):
        yield (
            f"Fixed mode gave {row['numbers']} ports of one category to one worker, then: "
            f"*{row['said'].partition('.')[0]}*"
        )


def _at_once(row: dict[str, Any]) -> str:
    failed = row["failed_picks"]
    each = f"{_time(row['seconds']['median'])}, {row['per_second']:,.0f}/s"
    return f"{each}, {failed:,} failed" if failed else each


def _suite(results: Results) -> Iterable[str]:
    lines = []
    for way in suite.WAYS:
        for workers in suite.WORKERS:
            found = answers.rows(results, suite.NAME, measure="suite", peer=way, workers=workers)
            if found:
                seconds = sorted(row["seconds"] for row in found)
                middle = seconds[len(seconds) // 2]
                failed = sum(row["failed"] for row in found)
                tests = found[0]["tests"]
                lines.append([
                    way, f"-n {workers}", f"{middle:.1f} s ({seconds[0]:.1f}-{seconds[-1]:.1f})",
                    _time(middle / tests), f"{failed} of {tests * len(found)}",
                ])  # fmt: skip
    yield _table(["suite", "workers", "wall time (range)", "a test", "failed tests"], lines)
    lines = [
        [f"fixture `{row['fixture']}` above an empty one", spread_in_words(row["above_empty"])]
        for row in answers.rows(results, suite.NAME, measure="fixture")
    ] + [
        [
            f"starting pytest with the plugin ({row['setting']})",
            spread_in_words(row["above_without"]),
        ]
        for row in answers.rows(results, suite.NAME, measure="start-up")
    ]
    yield _table(["what it adds", "median (quartiles)"], lines)


def _up(results: Results) -> Iterable[str]:
    yield _table(
        ["from listen() to knowing it", "median (quartiles)", "processor while waiting"],
        (
            [row["way"], spread_in_words(row["seconds"]), f"{row['busy']['median']:.2%}"]
            for row in answers.rows(results, up.NAME, measure="delay")
        ),
    )
    yield _table(
        ["from starting it to the first answer", "median (quartiles)", f"times {up.OURS}"],
        (
            [row["way"], spread_in_words(row["seconds"]), _number(row["ratio"]["median"])]
            for row in answers.rows(results, up.NAME, measure="first answer")
        ),
    )
    in_vain = answers.rows(results, up.NAME, measure="in vain")
    if in_vain:
        yield _table(
            ["waiting in vain, and the error", "processor time, median (quartiles)"],
            ([row["way"], spread_in_words(row["seconds"])] for row in in_vain),
        )


def _machine(results: Results) -> Iterable[str]:
    machine = results["environment"]
    versions = ", ".join(
        f"{peer} {text}"
        for peer, text in machine["peers"].items()
        if peer not in (LIMIT.name, OURS) and text and text[0].isdigit()
        and not peer.startswith(OURS) and "+" not in peer
    )  # fmt: skip
    note = "A quick run: its figures mean nothing. " if results["quick"] else ""
    yield (
        f"{note}{machine['date']}: {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gb']:g} GB, {machine['kernel']}, Python {machine['python']}, load "
        f"{machine['load_at_start']:g} at the start; ephemport "
        f"{machine['peers'][OURS]}, {versions}."
    )
    left_out = answers.missing(results)
    if left_out:
        yield "Left out: " + "; ".join(left_out) + "."
    if results["interrupted"]:
        yield "The run was stopped: these are partial results."


def _picture(name: str, title: str, pictures: dict[str, str] | None) -> Iterable[str]:
    if pictures and name in pictures:
        yield f"![{title}]({pictures[name]})"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(line)} |" for line in lines]
    if not body:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|", *body])


def spread_in_words(found: dict[str, float]) -> str:
    """A median of times with its quartiles."""
    return f"{_time(found['median'])} ({_time(found['low'])} to {_time(found['high'])})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 10 else f"{value:.2f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=RESULTS, help="a results file")
    parser.add_argument("--readme", type=Path, help="the file that includes the table")
    options = parser.parse_args(arguments)
    publish(options.file, options.readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())

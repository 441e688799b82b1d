"""One picture a question, drawn by matplotlib: SVG without a background, for light and dark."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import answers, collide, cost, growth, suite, up
from benchmarks.answers import OURS, Results
from benchmarks.peers import INSTALL, LIMIT

# Colours with enough contrast on white and on near-black.
_INK = "#7d8590"
_OURS = "#1a9e6c"
_OTHERS = "#d9822b"
_SECOND = "#5b8def"
_LINES = ("#1a9e6c", "#7d8590", "#d9822b", "#5b8def", "#c0519b", "#a58b2f", "#20a3b5", "#d0554f")

Draw = Callable[[Any, Results], None]


def draw_all(results: Results, folder: Path) -> dict[str, str]:
    """Draw what there are answers for into `folder`; the file names by question."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("svg")
        plots = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise SystemExit(f"the pictures need matplotlib: {INSTALL}") from None
    pictures: dict[str, tuple[str, Draw, int]] = {
        collide.NAME: (collide.TITLE, _collide, 2),
        cost.NAME: (cost.TITLE, _cost, 1),
        growth.NAME: (growth.TITLE, _growth, 2),
        suite.NAME: (suite.TITLE, _suite, 2),
        up.NAME: (up.TITLE, _up, 2),
    }
    drawn = {}
    with plots.rc_context(_style()):
        for name, (title, draw, columns) in pictures.items():
            if not results["questions"].get(name):
                continue
            figure, axes = plots.subplots(1, columns, figsize=(10, 4), squeeze=False)
            figure.suptitle(title)
            draw(axes[0], results)
            figure.tight_layout()
            # The same answers are to give the same file.
            metadata = {"Date": None, "Creator": None}
            figure.savefig(folder / f"{name}.svg", transparent=True, metadata=metadata)
            plots.close(figure)
            drawn[name] = f"{name}.svg"
    return drawn


def _style() -> dict[str, Any]:
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(coloured, _INK),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.family": "sans-serif",
        "font.size": 9,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "ephemport",
    }


def _bars(axes: Any, names: list[str], values: list[float], unit: str, *, log: bool) -> None:
    bars = axes.barh(names[::-1], values[::-1], color=_colours(names)[::-1], height=0.7)
    _label(axes, bars)
    if log and any(value > 0 for value in values):
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(unit)


def _colours(names: list[str]) -> list[str]:
    known = {LIMIT.name: _INK, up.OURS: _OURS, "activation": _OURS}
    return [known.get(name, _OURS if name.startswith(OURS) else _OTHERS) for name in names]


def _label(axes: Any, bars: Any) -> None:
    widths = [bar.get_width() for bar in bars]
    labels = [f"{width:,.0f}" if width >= 100 else f"{width:.3g}" for width in widths]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)


def _collide(axes: Any, results: Results) -> None:
    names = list(answers.peers(results))
    for one, span in zip(axes, collide.RANGES, strict=True):
        found = [answers.per_10000(results, name, span) for name in names]
        starts = [each.get("failed_starts", 0.0) for each in found]
        picks = [each.get("failed_picks", 0.0) for each in found]
        one.barh(names[::-1], starts[::-1], color=_colours(names)[::-1], height=0.7)
        bars = one.barh(names[::-1], picks[::-1], left=starts[::-1], color=_SECOND, height=0.7)
        totals = [f"{start + pick:,.0f}" for start, pick in zip(starts, picks, strict=True)]
        one.bar_label(bars, labels=totals[::-1], padding=3, fontsize=8)
        one.margins(x=0.15)
        # An axis for nothing but zeros would otherwise be a fraction long.
        one.set_xlim(0, max(1.0, one.get_xlim()[1]))
        one.set_title(f"{span} range", fontsize=9)
        one.set_xlabel("failed starts, and failed picks (blue), per 10,000")
    axes[1].set_yticklabels([])


def _cost(axes: Any, results: Results) -> None:
    found = {name: answers.cost(results, name) for name in answers.peers(results, limit=True)}
    ratios = {name: row["ratio"]["median"] for name, row in found.items() if row}
    _bars(axes[0], list(ratios), list(ratios.values()), "one port, times the limit", log=True)


def _growth(axes: Any, results: Results) -> None:
    for question, measure, place, label in (
        (axes[0], "held", "held", "ports held"),
        (axes[1], "processes", "processes", "processes at once"),
    ):
        colours = iter(_LINES * 2)
        for name in answers.peers(results, limit=True):
            found = answers.rows(results, growth.NAME, measure=measure, peer=name)
            if not found:
                continue
            places = [row[place] for row in found]
            middle = [row["seconds"]["median"] * 1e6 for row in found]
            style = "--" if name == LIMIT.name else "-"
            width = 2.5 if name == OURS else 1.2
            colour = _OURS if name == OURS else next(c for c in colours if c != _OURS)
            question.plot(
                places, middle, style, color=colour, linewidth=width, marker=".", label=name
            )
        question.set_yscale("log")
        question.set_xlabel(label)
        question.set_ylabel("us for one")
        question.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _suite(axes: Any, results: Results) -> None:
    for position, way in enumerate(suite.WAYS):
        found = answers.rows(results, suite.NAME, measure="suite", peer=way)
        workers = sorted({row["workers"] for row in found})
        seconds = [sorted(r["seconds"] for r in found if r["workers"] == n) for n in workers]
        middle = [values[len(values) // 2] for values in seconds]
        failed = [sum(r["failed"] for r in found if r["workers"] == n) for n in workers]
        places = [place + position * 0.27 for place in range(len(workers))]
        colour = (_OURS, _SECOND, _OTHERS)[position]
        bars = axes[0].bar(places, middle, 0.25, color=colour, label=way)
        labels = [f"{count} failed" if count else "" for count in failed]
        axes[0].bar_label(bars, labels=labels, fontsize=7, padding=2)
        axes[0].set_xticks([n + 0.27 for n in range(len(workers))], [f"-n {n}" for n in workers])
    axes[0].set_ylabel("seconds")
    axes[0].legend(fontsize=7)
    fixtures = answers.rows(results, suite.NAME, measure="fixture")
    names = [f"{OURS}: {row['fixture']}" for row in fixtures]
    values = [row["above_empty"]["median"] * 1e6 for row in fixtures]
    _bars(axes[1], names, values, "us a test above an empty fixture", log=False)


def _up(axes: Any, results: Results) -> None:
    for one, measure, label in (
        (axes[0], "delay", "ms from listen() to knowing it"),
        (axes[1], "first answer", "ms from starting it to the first answer"),
    ):
        found = answers.rows(results, up.NAME, measure=measure)
        names = [row["way"] for row in found]
        values = [row["seconds"]["median"] * 1e3 for row in found]
        _bars(one, names, values, label, log=False)

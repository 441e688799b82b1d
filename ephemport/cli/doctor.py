"""`ephemport doctor`: which promises this machine can keep, and what to do about the others."""

import argparse
import json
from typing import Any

from ephemport.cli.check import BROKEN, NOTE, OK, Check
from ephemport.cli.checks import examine
from ephemport.cli.tables import Line, Span, cut_line, show, width, wrapped

WELL, SOME_PROMISE_BROKEN = 0, 1

_EPILOG = """\
Each line begins with ok, with note (good to know; no promise is broken) or with NO (a promise
cannot be kept).

exit status: 0 every promise can be kept, 1 a promise cannot be kept
"""
_STYLES = {OK: "green", NOTE: "yellow", BROKEN: "bold red"}
_INDENT = 6


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="report which promises this machine can keep",
        description="Report which promises of ephemport this machine can keep, why, and what to do "
        "about the others. The command holds a port for a moment, and another process tries to get "
        "it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(action=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    checks = examine()
    broken = [check for check in checks if check.state == BROKEN]
    if options.json:
        report = {"well": not broken, "checks": [check._asdict() for check in checks]}
        print(json.dumps(report, indent=2))
    else:
        show(_lines(checks, width()))
    return SOME_PROMISE_BROKEN if broken else WELL


def _lines(checks: list[Check], columns: int) -> list[Line]:
    lines: list[Line] = []
    room = max(columns - _INDENT, 1)
    for check in checks:
        state = Span(f"{check.state:<{_INDENT}}", _STYLES[check.state])
        for line in wrapped(f"{check.name}: {check.reason}", room):
            lines.append(cut_line([state, *line], columns))
            state = Span(" " * _INDENT)
        if check.remedy:
            for line in wrapped(f"-> {check.remedy}", room, "cyan"):
                lines.append(cut_line([state, *line], columns))
    broken = sum(check.state == BROKEN for check in checks)
    end = Span("all well", "bold green")
    if broken:
        some = "1 promise" if broken == 1 else f"{broken} promises"
        end = Span(f"{some} cannot be kept here", "bold red")
    return [*lines, [], cut_line([end], columns)]

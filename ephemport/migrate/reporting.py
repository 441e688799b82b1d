"""What people see: a line for each finding, JSON, a diff, a bar while files are read."""

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ephemport.migrate.tree import shown
from ephemport.migrate.uses import Finding

_Item = TypeVar("_Item")
# Below this many files there is nothing to wait for.
_MANY = 50


def as_lines(findings: Iterable[Finding], root: Path) -> str:
    """`file:line:col CODE message`, as linters have it."""
    return "\n".join(
        f"{shown(one.path, root)}:{one.line}:{one.column} {one.code} {one.message}"
        for one in findings
    )


def as_json(findings: Iterable[Finding], root: Path) -> str:
    """The same as a JSON array of objects."""
    return json.dumps(
        [
            {
                "file": shown(one.path, root),
                "line": one.line,
                "column": one.column,
                "code": one.code,
                "message": one.message,
            }
            for one in findings
        ],
        indent=2,
    )


def as_diff(before: Mapping[Path, str], after: Mapping[Path, str], root: Path) -> str:
    """A unified diff of all files that change."""
    parts: list[str] = []
    for path, text in after.items():
        name = shown(path, root)
        old, new = before[path].splitlines(keepends=True), text.splitlines(keepends=True)
        for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"):
            parts.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def moved(
    findings: Iterable[Finding], before: Mapping[Path, str], after: Mapping[Path, str]
) -> list[Finding]:
    """The findings where they stand in the files as they are written now."""
    lines: dict[Path, dict[int, int]] = {}
    for path, text in after.items():
        old, new = before[path].splitlines(), text.splitlines()
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        lines[path] = {
            start + n + 1: first + min(n, max(last - first - 1, 0)) + 1
            for _, start, end, first, last in matcher.get_opcodes()
            for n in range(end - start)
        }
    return [one._replace(line=lines.get(one.path, {}).get(one.line, one.line)) for one in findings]


def watched(items: Iterable[_Item], count: int, what: str) -> Iterator[_Item]:
    """The items one by one, with a bar on a terminal if there are many and rich is installed."""
    if count < _MANY or sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    try:
        rich_console: Any = __import__("rich.console", fromlist=["Console"])
        rich_progress: Any = __import__("rich.progress", fromlist=["track"])
    except ImportError:
        yield from _counted(items, count, what)
        return
    console = rich_console.Console(stderr=True)
    yield from rich_progress.track(
        items, description=what, total=count, console=console, transient=True
    )


def _counted(items: Iterable[_Item], count: int, what: str) -> Iterator[_Item]:
    for done, item in enumerate(items, 1):
        if done % 25 == 0 or done == count:
            print(f"\r{what} {done}/{count}", end="", file=sys.stderr, flush=True)
        yield item
    print("\r" + " " * (len(what) + 20) + "\r", end="", file=sys.stderr, flush=True)

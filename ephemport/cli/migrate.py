"""`ephemport migrate`: find hard-coded ports, and put held ones in their place."""

import argparse
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ephemport._errors import EphemportError
from ephemport.migrate import Result, migrate
from ephemport.migrate.codes import explain, selected, table

_EPILOG = f"""\
codes (--explain CODE says more; `# noqa: CODE` on a line silences it and keeps its port):
{table()}

exit status: 0 nothing found (with --write: nothing left), 1 something found, 2 bad usage

examples:
  ephemport migrate tests
  ephemport migrate --diff tests
  ephemport migrate --write tests && pytest -n 4
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "migrate",
        help="find hard-coded ports in a test suite, and replace them by held ones",
        description="Find hard-coded ports as a linter does. With --write, replace every port "
        "whose uses can all be replaced, by the documented fixtures or by port_map[PORT]; "
        "report the others with the reason.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: .)")
    parser.add_argument("--write", action="store_true", help="change the files")
    parser.add_argument("--diff", action="store_true", help="show the changes, write nothing")
    parser.add_argument(
        "--style",
        choices=("auto", "map", "fixtures"),
        default="auto",
        help="auto: fixtures where all uses of a port lie in one function, port_map elsewhere "
        "(default); map: port_map everywhere; fixtures: leave and report shared ports",
    )
    parser.add_argument("--select", metavar="CODES", help="only these, separated by commas")
    parser.add_argument("--ignore", metavar="CODES", help="not these, separated by commas")
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="files and folders not to look at, as in .gitignore: --exclude examples/",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument("--explain", metavar="CODE", help="say what a code means, and end")
    parser.set_defaults(action=_run)


def _run(options: argparse.Namespace) -> int:
    if options.explain:
        print(explain(options.explain))
        return 0
    if options.write and options.diff:
        raise ValueError("--diff shows what --write would do: give one of them")
    codes = selected(options.select, options.ignore)
    try:
        paths = [Path(one) for one in options.paths or ["."]]
        jobs = os.cpu_count() or 1
        result = migrate(
            paths, style=options.style, codes=codes, jobs=jobs, exclude=options.exclude
        )
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    # What reads Python's syntax trees is loaded by now.
    from ephemport.migrate import reporting

    if options.write:
        for path, text in result.after.items():
            _write(path, result.before[path], text)
    findings = result.findings
    if options.write:
        known = [result.places[one] for one in result.left if one in result.places]
        others = [one for one in result.left if one not in result.places]
        findings = sorted([*known, *reporting.moved(others, result.before, result.after)])
    if options.diff:
        sys.stdout.write(reporting.as_diff(result.before, result.after, result.root))
    if options.json:
        print(reporting.as_json(findings, result.root))
    elif findings and not options.diff:
        print(reporting.as_lines(findings, result.root))
    elif findings:
        print(reporting.as_lines(result.left, result.root), file=sys.stderr)
    _summarise(options, result)
    return 1 if findings else 0


def _summarise(options: argparse.Namespace, result: Result) -> None:
    found, left = len(result.findings), len(result.left)
    replaced = f"{_counted(result.replaced, 'use')} replaced"
    files = _counted(len(result.after), "file")
    if options.write:
        summary = f"{replaced} in {files}, {_counted(left, 'finding')} left"
    else:
        summary = (
            f"{_counted(found, 'finding')}, {left} to be left; {replaced} in {files} by --write"
        )
    print(f"ephemport: {summary}", file=sys.stderr)
    if options.write and any("(left: " in one.message for one in result.left):
        print(
            "ephemport: what is left can still collide under -n; "
            "pytest --ephemport-isolate needs no edit",
            file=sys.stderr,
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _says(path: Path, text: str) -> bool:
    from ephemport.migrate.finding import UNREADABLE, read_source

    try:
        return read_source(path) == text
    except UNREADABLE:
        return False


def _write(path: Path, before: str, text: str) -> None:
    """Write a file as a whole or not at all, in its own encoding, with its own mode and owner.

    before: what it said when it was read. Raises EphemportError if it says something else by now.
    """
    import tokenize

    if not _says(path, before):
        raise EphemportError(
            f"{path} was changed while the command ran: it stays as it is, and so do the files "
            "that were to be written after it. Run the command again"
        )
    with path.open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
    data = text.encode(encoding if encoding != "utf-8-sig" else "utf-8-sig")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        found = path.stat()
        with suppress(PermissionError):
            # Another user's file, which root, or their group, may change.
            os.chown(name, found.st_uid, found.st_gid)
        os.chmod(name, stat.S_IMODE(found.st_mode))
        os.replace(name, path.resolve())
    except BaseException:
        # The file of mkstemp(), whose name nobody else can have.
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise

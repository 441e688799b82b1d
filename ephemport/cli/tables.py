"""The tables of the commands: aligned, coloured on a terminal, never wider than the terminal."""

import functools
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TextIO

from ephemport._findings import one_line

# If the output is no terminal, a line has no limit.
_UNLIMITED = 1 << 20
_USUAL = 80
_GAP = "  "
_NARROWEST = 8
# These columns are cut first, down to so many characters; then every column, if that is not enough.
_CUT_FIRST = (({"COMMAND", "HOLDER", "SERVER"}, 16), ({"TEST", "HOLD", "WHAT", "WHERE"}, 12))


class Span(NamedTuple):
    """A piece of a line, and its style in rich's terms ("bold red"), "" for plain."""

    text: str
    style: str = ""


Line = list[Span]
Cell = str | Span


def width(stream: TextIO | None = None) -> int:
    """How many columns a line may have."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return _UNLIMITED
    try:
        # Ask the terminal: the variable COLUMNS may be out of date.
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], columns: int, *, indent: str = ""
) -> list[Line]:
    """One or more rows below their heads, without the columns that are empty in every row.

    Text that is too wide is cut with an ellipsis, command lines first.
    """
    # Column by column, because ten thousand rows are nothing unusual.
    cells = list(zip(*([_span(cell) for cell in row] for row in rows), strict=True))
    kept = [
        (head, column)
        for head, column in zip(heads, cells, strict=True)
        if any(span.text for span in column)
    ]
    widths = [max(_cells(head), *(_cells(span.text) for span in column)) for head, column in kept]
    room = columns - len(indent) - len(_GAP) * (len(kept) - 1)
    too_wide = sum(widths) > room
    everything = ({head for head, _ in kept}, _NARROWEST)
    for some, narrowest in (*_CUT_FIRST, everything):
        places = [i for i, (head, _) in enumerate(kept) if head in some]
        while sum(widths) > room and max((widths[i] for i in places), default=0) > narrowest:
            widths[max(places, key=widths.__getitem__)] -= 1
    made = [
        _aligned([Span(head, "bold"), *column], wide, "" if last else _GAP)
        for (head, column), wide, last in zip(
            kept, widths, [False] * (len(kept) - 1) + [True], strict=True
        )
    ]
    lines = [[Span(indent), *line] for line in zip(*made, strict=True)]
    return [cut_line(line, columns) for line in lines] if too_wide else lines


def _aligned(column: Sequence[Span], wide: int, gap: str) -> list[Span]:
    @functools.cache
    def align(span: Span) -> Span:
        text = _cut(span.text, wide)
        return Span(text + " " * (wide - _cells(text)) + gap if gap else text, span.style)

    return [align(span) for span in column]


def wrapped(text: str, columns: int, style: str = "", *, indent: str = "") -> list[Line]:
    """A paragraph of whole words; a word that is too long is cut."""
    lines: list[Line] = []
    current = ""
    for word in text.split():
        longer = f"{current} {word}" if current else word
        if current and _cells(indent + longer) > columns:
            lines.append(cut_line([Span(indent + current, style)], columns))
            current = word
        else:
            current = longer
    lines.append(cut_line([Span(indent + current, style)], columns))
    return lines


def cut_line(line: Line, columns: int) -> Line:
    """The line's first `columns` columns."""
    kept: Line = []
    left = columns
    for span in line:
        text = _cut(span.text, left)
        kept.append(Span(text, span.style))
        left -= _cells(text)
        if left <= 0 or text != span.text:
            break
    return kept


def show(lines: Iterable[Line]) -> None:
    """Print, in colour on a terminal if rich is installed (ephemport[cli])."""
    lines = list(lines)
    console = rich_console()
    if console is None:
        for line in lines:
            _write("".join(span.text for span in line).rstrip())
        sys.stdout.flush()
        return
    console.print(rich_text(lines), soft_wrap=True)


def rich_console() -> Any:
    """Rich's console on standard output; None where it is no terminal, or rich is missing."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False, emoji=False)


def rich_text(lines: Iterable[Line]) -> Any:
    """The lines as rich's Text."""
    from rich.text import Text

    return Text("\n").join(
        Text.assemble(*((span.text, span.style) for span in line), no_wrap=True) for line in lines
    )


def duration(seconds: float | None) -> str:
    """The two largest units: "3 min 5 s", "2 d 4 h"; "" for unknown."""
    if seconds is None:
        return ""
    left, parts = int(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def short(command: str | None) -> str:
    """A command line without the folder of its program."""
    program, blank, rest = (command or "").partition(" ")
    return f"{program.rpartition('/')[2] or program}{blank}{rest}"


def process_ids(pids: Sequence[int]) -> str:
    """The id of the first process that has a socket open, and how many others have it."""
    return f"{pids[0]} +{len(pids) - 1}" if len(pids) > 1 else "".join(map(str, pids))


def user_name(uid: int) -> str:
    """The user's name, or the uid if there is no name."""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _write(text: str) -> None:
    try:
        print(text)
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        print(text.encode("ascii", "backslashreplace").decode("ascii"))


@functools.lru_cache(maxsize=1024)
def _span(cell: Cell) -> Span:
    span = Span(cell) if isinstance(cell, str) else cell
    return Span(one_line(span.text), span.style)


def _cut(text: str, columns: int) -> str:
    if _cells(text) <= columns:
        return text
    kept, used = "", 0
    for one in text:
        used += _cells(one)
        if used > columns - 1:
            break
        kept += one
    return (kept + "…")[: max(columns, 0)]


@functools.lru_cache(maxsize=1024)
def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_cells_of(one) for one in text)


def _cells_of(one: str) -> int:
    if unicodedata.combining(one):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1

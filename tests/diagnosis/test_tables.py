"""What is printed is aligned, never wider than the terminal, and harmless to it."""

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from ephemport.cli.tables import Span, duration, table, wrapped
from tests.conftest import ROOT

HEADS = ("PORT", "STATE", "COMMAND")


def _text(lines: list[list[Span]]) -> list[str]:
    return ["".join(span.text for span in line) for line in lines]


@pytest.mark.parametrize("columns", [1, 2, 10, 20, 33, 80])
def test_never_wider(columns: int) -> None:
    rows = [("8080", "listens", "python -m http.server " * 9), ("1", "日本語" * 20, "é" * 50)]
    for line in _text(table(HEADS, rows, columns, indent="  ")):
        assert sum(2 if one in "日本語" else 1 for one in line) <= columns
    for line in _text(wrapped("many words and averyveryverylongone " * 5, columns, indent=" ")):
        assert len(line) <= columns


def test_aligned_and_empty_columns_left_out() -> None:
    lines = _text(table(("A", "B", "C"), [("1", "", "x"), ("333", "", "y")], 80))
    assert lines == ["A    C", "1    x", "333  y"]


def test_the_command_is_cut_first() -> None:
    lines = _text(table(HEADS, [("8080", "listens", "a" * 100)], 40))
    assert lines[1] == "8080  listens  " + "a" * 24 + "…"


def test_a_command_line_cannot_steer_the_terminal() -> None:
    (line,) = _text(table(("COMMAND",), [("evil\x1b[2J\nsecond\tline\x7f",)], 80))[1:]
    assert line == r"evil\x1b[2J\nsecond\tline\x7f"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.2, "0 s"), (59.9, "59 s"), (60, "1 min"), (3601, "1 h"), (3661, "1 h 1 min"),
     (90061, "1 d 1 h"), (86400.0, "1 d")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("columns", [24, 60, 200])
@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("command", ["['ls', '--all']", "['doctor']", "['who', '1', '2']"])
def test_on_a_terminal(columns: int, rich: bool, command: str) -> None:
    if rich:
        pytest.importorskip("rich")
    without = "" if rich else "sys.modules['rich.console'] = None;"
    code = f"import sys; {without} from ephemport.cli import main; sys.exit(main({command}))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.pop("NO_COLOR", None)
        os.environ.update(TERM="xterm-256color", COLUMNS="500")
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    try:
        while chunk := os.read(terminal, 65536):
            said += chunk
    except OSError:
        pass  # how a terminal says that its other end is closed
    os.waitpid(pid, 0)
    os.close(terminal)
    import re

    assert (b"\x1b[" in said) is rich
    for line in re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines():
        assert len(line) <= columns, line

"""What a run has found so far, and the machine it was found on."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cells import Row
from benchmarks.peers import EPHEMPORT, PEERS


class Progress:
    """Says what is being measured: one changing line on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()

    def step(self, question: str, text: str) -> None:
        line = f"{time.monotonic() - self._began:6.1f} s  {question}: {text}"
        if self._terminal:
            width = os.get_terminal_size(2).columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Record:
    """Rows by question. Every number in them was measured in this run."""

    def __init__(self, *, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self.rows: dict[str, list[Row]] = {}
        self.left_out: dict[str, str] = {}
        self.took: dict[str, float] = {}
        self.interrupted = False
        self.environment = describe_environment()
        self.progress = progress

    def add(self, question: str, row: Row) -> None:
        self.rows.setdefault(question, []).append(row)

    def step(self, question: str, text: str) -> None:
        self.progress.step(question, text)

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out[what] = reason
        self.progress.say(f"left out: {what}: {reason}")

    def as_json(self) -> dict[str, Any]:
        return {
            "quick": self.quick,
            "interrupted": self.interrupted,
            "environment": self.environment,
            "left_out": self.left_out,
            "took": self.took,
            "questions": self.rows,
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")

    def collisions(self) -> list[str]:
        """What happened to a port of ephemport in ephemeral mode and must never happen."""
        return [
            f"{row[kind]} {kind.replace('_', ' ')} of {row['starts']} ({row['range']} range)"
            for row in self.rows.get("collide", [])
            if row["peer"] == EPHEMPORT.name
            for kind in ("failed_starts", "failed_picks", "wrong_answers")
            if row[kind]
        ]


def describe_environment() -> dict[str, Any]:
    """The machine, the kernel, Python, and the versions of everybody."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "machine": platform.machine(),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "peers": {peer.name: peer.missing() or peer.version() for peer in PEERS},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown"

"""docs/servers.md: a header, and a row for every server that was measured."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.mechanics import Outcome
from tests.servers.row import WAYS, Row

COMMAND = "pytest tests/servers --servers all --servers-table docs/servers.md"

HEADER = """\
# Servers

A held port is useful only if every server can take it over. Each row below is a server that the
tests started on a held port, talked to in its own protocol, killed, started again on the same port,
and talked to again, once for each column. The test run itself writes the table:

    apt-get install {apt}
    pip install -e '.[servers,torch]'
    {command}

The default test run has only the rows in bold. It needs only

    apt-get install {core_apt}

- **By itself**: `reserve()` and `popen([...])`, or any other way to start the server.
- **Assisted**: `popen([...], assist=True)`, for servers that set neither SO_REUSEADDR nor
  SO_REUSEPORT, and for UDP, whose hold is exclusive.
- **Over a shadow**: `reserve(handoff="shadow")`, for such servers when somebody else starts them.
  The shadow is on ::1. It conflicts with a server that binds both families with one socket on `::`.
- **By socket**: `popen([...], activate=True)`, or the socket of `listen()`. The server gets the
  socket itself; the cell says by which setting. "-": the server takes no socket. The socket is in
  blocking mode, as with systemd: call `setblocking(False)` before Tornado's `add_socket()`. For
  Java's `inheritedChannel()` it must be descriptor 0, as with inetd: `sh -c 'exec java ... <&3'`.
- **Comes back**: after SIGKILL, on the same port, in each of the ways in which it took over. A
  server that sets no option does not come back over a shadow while its last connections are in
  TIME_WAIT. The same happens without a hold.
- **Listens after**: the time from `popen()` until `wait_listening(process=...)` returned, the
  shortest of all starts except those by socket; measured once on one machine, and rounded. When the
  table is written again, a time changes only if it differs by more than a factor of three.

"""

COLUMNS = ["Server", "Takes its port by", *WAYS.values(), "Comes back", "Listens after"]


def cells(row: Row, outcomes: Mapping[str, Outcome]) -> list[str]:
    """The row's line, cell by cell."""
    name = f"**{row.name}**" if row.core else row.name
    took = [
        "-" if way not in outcomes else "yes" if outcomes[way].took_over else "no" for way in WAYS
    ]
    if took[-1] == "yes":
        took[-1] = row.takes_socket
    stayed_away = [
        f"not {WAYS[way][0].lower()}{WAYS[way][1:]}"
        for way, outcome in outcomes.items()
        if outcome.took_over and not outcome.came_back
    ]
    # By socket it listens before it starts.
    seconds = [one.seconds for way, one in outcomes.items() if one.took_over and way != "activated"]
    time = _rounded(min(seconds)) if seconds else "-"
    return [name, row.takes, *took, ", ".join(stayed_away) or "yes", time]


def write(path: Path, rows: Sequence[Row], measured: Mapping[str, list[str]]) -> None:
    """Write the table; rows that this run did not measure stay as they are in the file."""
    before = _read(path)
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        name = f"**{row.name}**" if row.core else row.name
        old, new = before.get(name), measured.get(row.name)
        if new is not None and old is not None and _alike(old[-1], new[-1]):
            new = [*new[:-1], old[-1]]
        if new or old:
            lines.append("| " + " | ".join(new or old or ()) + " |")
    header = HEADER.format(
        command=COMMAND,
        apt=" \\\n        ".join(
            textwrap.wrap(" ".join(packages(rows)), 80, break_on_hyphens=False)
        ),
        core_apt=" ".join(packages([row for row in rows if row.core])),
    )
    path.write_text(header + "\n".join(lines) + "\n")


def packages(rows: Sequence[Row]) -> list[str]:
    """The Debian packages that bring the rows' servers."""
    return sorted({need.apt for row in rows for need in row.needs if need.apt})


def _read(path: Path) -> dict[str, list[str]]:
    if not path.exists():
        return {}
    split = (line.strip("| ").split(" | ") for line in path.read_text().splitlines())
    return {one[0]: one for one in split if len(one) == len(COLUMNS)}


def _rounded(seconds: float) -> str:
    """One digit of seconds, or of tenths of it."""
    return f"{seconds:.0f} s" if seconds >= 1 else f"{max(seconds, 0.01):.1g} s"


def _alike(old: str, new: str) -> bool:
    matches = [re.match(r"([0-9.]+) s$", text) for text in (old, new)]
    if not all(matches):
        return False
    low, high = sorted(float(found[1]) for found in matches if found)
    return high <= 3 * low

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

A number is only worth holding if every server can get it. Each row below is a server that was
really started on a held number, talked to in its own protocol, killed, started again on the same
number, and talked to again, once for each column. The table is written by the run itself:

    apt-get install {apt}
    pip install -e '.[servers,torch]'
    {command}

The default run of the tests has the rows in bold, and needs no more than

    apt-get install {core_apt}

- **By itself**: `reserve()` and `popen([...])`; or start it whichever way you like.
- **Assisted**: `popen([...], assist=True)`, for servers that set neither SO_REUSEADDR nor
  SO_REUSEPORT, and for UDP, whose hold is exclusive.
- **Over a shadow**: `reserve(handoff="shadow")`, for such servers when somebody else starts them.
  The shadow is on ::1, in the way of a server that binds both families with one socket on `::`.
- **By socket**: `popen([...], activate=True)`, or the socket of `listen()`: the server is given
  the socket itself, and this is how it is told; "-": it takes none. The socket blocks, as
  systemd's do: before Tornado's `add_socket()` it wants a `setblocking(False)`. For Java's
  `inheritedChannel()` it must be descriptor 0, as inetd has it: `sh -c 'exec java ... <&3'`.
- **Comes back**: after SIGKILL, on the same number, by each of the ways by which it took over. A
  server that sets no option does not come back over a shadow while its last connections are in
  TIME_WAIT, which is what happens to it without a hold too.
- **Listens after**: from `popen()` until `wait_listening(process=...)` returned, the best of all
  starts but those by socket; here, once, and rounded. When the table is written again, a time
  stays as it is unless it is off by more than a factor of three.

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
    """Write the table; rows that were not measured this time stay as they are in the file."""
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
    numbers = [re.match(r"([0-9.]+) s$", text) for text in (old, new)]
    if not all(numbers):
        return False
    low, high = sorted(float(found[1]) for found in numbers if found)
    return high <= 3 * low

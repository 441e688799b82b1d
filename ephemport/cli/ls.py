"""`ephemport ls`: the ports that ephemport reservations hold, as the kernel reports them."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from ephemport._findings import HOLDS, LISTENS, RECEIVES, Found, place, unknown_owner
from ephemport._kernel.processes import environment
from ephemport._looking.diagnosis import all_holders_and_listeners
from ephemport._looking.sight import unseen, unseen_holders
from ephemport.cli import tables
from ephemport.cli.tables import Cell, Line, Span

HELD, TAKEN_OVER, SHADOWED, EXCLUSIVE = "held", "taken over", "shadowed", "exclusive"

_EPILOG = """\
states: held (open to a server that sets SO_REUSEADDR or SO_REUSEPORT), exclusive (open to nobody;
every UDP hold that is no shadow), shadowed (held on an address that the server does not use), taken
over (a server listens)

ephemport recognises a hold by its socket and by the mark of its process. If the process cannot be
inspected, only the socket is known, and the state has a question mark: it looks like a hold of
ephemport.
"""

_STYLES = {HELD: "cyan", EXCLUSIVE: "cyan", SHADOWED: "magenta", TAKEN_OVER: "green"}
_PAUSE = 1.0


class HeldPort(NamedTuple):
    """A held port: its hold, and the server that took it over."""

    port: int
    protocol: str
    state: str
    certain: bool
    hold: Found
    server: Found | None
    worker: str | None
    test: str | None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        server = self.server and _process(self.server)
        return {
            "port": self.port,
            "protocol": self.protocol,
            "state": self.state,
            "certain": self.certain,
            "hold": self.hold.hold,
            "address": self.hold.address,
            "holder": _process(self.hold),
            "server": server,
            "worker": self.worker,
            "test": self.test,
            "age": self.hold.age,
        }


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ls",
        help="list the held ports",
        description="List the ports that ephemport reservations of this user hold (root: of all "
        "users), with the holder and the server. The kernel reports them; there is no registry.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--watch", action="store_true", help="refresh every second, until Ctrl-C")
    parser.add_argument(
        "--all", action="store_true", help="every listener and holder of every user and program"
    )
    parser.set_defaults(action=_ls)


def held_ports(found: Iterable[Found], uid: int) -> list[HeldPort]:
    """The ports that user `uid` holds (root: anybody), out of all holders and listeners."""
    found = list(found)
    servers: dict[tuple[int, str], Found] = {}
    for one in found:
        if one.state in (LISTENS, RECEIVES):
            servers.setdefault((one.port, one.protocol), one)
    return [
        _held_port(one, servers.get((one.port, one.protocol)))
        for one in found
        if one.state == HOLDS and one.ephemport is not False and uid in (0, one.uid)
    ]


def _held_port(hold: Found, server: Found | None) -> HeldPort:
    state = {"shadow": SHADOWED, "exclusive": EXCLUSIVE}.get(hold.hold or "", HELD)
    worker, test = hold.worker, hold.test
    if server is not None:
        state = TAKEN_OVER
        if server.pid is not None and server.pid != hold.pid:
            # A subprocess of a test has the variables in its environment. The test's own process
            # does not: pytest sets them after exec().
            names = ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST")
            variables = environment(server.pid, names)
            worker = worker or variables.get("PYTEST_XDIST_WORKER")
            test = _without_phase(variables.get("PYTEST_CURRENT_TEST")) or test
    certain = hold.ephemport is True
    return HeldPort(hold.port, hold.protocol, state, certain, hold, server, worker, test)


def _without_phase(current_test: str | None) -> str | None:
    # "tests/test_it.py::test_one (call)"
    return current_test and current_test.rpartition(" (")[0]


def _ls(options: argparse.Namespace) -> int:
    if options.watch and (options.json or not sys.stdout.isatty()):
        raise ValueError("--watch refreshes a terminal: not with --json, not into a file or pipe")
    if options.watch:
        with suppress(KeyboardInterrupt):
            _watch(options.all)
        return 0
    if options.json:
        found = all_holders_and_listeners()
        print(json.dumps(_as_json(found, options.all), indent=2))
        for one in unseen():
            print(f"not seen: {one}", file=sys.stderr)
        return 0
    tables.show(_lines(options.all, tables.width()))
    return 0


def _as_json(found: list[Found], everything: bool) -> list[dict[str, Any]]:
    if everything:
        return [one._asdict() for one in found]
    return [one.as_dict() for one in held_ports(found, os.geteuid())]


def _lines(everything: bool, columns: int) -> list[Line]:
    found = all_holders_and_listeners()
    if everything:
        lines = _all_table(found, columns)
    else:
        lines = _held_table(held_ports(found, os.geteuid()), columns)
    for one in unseen():
        lines += tables.wrapped(f"not seen: {one}", columns, "yellow")
    return lines


def _held_table(held: list[HeldPort], columns: int) -> list[Line]:
    if not held:
        seen = unseen_holders() is None
        return tables.wrapped("no port is held" if seen else "no held port is seen", columns)
    heads = (
        *("PORT", "PROTO", "STATE", "AGE", "USER", "PID", "HOLDER"),
        *("PID", "SERVER", "WORKER", "TEST"),
    )
    several = len({one.hold.uid for one in held}) > 1
    return tables.table(heads, [_row(one, several) for one in held], columns)


def _row(one: HeldPort, with_user: bool) -> list[Cell]:
    return [
        Span(str(one.port), "bold"),
        one.protocol,
        Span(one.state + ("" if one.certain else " ?"), _STYLES[one.state]),
        tables.duration(one.hold.age),
        tables.user_name(one.hold.uid) if with_user else "",
        *_pid_and_command(one.hold),
        *(_pid_and_command(one.server) if one.server is not None else ("", "")),
        one.worker or "",
        one.test or "",
    ]


def _all_table(found: list[Found], columns: int) -> list[Line]:
    heads = ("PORT", "PROTO", "STATE", "ADDRESS", "USER", "AGE", "PID", "COMMAND", "HOLD")
    rows: list[list[Cell]] = [
        [
            Span(str(one.port), "bold"),
            one.protocol,
            Span(one.state, "cyan" if one.state == HOLDS else "red"),
            place(one.address, one.port),
            tables.user_name(one.uid),
            tables.duration(one.age),
            *_pid_and_command(one),
            one.whose.lstrip(", "),
        ]
        for one in found
    ]
    return tables.table(heads, rows, columns) if rows else tables.wrapped("nothing", columns)


def _pid_and_command(one: Found) -> tuple[str, str]:
    if one.pid is None:
        return "", unknown_owner(one.uid)
    return tables.process_ids(one.pids), tables.short(one.command)


def _process(one: Found) -> dict[str, Any]:
    return {
        "pid": one.pid,
        "pids": one.pids,
        "uid": one.uid,
        "command": one.command,
        "age": one.age,
        "address": one.address,
        "container": one.container,
    }


def _watch(everything: bool) -> None:
    console = tables.rich_console()
    if console is None:
        _watch_plainly(everything)
        return
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            lines = _screen(everything)
            live.update(tables.rich_text(lines), refresh=True)
            time.sleep(_PAUSE)


def _watch_plainly(everything: bool) -> None:
    # The alternate screen, as in pagers; at the end the former screen comes back (man 4
    # console_codes, xterm's ctlseqs: DECSET 1049, cursor home, erase below).
    sys.stdout.write("\033[?1049h\033[?25l")
    try:
        while True:
            lines = _screen(everything)
            text = "\r\n".join("".join(span.text for span in line).rstrip() for line in lines)
            sys.stdout.write(f"\033[H\033[2J{text}")
            sys.stdout.flush()
            time.sleep(_PAUSE)
    finally:
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()


def _screen(everything: bool) -> list[Line]:
    """The time, and as many lines below it as the terminal has."""
    import shutil

    size = shutil.get_terminal_size()
    now = time.strftime("%H:%M:%S")
    head = tables.cut_line([Span(f"ephemport ls, {now} (Ctrl-C ends)", "dim")], size.columns)
    lines = [head, *_lines(everything, size.columns)]
    return lines[: max(size.lines - 1, 1)]

"""`ephemport who`: who has a port, and which servers could bind it."""

import argparse
import json
import math
import re
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ephemport._findings import (
    CLOSING,
    CONNECTED,
    HOLDS,
    TIME_WAIT,
    Diagnosis,
    Found,
    place,
    unknown_owner,
)
from ephemport._looking.diagnosis import diagnose
from ephemport.cli.tables import (
    Cell,
    Line,
    Span,
    duration,
    process_ids,
    short,
    show,
    table,
    user_name,
    width,
    wrapped,
)

FREE, TAKEN = 0, 1

_EPILOG = """\
Write PORT as 8080, :8080, 8080/udp, localhost:8080 or a URL. The command looks at the port on every
address of this machine. Then it binds the port for a moment, without listening, on each kind of
address, with SO_REUSEADDR, with SO_REUSEPORT and with neither. The last line reports which binds
worked.

exit status: 0 free, 1 taken, 2 bad usage
"""

_STYLES = {HOLDS: "cyan", CONNECTED: "yellow", TIME_WAIT: "yellow", CLOSING: "yellow"}


class Wanted(NamedTuple):
    """A PORT of the command line: the port and its protocol."""

    port: int
    protocol: str


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "who",
        help="report who has a port, and which servers could bind it",
        description="Report every socket on a port, TCP and UDP: listeners, connections, and "
        "holders (sockets that are bound and neither listen nor are connected; ss and lsof do not "
        "show them).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ports", nargs="+", type=_port, metavar="PORT")
    parser.add_argument("--json", action="store_true", help="print a JSON array, one object a PORT")
    parser.set_defaults(action=_who)


def parse_port(text: str) -> Wanted:
    """Read a port as people and programs write it. Raises ValueError.

    The host is not looked up: the port is looked at on this machine.
    """
    rest, _, protocol = text.strip().rpartition("/")
    if protocol.lower() in ("tcp", "udp") and rest and not rest.endswith("/"):
        protocol = protocol.lower()
    else:
        rest, protocol = text.strip(), "both"
    if "://" in rest:
        parts = urlsplit(rest)
        if parts.scheme in ("tcp", "udp"):
            protocol = parts.scheme
        try:
            port = parts.port
        except ValueError:
            raise ValueError(f"{text!r} has no port: ports are 1 to 65535") from None
        if port is None:
            port = _usual_port(parts.scheme, text)
        return Wanted(_checked(port, text), protocol)
    match = re.fullmatch(r"(?:(?:\[[0-9A-Fa-f:.%\w]*\]|[^:\[\]/\s]*):)?([0-9]{1,7})", rest)
    if match is None:
        raise ValueError(f"{text!r} is no port; write 8080, :8080, 8080/udp, host:8080 or a URL")
    return Wanted(_checked(int(match[1]), text), protocol)


def _usual_port(scheme: str, text: str) -> int:
    try:
        return socket.getservbyname({"ws": "http", "wss": "https"}.get(scheme, scheme))
    except (OSError, ValueError):  # ValueError: no name of a service at all
        known = {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(scheme)
    if known is None:
        raise ValueError(f"{text!r} names no port, and {scheme} has no usual one")
    return known


def _checked(port: int, text: str) -> int:
    if not 0 < port < 65536:
        raise ValueError(f"{text!r} is no port: ports are 1 to 65535")
    return port


def _port(text: str) -> Wanted:
    try:
        return parse_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _who(options: argparse.Namespace) -> int:
    wanted: list[Wanted] = options.ports
    answers = [diagnose(one.port, one.protocol, elsewhere=True) for one in wanted]
    if options.json:
        print(json.dumps([answer.as_dict() for answer in answers], indent=2))
    else:
        columns = width()
        for index, answer in enumerate(answers):
            show([*([[]] if index else []), *lines_of(answer, columns)])
    return FREE if all(answer.free for answer in answers) else TAKEN


def lines_of(answer: Diagnosis, columns: int) -> list[Line]:
    """The answer as a person reads it."""
    name = str(answer.port) if answer.protocol == "both" else f"{answer.port}/{answer.protocol}"
    state = Span("free", "bold green") if answer.free else Span("taken", "bold red")
    lines: list[Line] = [[Span(name, "bold"), Span(" is "), state]]
    if answer.found:
        lines += _table(answer.found, columns)
    lines += wrapped(answer.meaning, columns, "bold" if answer.found else "", indent="  ")
    if answer.elsewhere:
        lines += wrapped("In other network namespaces (not in the way here):", columns, indent="  ")
        lines += _table(answer.elsewhere, columns)
    for one in answer.unseen:
        lines += wrapped(f"not seen: {one}", columns, "yellow", indent="  ")
    return lines


def _table(found: tuple[Found, ...], columns: int) -> list[Line]:
    heads = ("", "STATE", "ADDRESS", "PID", "USER", "AGE", "WHERE", "WHAT", "COMMAND")
    return table(heads, [_row(one) for one in found], columns, indent="  ")


def _row(one: Found) -> list[Cell]:
    where = [one.container or "", f"network {one.network}" if one.network else ""]
    return [
        one.protocol,
        Span(one.state, _STYLES.get(one.state, "red")),
        place(one.address, one.port),
        process_ids(one.pids),
        user_name(one.uid) if one.pid is not None else owner(one),
        duration(one.age),
        ", ".join(filter(None, where)),
        _what(one),
        short(one.command),
    ]


def owner(one: Found) -> str:
    """The owner of a socket whose process is unknown."""
    return "" if one.state in (TIME_WAIT, CLOSING) else unknown_owner(one.uid)


def _what(one: Found) -> str:
    """The kind of a hold, or the number of connections and their peer."""
    if not one.connections:
        return one.whose.lstrip(", ")
    peer = f" to {one.peer}" if one.connections == 1 and one.peer else ""
    left = "" if one.seconds_left is None else f", {math.ceil(one.seconds_left)} s left"
    return f"{one.connections} connection{'s' if one.connections > 1 else ''}{peer}{left}"

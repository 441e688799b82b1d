"""`ephemport run`: a command whose port numbers are held for as long as it runs."""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ephemport._placeholders import fill
from ephemport._request import Request
from ephemport.cli import numbers

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_EPILOG = """\
{NAME} in the arguments stands for the number, {{ and }} for literal braces; ${NAME} is left to
the shell, which finds the same number in its environment.

examples:
  ephemport run -p PORT -- python -m http.server {PORT}
  ephemport run -p HTTP -p GRPC -- server --http {HTTP} --grpc {GRPC}
"""
_FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a command with numbers held for it",
        description="Reserve a number for each NAME, set it in the environment under that name, "
        "put it in place of {NAME} in the command's arguments, and hold it while the command runs. "
        "Signals are forwarded; the exit status is the command's (128+n when signal n ended it, "
        "127 when it is not found, 126 when it cannot be executed).",
        usage="ephemport run [-p NAME ...] [options] -- COMMAND [ARGUMENT ...]",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, protocol, what in (
        ("-p", "tcp", "a TCP number (without any name: PORT)"),
        ("--udp", "udp", "a UDP number"),
        ("--both", "both", "a number that is held for TCP and UDP alike"),
    ):
        parser.add_argument(
            option,
            dest="names",
            action="append",
            type=_named(protocol),
            metavar="NAME",
            help=f"reserve {what}; may be given often",
        )
    numbers.add_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say which numbers")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(action=_run)


def _named(protocol: str) -> Callable[[str], tuple[str, str]]:
    def name(text: str) -> tuple[str, str]:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no name of an environment variable (letters, digits, _)"
            )
        return text, protocol

    return name


def _run(options: argparse.Namespace) -> int:
    names: list[tuple[str, str]] = options.names or [("PORT", "tcp")]
    if not options.command:
        raise ValueError("no command given: ephemport run -p NAME -- COMMAND")
    if len({name for name, _ in names}) < len(names):
        raise ValueError(f"a name is given twice: {' '.join(name for name, _ in names)}")
    # Checked with any numbers, before one is reserved.
    _fill_all(options.command, dict.fromkeys((name for name, _ in names), ""))
    requests = [_request(options.host, protocol) for _, protocol in names]
    reservations = numbers.reserve_all(options.mode, requests)
    try:
        values = {name: str(kept.port) for (name, _), kept in zip(names, reservations, strict=True)}
        if not options.quiet:
            told = " ".join(f"{name}={number}" for name, number in values.items())
            print(f"ephemport: {told}", file=sys.stderr, flush=True)
        return _hold_while_it_runs(_fill_all(options.command, values), values)
    finally:
        for reservation in reservations:
            reservation.release()


def _request(host: str, protocol: str) -> Request:
    # A UDP server sets no option, so only a shadow lets it in when it binds by number.
    return Request(host, protocol, handoff="shadow" if protocol == "udp" else "takeover")


def _fill_all(command: list[str], values: dict[str, str]) -> list[str]:
    return [fill(argument, values) for argument in command]


def _hold_while_it_runs(command: list[str], values: dict[str, str]) -> int:
    """Run `command`, forward signals to it, return its status as a shell would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked before the child exists, so that no signal is lost between the two.
    watched = {*_FORWARDED, signal.SIGCHLD}
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **values},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, inherited),
        )
    except FileNotFoundError:
        print(f"ephemport: command not found: {command[0]}", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"ephemport: cannot execute {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE
    while process.poll() is None:
        received = signal.sigwaitinfo(watched)
        # A terminal (SI_KERNEL > 0) has sent it to the command as well: same process group.
        if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
            process.send_signal(received.si_signo)
    status = process.returncode
    return status if status >= 0 else 128 - status

"""`ephemport run`: a command whose port numbers are held for as long as it runs."""

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ephemport import EphemportError, Reservation
from ephemport._holding.handoffs import SHADOW, TAKEOVER, TAKEOVER_SHADOWING_UDP
from ephemport._holding.request import Request
from ephemport._isolating.enter import enter
from ephemport._reservation import start_server
from ephemport._serving.placeholders import fill
from ephemport.cli import numbers

if TYPE_CHECKING:
    import subprocess

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_EPILOG = """\
{NAME} in the arguments stands for the number, {{ and }} for literal braces; ${NAME} is left to
the shell, which finds the same number in its environment.

examples:
  ephemport run -p PORT -- python -m http.server {PORT}
  ephemport run -p HTTP -p GRPC -- server --http {HTTP} --grpc {GRPC}
  ephemport run --wait-listening 10 --assist -- ./server-without-options {PORT}
  ephemport run --activate -- gunicorn app:app
  ephemport run --isolate -- ./job-with-hard-coded-ports
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
    parser.add_argument(
        "--wait-listening",
        type=float,
        metavar="SECONDS",
        help="say on standard error when the command's server listens on each number, or why not",
    )
    parser.add_argument(
        "--activate",
        action="store_true",
        help="pass listening sockets as descriptors 3, 4, ... with LISTEN_FDS, LISTEN_PID and "
        "LISTEN_FDNAMES (socket activation), in the order of the names",
    )
    parser.add_argument(
        "--assist",
        action="store_true",
        help="let in servers that set neither SO_REUSEADDR nor SO_REUSEPORT, by setting it for "
        "them; the command runs with no_new_privs (sudo and the like do not work below it)",
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="run it in a network namespace of its own, where every number is free; other hosts, "
        "and servers outside, cannot be reached from there",
    )
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
    if options.wait_listening is not None and not options.wait_listening >= 0:
        raise ValueError(f"--wait-listening takes seconds from 0 up, not {options.wait_listening}")
    if options.isolate:
        enter()
    # A UDP server sets no option, so without help only a shadow lets it in.
    helped = options.activate or options.assist
    ways = {} if helped else {"udp": SHADOW, "both": TAKEOVER_SHADOWING_UDP}
    requests = [
        Request(options.host, protocol, handoff=ways.get(protocol, TAKEOVER))
        for _, protocol in names
    ]
    reservations = numbers.reserve_all(options.mode, requests)
    try:
        values = {name: str(kept.port) for (name, _), kept in zip(names, reservations, strict=True)}
        if not options.quiet:
            told = " ".join(f"{name}={number}" for name, number in values.items())
            print(f"ephemport: {told}", file=sys.stderr, flush=True)
        return _Command(options, reservations, values).run()
    finally:
        for reservation in reservations:
            reservation.release()


def _fill_all(command: list[str], values: dict[str, str]) -> list[str]:
    return [fill(argument, values) for argument in command]


class _Command:
    """The command while it runs: its signals, its server, its status."""

    def __init__(
        self, options: argparse.Namespace, reservations: list[Reservation], values: dict[str, str]
    ) -> None:
        self._options = options
        self._reservations = reservations
        self._values = values
        self._waiters: list[threading.Thread] = []

    def run(self) -> int:
        """Run it, forward signals to it, return its status as a shell would."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Blocked before the child exists, so that no signal is lost between the two.
        watched = {*_FORWARDED, signal.SIGCHLD}
        inherited = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        program = self._options.command[0]
        try:
            process = self._start(inherited)
        except FileNotFoundError:
            print(f"ephemport: command not found: {program}", file=sys.stderr)
            return NOT_FOUND
        except OSError as error:
            print(f"ephemport: cannot execute {program}: {error.strerror}", file=sys.stderr)
            return NOT_EXECUTABLE
        if self._options.wait_listening is not None:
            self._wait_for_servers(process)
        while process.poll() is None:
            received = signal.sigwaitinfo(watched)
            # A terminal (SI_KERNEL > 0) has sent it to the command as well: same process group.
            if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
                process.send_signal(received.si_signo)
        for waiter in self._waiters:
            waiter.join()
        status = process.returncode
        return status if status >= 0 else 128 - status

    def _start(self, inherited: set[int | signal.Signals]) -> "subprocess.Popen[bytes]":
        return start_server(
            self._reservations,
            _fill_all(self._options.command, self._values),
            names=list(self._values),
            activate=self._options.activate,
            assist=self._options.assist,
            env={**os.environ, **self._values},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, inherited),
        )

    def _wait_for_servers(self, process: "subprocess.Popen[bytes]") -> None:
        for name, reservation in zip(self._values, self._reservations, strict=True):
            waiter = threading.Thread(target=self._wait, args=(name, reservation, process))
            waiter.start()
            self._waiters.append(waiter)

    def _wait(
        self, name: str, reservation: Reservation, process: "subprocess.Popen[bytes]"
    ) -> None:
        began = time.monotonic()
        try:
            listener = reservation.wait_listening(self._options.wait_listening, process)
        except EphemportError as error:
            told = f"{name}: {error}"
        else:
            told = f"{name}: after {time.monotonic() - began:.3f} s {listener}"
        print(f"ephemport: {told}", file=sys.stderr, flush=True)

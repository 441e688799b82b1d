"""`ephemport run`: a command whose ports are held while it runs."""

import argparse
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ephemport import (
    CallRefused,
    EphemportError,
    Node,
    NodeLost,
    NodeReservation,
    Reservation,
    ServerExited,
)
from ephemport._errors import refusal_in_words
from ephemport._holding.handoffs import SHADOW, TAKEOVER, TAKEOVER_SHADOWING_UDP
from ephemport._isolating.enter import enter
from ephemport._reservation import start_server
from ephemport._serving.placeholders import fill
from ephemport.cli import ports, there
from ephemport.cli.names import refusal
from ephemport.cli.streams import say

if TYPE_CHECKING:
    import subprocess

NOT_FOUND = 127
NOT_EXECUTABLE = 126
# The same as timeout(1).
NOT_LISTENING = 124

# How long, in seconds, a command may take to end after SIGTERM.
_GRACE = 5.0

_EPILOG = """\
{NAME} in the arguments stands for the port, {{ and }} for literal braces. ${NAME} is left to the
shell, which finds the same port in its environment. A NAME that programs read for another purpose
when they start is refused: PATH, HOME, SHELL and the like, LC_*, LD_*, PYTHON*. A NAME with the
word PORT in it, such as PYTHON_PORT, is accepted.

exit status: that of the command (128+n if signal n ended it); 127 if the command is not found, 126
if it cannot be executed, 2 for bad usage; with --wait-listening 124 if a server does not come up,
or that of the command if it fails before

examples:
  ephemport run -p PORT -- python -m http.server {PORT}
  ephemport run -p HTTP -p GRPC -- server --http {HTTP} --grpc {GRPC}
  ephemport run --wait-listening 10 --assist -- ./server-without-options {PORT}
  ephemport run --activate -- gunicorn app:app
  ephemport run --isolate -- ./job-with-hard-coded-ports
  ephemport run --port 8080,8081,0 -- ./server {PORT}
  ephemport run -p HTTP -p ADMIN --port 8000-8010 --exclude 8003 -- ./server {HTTP} {ADMIN}
  ephemport run --range 20000-20099 --outside-ephemeral -- ./server {PORT}
  ephemport run -p PORT -p BUS --offsets 0,10000 -- redis-server --cluster-enabled yes --port {PORT}
  ephemport run --on 'ssh n7' --host 10.0.0.7 -p MASTER_PORT -- ./train    held there, started here
  ephemport run --udp RTP --udp RTCP --contiguous --multiple-of 2 -- ./media-server {RTP}
"""
_FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a command and hold ports for it",
        description="Reserve a port for each NAME, set it in the environment under that name, "
        "put it in place of {NAME} in the command's arguments, and hold it while the command runs. "
        "Signals are forwarded.",
        usage="ephemport run [-p NAME ...] [options] -- COMMAND [ARGUMENT ...]",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, protocol, what in (
        ("-p", "tcp", "a TCP port (the default, if no NAME is given, is -p PORT)"),
        ("--udp", "udp", "a UDP port"),
        ("--both", "both", "one port, held for TCP and for UDP"),
    ):
        parser.add_argument(
            option,
            dest="names",
            action="append",
            type=_named(protocol),
            metavar="NAME",
            help=f"reserve {what}; can be given several times",
        )
    ports.add_options(parser)
    parser.add_argument(
        "--wait-listening",
        type=float,
        metavar="SECONDS",
        help="report on standard error when the command's server listens on each port. If nothing "
        "listens on a port within this time, or another process does, report why and end the "
        f"command (SIGTERM, after {_GRACE:g} s SIGKILL)",
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
        help="let in servers that set neither SO_REUSEADDR nor SO_REUSEPORT: set SO_REUSEADDR for "
        "them. The command runs with no_new_privs (sudo and the like have no effect in it)",
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="run the command in a network namespace of its own, where every port is free. It "
        "cannot reach other hosts or servers outside the namespace",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not report the ports")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(action=_run)


def _named(protocol: str) -> Callable[[str], tuple[str, str]]:
    def name(text: str) -> tuple[str, str]:
        reason = refusal(text)
        if reason is not None:
            raise argparse.ArgumentTypeError(reason)
        return text, protocol

    return name


def _run(options: argparse.Namespace) -> int:
    names: list[tuple[str, str]] = options.names or [("PORT", "tcp")]
    if not options.command:
        raise ValueError("no command given: ephemport run -p NAME -- COMMAND")
    if len({name for name, _ in names}) < len(names):
        raise ValueError(f"a name is given twice: {' '.join(name for name, _ in names)}")
    # Check the arguments before a port is reserved.
    _fill_all(options.command, dict.fromkeys((name for name, _ in names), ""))
    if options.wait_listening is not None and not options.wait_listening >= 0:
        raise ValueError(f"--wait-listening takes seconds from 0 up, not {options.wait_listening}")
    if options.on is not None:
        _refuse_what_is_for_servers_here(options)
    # A UDP server sets no option, so without help only a shadow lets it in.
    helped = options.activate or options.assist
    both = TAKEOVER_SHADOWING_UDP if options.on is None else SHADOW
    ways = {} if helped else {"udp": SHADOW, "both": both}
    if options.isolate:
        enter()
    asked = ports.asked(
        options, [(protocol, ways.get(protocol, TAKEOVER)) for _, protocol in names], len(names)
    )
    with asked.held() as held:
        kept: Sequence[Reservation | NodeReservation] = held
        values = {name: str(one.port) for (name, _), one in zip(names, kept, strict=True)}
        if not options.quiet:
            say(" ".join(f"{name}={port}" for name, port in values.items()))
        node = there.node_of(held)
        if node is not None:
            there.when_lost(node, lambda: _say_what_is_lost(node, values))
        here = [one for one in held if isinstance(one, Reservation)]
        return _Command(options, here, values).run()


def _refuse_what_is_for_servers_here(options: argparse.Namespace) -> None:
    for name in ("wait_listening", "activate", "assist", "isolate"):
        if getattr(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is for a server on this host; with --on the command "
                "runs here and its ports are held over there"
            )


def _say_what_is_lost(node: Node, values: dict[str, str]) -> None:
    try:
        there.require_held(node)
    except NodeLost as error:
        say(f"{' '.join(f'{name}={port}' for name, port in values.items())}: {error}")


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
        self._main = threading.get_ident()
        # Set by the threads whose wait failed. `_ended` is set by the main thread.
        self._not_up = self._must_end = False
        self._ended = False

    def run(self) -> int:
        """Run it, forward signals to it, return its exit status as a shell does."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Blocked before the child exists: else a signal could be lost before it can be forwarded.
        watched = {*_FORWARDED, signal.SIGCHLD}
        inherited = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        program = self._options.command[0]
        try:
            signal.sigtimedwait([], 0)
        except OSError as error:
            why = refusal_in_words(error.errno)
            raise CallRefused(f"cannot run {program}: sigtimedwait(): {why}", error.errno) from None
        try:
            process = self._start(inherited)
        except FileNotFoundError:
            say(f"command not found: {program}")
            return NOT_FOUND
        except OSError as error:
            # Without a name it is not about the program: the system refuses another process.
            if error.filename is None:
                say(f"cannot start {program}: {refusal_in_words(error.errno)}")
            else:
                say(f"cannot execute {program}: {error.strerror}")
            return NOT_EXECUTABLE
        if self._options.wait_listening is not None:
            self._wait_for_servers(process)
        try:
            asked_to_end = self._forward(process, watched)
        except BaseException:
            with suppress(OSError):
                process.kill()
            raise
        for waiter in self._waiters:
            waiter.join()
        status = process.returncode
        if self._ended or (self._not_up and status == 0 and not asked_to_end):
            return NOT_LISTENING
        return status if status >= 0 else 128 - status

    def _forward(self, process: "subprocess.Popen[bytes]", watched: set[signal.Signals]) -> bool:
        """Forward signals until the process ends; return whether a signal asked it to end."""
        asked_to_end = False
        kill_at = math.inf
        while process.poll() is None:
            if self._must_end and not self._ended:
                self._ended = True
                kill_at = time.monotonic() + _GRACE
                say(f"ending the command, pid {process.pid}, whose server is not up (SIGTERM)")
                process.terminate()
            received = _next_signal(watched, kill_at)
            if received is None:
                kill_at = math.inf
                say(f"pid {process.pid} still runs after {_GRACE:g} s: killed (SIGKILL)")
                process.kill()
            elif received.si_signo != signal.SIGCHLD:
                asked_to_end = asked_to_end or received.si_signo in _ENDING
                # A terminal (SI_KERNEL > 0) sends it to the command too: same process group.
                if received.si_code <= 0:
                    process.send_signal(received.si_signo)
        return asked_to_end

    def _start(self, inherited: set[int | signal.Signals]) -> "subprocess.Popen[bytes]":
        return start_server(
            self._reservations,
            _fill_all(self._options.command, self._values),
            names=list(self._values) if self._reservations else [],
            activate=self._options.activate,
            assist=self._options.assist,
            env={**os.environ, **self._values},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, inherited),
        )

    def _wait_for_servers(self, process: "subprocess.Popen[bytes]") -> None:
        for name, reservation in zip(self._values, self._reservations, strict=True):
            waiter = threading.Thread(target=self._wait, args=(name, reservation, process))
            try:
                waiter.start()
            except RuntimeError as error:  # no thread can be had
                say(f"{name}: cannot wait for its server: {error}")
                self._not_up = self._must_end = True
                return
            self._waiters.append(waiter)

    def _wait(
        self, name: str, reservation: Reservation, process: "subprocess.Popen[bytes]"
    ) -> None:
        began = time.monotonic()
        try:
            listener = reservation.wait_listening(self._options.wait_listening, process)
        except ServerExited as error:
            say(f"{name}: {error}")
            self._not_up = True
            # To ask for the status, this thread has kept the main thread from asking, perhaps just
            # when SIGCHLD had woken it.
            self._wake()
        except (EphemportError, OSError) as error:
            say(f"{name}: {error}")
            self._not_up = self._must_end = True
            self._wake()
        else:
            say(f"{name}: after {time.monotonic() - began:.3f} s {listener}")

    def _wake(self) -> None:
        """Wake the main thread, which waits for signals."""
        try:
            signal.pthread_kill(self._main, signal.SIGCHLD)
        except OSError:  # a sandbox refuses tgkill(2)
            os.kill(os.getpid(), signal.SIGCHLD)


def _next_signal(watched: set[signal.Signals], until: float) -> "signal.struct_siginfo | None":
    """The next of these blocked signals; None at the time `until` (monotonic, in seconds)."""
    if until == math.inf:
        return signal.sigwaitinfo(watched)
    return signal.sigtimedwait(watched, max(until - time.monotonic(), 0))

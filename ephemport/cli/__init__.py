"""The `ephemport` command. One file a subcommand."""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ephemport import EphemportError, __version__
from ephemport._spelling import for_the_command
from ephemport.cli import agent, doctor, ls, migrate, reserve, run, who
from ephemport.cli.streams import fill_standard_streams, forget_unwritten, say, unwritten

# BSD's sysexits.h is for daemons; shells and argparse agree on 2 for bad usage, 1 for the rest.
FAILED = 1
BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: this process's) and return the exit status."""
    fill_standard_streams()
    try:
        try:
            status, failure = _status(arguments), None
        except OSError as error:
            status, failure = FAILED, error
        except KeyboardInterrupt:
            # End by the signal: the process that waits for this one has to see it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
            return FAILED
        lost = unwritten()
        if isinstance(lost or failure, BrokenPipeError):
            # The reader has ended, as in "ephemport ls | head".
            return FAILED
        if lost is not None:
            say(f"cannot write to standard output: {lost.strerror}")
            return FAILED
        if failure is not None:
            where = f"{failure.filename}: " if failure.filename else ""
            say(f"{where}{failure.strerror or failure}")
        return status
    finally:
        forget_unwritten()


def _status(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Everything behind "--" belongs to the command to run, also what looks like our options.
    own, behind = (
        (given[: given.index("--")], given[given.index("--") + 1 :])
        if "--" in given
        else (given, [])
    )
    try:
        options = parser.parse_args(own)
        if behind and not hasattr(options, "command"):
            options.parser.error(f"unrecognized arguments: -- {' '.join(behind)}")
    except SystemExit as end:
        # --help, --version, or bad usage that argparse has reported.
        return int(end.code or 0)
    if behind:
        options.command = [*options.command, *behind]
    try:
        with for_the_command():
            status: int = options.action(options)
    except (TypeError, ValueError) as error:
        say(str(error))
        return BAD_USAGE
    except EphemportError as error:
        say(str(error))
        # A missing extra is bad usage: 1 would mean that something was found, or is taken.
        return BAD_USAGE if isinstance(error.__cause__, ImportError) else FAILED
    return status


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own method ignores errors of writing.
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Before Python 3.13, argparse makes an empty list of the value in --host=--.
        if arg_strings == ["--"] and action.option_strings and action.nargs is None:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)


class _Subparser(_Parser):
    """Reports an unknown option with the subcommand's usage, not with the whole command's."""

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        found.parser = self
        return found, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ephemport",
        description="Reserve ports and hold them until their servers have them.",
        epilog="example: ephemport run -p PORT -- python -m http.server {PORT}",
    )
    parser.add_argument("--version", action="version", version=f"ephemport {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Subparser
    )
    run.add_parser(commands)
    reserve.add_parser(commands)
    ls.add_parser(commands)
    who.add_parser(commands)
    doctor.add_parser(commands)
    migrate.add_parser(commands)
    agent.add_parser(commands)
    return parser

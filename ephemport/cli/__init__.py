"""The `ephemport` command. One file a subcommand."""

import argparse
import os
import sys
from collections.abc import Sequence

from ephemport import EphemportError, __version__
from ephemport.cli import doctor, ls, migrate, reserve, run, who

# BSD's sysexits.h is for daemons; shells and argparse agree on 2 for bad usage, 1 for the rest.
FAILED = 1
BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: this process's) and return the exit status."""
    _fill_standard_streams()
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands behind "--" belongs to somebody else's command, whatever it looks like.
    own, behind = (
        (given[: given.index("--")], given[given.index("--") + 1 :])
        if "--" in given
        else (given, [])
    )
    options = parser.parse_args(own)
    if behind:
        if not hasattr(options, "command"):
            parser.error(f"unrecognized arguments: -- {' '.join(behind)}")
        options.command = [*options.command, *behind]
    try:
        status: int = options.action(options)
    except (TypeError, ValueError) as error:
        print(f"ephemport: {error}", file=sys.stderr)
        return BAD_USAGE
    except EphemportError as error:
        print(f"ephemport: {error}", file=sys.stderr)
        # A missing extra: 1 would say that something was found, or taken.
        return BAD_USAGE if isinstance(error.__cause__, ImportError) else FAILED
    except BrokenPipeError:
        # Nobody reads any longer; the interpreter's last flush would complain of it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    return status


def _fill_standard_streams() -> None:
    """Where 0, 1 or 2 is closed, a socket of ours would get that number: open the null device."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ephemport",
        description="Port numbers that are held until their servers have them.",
        epilog="example: ephemport run -p PORT -- python -m http.server {PORT}",
    )
    parser.add_argument("--version", action="version", version=f"ephemport {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run.add_parser(commands)
    reserve.add_parser(commands)
    ls.add_parser(commands)
    who.add_parser(commands)
    doctor.add_parser(commands)
    migrate.add_parser(commands)
    return parser

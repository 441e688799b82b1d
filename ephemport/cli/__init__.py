"""The `ephemport` command. One file a subcommand."""

import argparse
import sys
from collections.abc import Sequence

from ephemport import EphemportError, __version__
from ephemport.cli import reserve, run

# BSD's sysexits.h is for daemons; shells and argparse agree on 2 for bad usage, 1 for the rest.
FAILED = 1
BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: this process's) and return the exit status."""
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
        return FAILED
    return status


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
    return parser

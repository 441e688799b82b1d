"""A wrapper: a program that enters a network of its own and becomes another program."""

import os
import sys
from pathlib import Path

from ephemport._errors import EphemportError
from ephemport._isolating.enter import enter, not_on_this_system

# The exit status of a wrapper that is refused, as that of env(1), nohup(1) and docker-run(1).
REFUSED = 125

# It runs with -I -S, so that no code of the user is imported before the wanted program: a thread
# that is started on import would make a user namespace impossible. The empty package keeps
# ephemport/__init__.py, and all that it imports, out as well.
_WRAPPER = (
    "import sys,types;p=sys.modules['ephemport']=types.ModuleType('ephemport');"
    "p.__path__=[sys.argv.pop(1)];from ephemport._isolating.wrapper import main;main()"
)


def wrapper() -> list[str]:
    """Return the command that enters a network and becomes the command that follows it."""
    package = str(Path(__file__).parent.parent)
    return [sys.executable, "-I", "-S", "-c", _WRAPPER, package]


def main() -> None:
    """Run the wrapper: enter, then become the program in sys.argv. Without one, only try."""
    import signal

    try:
        enter()
    except EphemportError as error:
        print(f"ephemport: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    if sys.argv[1:]:
        # Python ignores SIGPIPE, and an ignored signal stays ignored across exec().
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])


def why_not() -> str | None:
    """Return why isolation fails here and what would allow it, in one line; None if it works."""
    import subprocess

    if (reason := not_on_this_system()) is not None:
        return reason
    done = subprocess.run(
        wrapper(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("ephemport: ") if said else f"it ended with {done.returncode}"


def wrapped(python: str | None) -> str:
    """Return an execnet `python=` that enters a network first (execnet splits it with shlex)."""
    import shlex

    return f"{shlex.join(wrapper())} {python or shlex.quote(sys.executable)}"

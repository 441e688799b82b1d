"""The names under which `ephemport run` sets ports in the command's environment."""

import re

# Programs, shells, the C library and interpreters read these when they start.
_READ_AT_THE_START = frozenset(
    (
        *("PATH", "HOME", "SHELL", "USER", "LOGNAME", "PWD", "IFS", "ENV", "BASH_ENV"),
        *("TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "EPHEMPORT_MODE", "EPHEMPORT_LOCK_DIR"),
    )
)
_BEGINNINGS = ("LC_", "LD_", "PYTHON")
# MASTER_PORT, PGPORT, HTTP_PORTS, PORT_2; and so PYTHON_PORT too.
_SAYS_PORT = re.compile(r"PORTS?(_|[0-9]|$)")


def refusal(name: str) -> str | None:
    """Why `name` cannot stand for a port, and what to do instead; None if it can.

    MASTER_PORT and API can. PATH cannot: the command would not be found. LD_PRELOAD cannot: the
    loader would look for a library of that name.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) is None:
        return f"{name!r} is no name of an environment variable (letters, digits, _)"
    begins_like_one = name.startswith(_BEGINNINGS) and not _SAYS_PORT.search(name)
    if name in _READ_AT_THE_START or begins_like_one:
        return (
            f"{name} is read by programs for something else, and a port as its value would break "
            "the command. Take another name, such as PORT. If the command really needs its port "
            f"there, write: -p PORT -- env {name}={{PORT}} COMMAND"
        )
    return None

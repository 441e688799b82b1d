"""How messages name a setting: as Python spells it, or as the `ephemport` command spells it.

A message is written when its error is raised. At that time it is known who reads the message.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_for_the_command = False


class Setting:
    """A setting. `str()` returns the name that the reader of a message can use.

    python: its name in Python. command: its name on the command line.
    """

    def __init__(self, python: str, command: str) -> None:
        self._python = python
        self._command = command

    def __str__(self) -> str:
        return self._command if _for_the_command else self._python


def is_for_the_command() -> bool:
    """Whether messages name the command's options."""
    return _for_the_command


@contextmanager
def for_the_command(is_so: bool = True) -> Iterator[None]:
    """In the block the reader of messages uses the command, so they name its options."""
    global _for_the_command
    before, _for_the_command = _for_the_command, is_so
    try:
        yield
    finally:
        _for_the_command = before


def preferring(*ports: int) -> str:
    """How to ask for these ports in order; 0 at the end means any."""
    if _for_the_command:
        return f"--port {','.join(map(str, ports))}"
    return f"port={ports[0] if len(ports) == 1 else list(ports)}"


def reserve_with_host(host: str) -> str:
    """How to reserve with this host."""
    return f"--host {host}" if _for_the_command else f"reserve(host={host!r})"


OTHER_LOCKS = Setting(
    "choose another with lock_dir= or EPHEMPORT_LOCK_DIR", "choose another with EPHEMPORT_LOCK_DIR"
)
MORE_DESCRIPTORS = Setting(
    "ulimit -n, or resource.setrlimit(resource.RLIMIT_NOFILE, ...)", "ulimit -n"
)
WITHOUT_PROCESS = Setting("wait without process=", "run it without --wait-listening")
DAEMON = Setting(
    "pass the pid file that it writes, process=Path(...), or start it in the foreground",
    "start it in the foreground",
)
TIMEOUT = Setting("timeout=", "--wait-listening")
HOST = Setting("host=", "--host")
ASSIST = Setting("popen(..., assist=True) or 'ephemport run --assist'", "'ephemport run --assist'")
IN_THIS_PROCESS = Setting("; for a server in this process: 'with assisted():'", "")
ACTIVATE = Setting(
    "popen(..., activate=True), or give it the socket of listen()", "'ephemport run --activate'"
)
TAKEOVER = Setting("handoff='takeover'", "'ephemport reserve --handoff takeover'")
SHADOW = Setting("handoff='shadow'", "'ephemport reserve --handoff shadow'")
FD = Setting("handoff='fd'", "'ephemport run --activate'")
PORT = Setting("port=", "--port")
EXCLUDE = Setting("exclude=", "--exclude")
RANGE = Setting("range=", "--range")
OUTSIDE_EPHEMERAL = Setting("outside_ephemeral=True", "--outside-ephemeral")
CONTIGUOUS = Setting("contiguous=True", "--contiguous")
OFFSETS = Setting("offsets=", "--offsets")
MULTIPLE_OF = Setting("multiple_of=", "--multiple-of")
ON_LOOPBACK = Setting("host='127.0.0.1'", "--host 127.0.0.1")
ASSIST_UDP = Setting("handoff='takeover' and popen(..., assist=True)", "'ephemport run --assist'")

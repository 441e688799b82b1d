"""What is written down about a server: how it is started, and what is expected of it."""

import getpass
import glob
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PYTHON = sys.executable
ROOT = os.geteuid() == 0
USER = getpass.getuser()

# Where daemons are, even for users whose PATH leaves them out.
PATH = os.pathsep.join(
    [
        os.environ.get("PATH", os.defpath),
        "/usr/sbin",
        *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True),
    ]
)

# The ways of getting a held port, as the table's columns have them.
WAYS = {
    "takeover": "By itself",
    "assisted": "Assisted",
    "shadow": "Over a shadow",
    "activated": "By socket",
}


class Place(NamedTuple):
    """Where a server runs: its port, and the folder it was started in."""

    port: int
    folder: Path


class Need(NamedTuple):
    """A program or a Python module, and who brings it: apt-get or pip."""

    name: str
    apt: str = ""
    pypi: str = ""

    def missing(self) -> str | None:
        """What to do about its absence, or None if it is here."""
        if self.pypi:
            here = importlib.util.find_spec(self.name) is not None
        else:
            here = shutil.which(self.name, path=PATH) is not None
        if here:
            return None
        how = f"pip install {self.pypi}" if self.pypi else f"apt-get install {self.apt}"
        return f"{self.name} is not here: {how}"


def program(name: str, apt: str = "") -> Need:
    return Need(name, apt=apt or name)


def module(name: str, pypi: str = "") -> Need:
    return Need(name, pypi=pypi or name)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A server.

    `files` are written into its folder, which is its working directory, with the port in place
    of @PORT@ and the folder in place of @FOLDER@. `prepare` runs there once. In `command` and
    `activated`, {port} is the port; `activated` is for `popen(activate=True)`, without it the
    server takes no socket. `takes` and `takes_socket` are for the table.
    `refuses`: the ways by which it does not get the port.
    `core`: in the default run.
    `unprivileged`: refuses to run as root.
    """

    name: str
    takes: str
    command: tuple[str, ...]
    talk: Callable[[Place], None]
    activated: tuple[str, ...] | None = None
    takes_socket: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    needs: tuple[Need, ...] = ()
    protocol: str = "tcp"
    refuses: frozenset[str] = frozenset()
    core: bool = False
    unprivileged: bool = False

    @property
    def ways(self) -> list[str]:
        """The ways to try."""
        return [way for way in WAYS if way != "activated" or self.activated is not None]

    def missing(self) -> str | None:
        """What to do about what is not here, or None if the server can run."""
        return "; ".join(filter(None, (need.missing() for need in self.needs))) or None


# A server that sets no option. It needs help, and after a crash under a shadow, where nobody sets
# the option for it, it meets what its last connections left behind (TIME_WAIT), as without a hold.
SETS_NO_OPTION = frozenset({"takeover", "shadow, again"})
# A UDP hold is exclusive but for a shadow.
UDP_IS_EXCLUSIVE = frozenset({"takeover"})
# A shadow is on ::1, and so in the way of whoever binds both families with one socket.
ON_BOTH_FAMILIES = frozenset({"shadow"})

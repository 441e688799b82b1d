"""What kernels can do and older ones cannot. Tests state what they need, and each kernel is asked.

`@needs(Ability.SHOWS_BOUND)` skips a test with the reason where the kernel cannot do it.
`@without(Ability.SHOWS_BOUND)` is for the weaker promise of such kernels; elsewhere there is no
such test. On a kernel that is new enough a missing ability is a failure under CI, as each skip is.
"""

import json
import os
import platform
import socket
import sys
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import pytest

from ephemport._kernel.sockets import can_see_bound_inactive


class _Facts(NamedTuple):
    since: tuple[int, int]
    what: str
    weaker: str
    is_here: Callable[[], bool]


def _has_mptcp() -> bool:
    try:
        socket.socket(proto=socket.IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


class Ability(Enum):
    """Something that Linux can do since some version."""

    SHOWS_BOUND = _Facts(
        (6, 8),
        "shows TCP sockets that are bound and do not listen (sock_diag)",
        "messages, `who` and `ls` cannot name who holds a TCP port without listening, and say so; "
        "`release()` after a fork does not wait for the child",
        can_see_bound_inactive,
    )

    MPTCP = _Facts(
        (6, 1),
        "has MPTCP, as Debian builds it",
        "no server uses MPTCP",
        _has_mptcp,
    )

    @property
    def is_here(self) -> bool:
        return self.value.is_here()

    @property
    def may_be_missing(self) -> bool:
        """Whether this kernel is older than the ability."""
        return kernel_version() < self.value.since

    def __str__(self) -> str:
        major, minor = self.value.since
        return f"Linux {major}.{minor} and newer {self.value.what}; this is {platform.release()}"


def kernel_version() -> tuple[int, int]:
    major, minor, *_ = platform.release().split("-")[0].split(".")
    return int(major), int(minor)


def needs(ability: Ability) -> pytest.MarkDecorator:
    return pytest.mark.needs_kernel(ability)


def without(ability: Ability) -> pytest.MarkDecorator:
    return pytest.mark.without_kernel(ability)


if __name__ == "__main__":
    facts = {
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "user": os.geteuid(),
        "missing": [one.name for one in Ability if not one.is_here],
    }
    json.dump(facts, sys.stdout)

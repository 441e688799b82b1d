"""Every way in sandboxes that others make: Docker's profile under crun, bubblewrap, a unit's."""

import shutil
from pathlib import Path

import pytest

from tests.sandbox.conditions import ASSIST, ISOLATE, NO_ASSISTANCE
from tests.sandbox.runtimes import DOCKER, Runtime, as_a_unit, bubblewrap, oci
from tests.sandbox.test_sandboxes import check, forks

_IN_A_CONTAINER = {"files": ("note", "/proc/sys is mounted read-only")}
_NO_NETWORK = "unshare(CLONE_NEWNET|CLONE_NEWUSER): Operation not permitted"

RUNTIMES = {
    "Docker's profile": Runtime(
        "crun",
        oci(DOCKER),
        refused={ASSIST: f"{NO_ASSISTANCE}pidfd_getfd() on a child: ", ISOLATE: _NO_NETWORK},
        doctor={
            **_IN_A_CONTAINER,
            "assisted take-over": ("NO", "pidfd_getfd() on a child: Operation not permitted"),
            "isolation": ("NO", _NO_NETWORK),
        },
    ),
    "Docker's profile, more capabilities": Runtime(
        "crun",
        oci(DOCKER, "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"),
        refused={},
        doctor=_IN_A_CONTAINER,
    ),
    "bubblewrap": Runtime("bwrap", bubblewrap, refused={}, doctor={}),
    "a unit of systemd with restrictions": Runtime(
        "setpriv",
        as_a_unit,
        refused={
            "share()": "cannot share port ",
            ASSIST: f"{NO_ASSISTANCE}process_vm_readv() on a child: ",
            ISOLATE: _NO_NETWORK,
        },
        doctor={
            "seeing listeners": ("note", "sock_diag is refused (Address family not supported"),
            "seeing holders": ("NO", "are not shown"),
            "sharing": ("NO", "Unix sockets with abstract names are refused"),
            "assisted take-over": ("NO", "process_vm_readv() on a child: Operation not permitted"),
            "isolation": ("NO", _NO_NETWORK),
        },
    ),
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_it_works_or_says_what_is_refused(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, as_root: None
) -> None:
    runtime = RUNTIMES[name]
    if shutil.which(runtime.program) is None:
        pytest.skip(f"there is no {runtime.program}")
    suite = tmp_path_factory.mktemp("suite")
    with forks(suite, lambda command: runtime.command(tmp_path, suite, command)) as try_ways:
        check(try_ways("nothing", 0), runtime.refused, runtime.doctor, "")

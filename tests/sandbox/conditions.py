"""The sandboxes: what each refuses, what still works there, and what the errors say.

`docs/sandboxes.md` is made of this table, and the tests check each of its lines.
"""

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tests.sandbox import mounting
from tests.sandbox.mounting import Refused as Refused
from tests.sandbox.refusing import call_named, refuse

REFUSALS = (errno.EPERM, errno.ENOSYS)
# The condition has errnos of its own, and no other.
OTHERWISE = (0,)

ASSIST = "popen(assist=True)"
ISOLATE = "isolate()"
NO_ASSISTANCE = "assisted take-over does not work here: "


class Condition(NamedTuple):
    """One sandbox.

    enter: puts the calling process into it, for good; it takes the errno of the refusals. errors:
    with which errnos it is tried. refused: the ways that do not work, each with a part of its
    error, in which {} is the errno in words; all others work. weaker: what else is weaker there,
    for the documents. doctor: the checks of `doctor` that are not ok because of it, each with its
    state and a part of the reason. roots_alone: ordinary users can isolate() all the same.
    """

    enter: Callable[[int], None]
    errors: tuple[int, ...] = REFUSALS
    refused: Mapping[str, str] = {}
    weaker: str = ""
    doctor: Mapping[str, tuple[str, str]] = {}
    roots_alone: bool = False


def _calls(*names: str) -> Callable[[int], None]:
    def enter(error: int) -> None:
        refuse(*map(call_named, names), error=error)

    return enter


def _made(make: Callable[[], None]) -> Callable[[int], None]:
    def enter(error: int) -> None:
        make()

    return enter


def _with_clone(*names: str) -> Callable[[int], None]:
    """Without threads nothing works: after clone3() with ENOSYS the C library calls clone()."""

    def enter(error: int) -> None:
        refuse(call_named("clone3"), error=errno.ENOSYS)
        refuse(*map(call_named, names), error=error)

    return enter


def _no_assistance(why: str) -> dict[str, Any]:
    return {
        "refused": {ASSIST: f"{NO_ASSISTANCE}{why}"},
        "doctor": {"assisted take-over": ("NO", why)},
    }


_NO_NETLINK: dict[str, tuple[str, str]] = {
    "seeing listeners": ("note", "sock_diag is refused ({}): /proc/net is read instead"),
    "seeing holders": ("NO", "TCP sockets that are bound and do not listen are not shown"),
}
_NO_PIDFD = {"pidfd": ("note", "pidfd_open() is refused ({})")}
_NO_NETWORKS = {"isolation": ("NO", "unshare(CLONE_NEWNET): {}")}
_LATER = (
    "the end of a process is noticed at the next look, up to 0.1 s later (`reserve --for`: 0.2 s). "
    "What an isolated worker leaves behind that was killed is not ended"
)
_SLOWER = (
    "looks cost milliseconds (`/proc/net`), so a wait looks less often. Who holds a TCP port "
    "without listening is not shown"
)

CONDITIONS: dict[str, Condition] = {
    "nothing": Condition(_made(lambda: None), OTHERWISE),
    "`AF_NETLINK` sockets": Condition(_calls("AF_NETLINK"), weaker=_SLOWER, doctor=_NO_NETLINK),
    "`pidfd_open`": Condition(
        _calls("pidfd_open"),
        refused={ASSIST: f"{NO_ASSISTANCE}pidfd_open(): {{}}"},
        weaker=_LATER,
        doctor={**_NO_PIDFD, "assisted take-over": ("NO", "pidfd_open(): {}")},
    ),
    "`pidfd_getfd`": Condition(
        _calls("pidfd_getfd"),
        weaker="the kind of a hold and the options of a stranger's socket are unknown",
        **_no_assistance("pidfd_getfd() on a child: {}"),
    ),
    "`process_vm_readv`": Condition(
        _calls("process_vm_readv"), **_no_assistance("process_vm_readv() on a child: {}")
    ),
    "`ptrace`, `process_vm_readv`, `pidfd_getfd`, `kcmp`": Condition(
        _calls("ptrace", "process_vm_readv", "pidfd_getfd", "kcmp"),
        weaker="as for `pidfd_getfd`",
        **_no_assistance("pidfd_getfd() on a child: {}"),
    ),
    "`seccomp` and `prctl(PR_SET_SECCOMP)`": Condition(
        _calls("seccomp", "PR_SET_SECCOMP"),
        **_no_assistance("seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER): {}"),
    ),
    "`prctl(PR_SET_NO_NEW_PRIVS)`": Condition(
        _calls("PR_SET_NO_NEW_PRIVS"), **_no_assistance("prctl(PR_SET_NO_NEW_PRIVS): {}")
    ),
    "`unshare`, and `clone` with namespaces": Condition(
        _with_clone("unshare", "clone with namespaces"),
        refused={ISOLATE: "unshare(CLONE_NEWNET): {}"},
        doctor=_NO_NETWORKS,
    ),
    "`memfd_create`": Condition(_calls("memfd_create")),
    "`AF_INET6` sockets": Condition(
        _calls("AF_INET6"),
        weaker="ports are held on 0.0.0.0, which covers every address that can be used there",
        doctor={"IPv6": ("note", "AF_INET6 sockets are refused ({})")},
    ),
    "`AF_UNIX` sockets": Condition(
        _calls("AF_UNIX"),
        refused={"share()": "cannot share port "},
        doctor={"sharing": ("NO", "Unix sockets with abstract names are refused ({})")},
    ),
    "all of the above, together": Condition(
        _with_clone(
            *("AF_NETLINK", "AF_UNIX", "AF_INET6", "clone with namespaces", "PR_SET_SECCOMP"),
            *("PR_SET_NO_NEW_PRIVS", "pidfd_open", "pidfd_getfd", "memfd_create", "unshare"),
            *("setns", "seccomp", "ptrace", "process_vm_readv", "kcmp"),
        ),
        refused={
            ASSIST: f"{NO_ASSISTANCE}prctl(PR_SET_NO_NEW_PRIVS): {{}}",
            ISOLATE: "unshare(CLONE_NEWNET): {}",
            "share()": "cannot share port ",
        },
        weaker="all of the above",
        doctor={
            **_NO_NETLINK,
            **_NO_PIDFD,
            **_NO_NETWORKS,
            "IPv6": ("note", "AF_INET6 sockets are refused ({})"),
            "sharing": ("NO", "Unix sockets with abstract names are refused ({})"),
            "assisted take-over": ("NO", "prctl(PR_SET_NO_NEW_PRIVS): {}"),
        },
    ),
    "what Docker before 20.10 does not know": Condition(
        _with_clone("pidfd_open", "pidfd_getfd", "close_range", "faccessat2", "io_uring_setup"),
        refused={ASSIST: f"{NO_ASSISTANCE}pidfd_open(): {{}}"},
        weaker="as for `pidfd_open`",
        doctor={**_NO_PIDFD, "assisted take-over": ("NO", "pidfd_open(): {}")},
    ),
    "`/proc` with hidepid=2": Condition(
        _made(mounting.proc_that_hides),
        OTHERWISE,
        refused={ISOLATE: "cannot isolate: "},
        weaker="only processes that this one started are named",
        doctor={
            "seeing processes": ("note", "/proc hides the processes of others (hidepid)"),
            "isolation": ("NO", "refused: "),
        },
    ),
    "no `/proc`": Condition(
        _made(mounting.no_proc),
        OTHERWISE,
        weaker="no process is named, and a wait with `process=` counts every listener of this user",
        doctor={"seeing processes": ("note", "/proc is not mounted, or may not be read")},
    ),
    "`/proc/sys` and `/sys` read-only": Condition(
        _made(partial(mounting.read_only, "/proc/sys", "/sys")),
        OTHERWISE,
        weaker="what is isolated keeps the kernel's default settings",
        doctor={"files": ("note", "/proc/sys is mounted read-only")},
    ),
    "no `/dev/shm`": Condition(
        _made(mounting.no_shared_memory),
        OTHERWISE,
        weaker="nothing of ephemport; `multiprocessing.Pool()` needs it",
        doctor={"files": ("note", "/dev/shm cannot be written")},
    ),
    "a root that is read-only, `/tmp` too": Condition(
        _made(mounting.read_only_root),
        OTHERWISE,
        refused={"mode fixed": "Read-only file system; choose another with EPHEMPORT_LOCK_DIR"},
        weaker="pytest itself needs `-s -p no:cacheprovider`",
        doctor={"files": ("note", "no file can be written in the temporary folder")},
    ),
    "no IPv6 (`disable_ipv6`)": Condition(
        _made(mounting.no_ipv6),
        OTHERWISE,
        weaker="no shadow for servers on 0.0.0.0 (`NoShadow`)",
        doctor={"IPv6": ("note", "no ::1")},
    ),
    "127.0.0.1/32: no other loopback address": Condition(
        _made(mounting.one_loopback_address),
        OTHERWISE,
        refused={'handoff="shadow", UDP': "it would be held on 127.0.0.2, and this machine has no"},
        doctor={"IPv4": ("note", "There is no address 127.0.0.2")},
    ),
    "a loopback that is down": Condition(
        _made(mounting.no_loopback),
        OTHERWISE,
        weaker="servers can bind, and nobody can connect to them",
        doctor={
            "IPv4": ("NO", "the loopback interface is down"),
            "IPv6": ("note", "no ::1"),
        },
    ),
    "64 open files (RLIMIT_NOFILE)": Condition(
        _made(mounting.few_descriptors),
        OTHERWISE,
        weaker="some 50 ports a process (`PortsExhausted`)",
        doctor={"file descriptors": ("note", "64 a process")},
    ),
    "no bash": Condition(
        _made(partial(mounting.hide, "/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")),
        OTHERWISE,
        weaker="activation starts Python in between, which takes longer",
        doctor={"activation": ("note", "there is no bash")},
    ),
    "no capabilities (`--cap-drop ALL`)": Condition(
        _made(mounting.without_capabilities),
        OTHERWISE,
        refused={ISOLATE: "cannot isolate: "},
        doctor={"isolation": ("NO", "refused: ")},
        roots_alone=True,
    ),
}

# Without these no port can be held: every way says so.
NEEDED = ("socket", "bind", "getsockname", "setsockopt", "SO_REUSEADDR", "SO_REUSEPORT")


def in_words(error: int) -> str:
    """The errno as messages have it."""
    return os.strerror(error) if error else ""

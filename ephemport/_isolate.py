"""A network of one's own for this process, or for a program that is started through a wrapper.

What `pytest --ephemport-isolate` and `ephemport run --isolate` have in common. Inside are the
loopback (127.0.0.1 and ::1), the addresses that the machine has itself, and its settings for port
numbers; the same numbers as outside are free there. There is no way to any other host, and none to
what listens outside, on this machine's own 127.0.0.1 either.

The network ends with its last process; nobody has to clean up after it.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ephemport._errors import EphemportError
from ephemport._kernel.namespaces import enter_new_network

# What the wrapper ends with where it is refused; env(1), nohup(1) and docker-run(1) do so too.
REFUSED = 125

# A new network has the kernel's defaults, and what a suite may bind depends on these. Written in
# this order: the range may not reach below the unprivileged numbers.
_SETTINGS = (
    "core/somaxconn",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_nonlocal_bind",
    "ipv6/bindv6only",
)
# include/uapi/linux/sockios.h, capability.h, prctl.h
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_LOOPBACK_INDEX = 1
_LINK_LOCAL = "20"
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE = 4

# Runs with -I -S, so that nothing of the user's is imported before the program that is wanted:
# a thread that somebody starts on import would make a user namespace impossible. The empty
# package keeps ephemport/__init__.py, and all that it imports, out as well.
_WRAPPER = (
    "import sys,types;p=sys.modules['ephemport']=types.ModuleType('ephemport');"
    "p.__path__=[sys.argv.pop(1)];from ephemport._isolate import main;main()"
)


def wrapper() -> list[str]:
    """The command that enters a network and becomes the command that follows it."""
    package = str(Path(__file__).parent)
    return [sys.executable, "-I", "-S", "-c", _WRAPPER, package]


def main() -> None:
    """The wrapper: enter, then become the program in sys.argv. Without one, only try."""
    import signal

    try:
        enter()
    except EphemportError as error:
        print(f"ephemport: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    if sys.argv[1:]:
        # Python ignores it, and what is ignored stays so across exec().
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])


def why_not() -> str | None:
    """Why nothing can be isolated here and what would allow it, in one line; None if it can."""
    import subprocess

    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}; run it in a container"
    done = subprocess.run(
        wrapper(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("ephemport: ") if said else f"it ended with {done.returncode}"


def enter() -> None:
    """Move the calling thread, and what it starts from now on, into a network of its own.

    With CAP_SYS_ADMIN and CAP_NET_ADMIN (root has them) that is all. Others get a user namespace
    with it, in which they keep their user and group id, and no more rights than they had; that
    takes a process with a single thread. Sockets that are open stay where they are.

    Raises EphemportError: one line that says why not, and what would allow it.
    """
    if sys.platform != "linux":
        raise EphemportError(f"cannot isolate: {why_not()}")
    settings = {name: value for name in _SETTINGS if (value := _setting(name)) is not None}
    addresses = _own_addresses()
    owner = os.readlink("/proc/thread-self/ns/user")
    try:
        enter_new_network()
    except OSError as error:
        raise EphemportError(f"cannot isolate: {error}. {_what_would_allow(error)}") from error
    for name, value in settings.items():
        # Refused below a /proc/sys that is mounted read-only: then the defaults stay.
        if _setting(name) != value:
            with suppress(OSError):
                Path("/proc/sys/net", name).write_text(value, encoding="ascii")
    for add, address in addresses:
        with suppress(OSError):
            add(address)
    if os.readlink("/proc/thread-self/ns/user") != owner and os.geteuid() != 0:
        _drop_capabilities()


def network_of(pid: int | None = None) -> str | None:
    """The network namespace of a process, or of the calling thread; None if it cannot be seen."""
    whose = "thread-self" if pid is None else str(pid)
    try:
        return os.readlink(f"/proc/{whose}/ns/net")
    except OSError:
        return None


class PinnedNetwork:
    """The network namespace of a process, kept from ending so that its name stays its own.

    The name is an inode number, and those of ended namespaces are soon given to new ones. Raises
    OSError for a process that is gone, or may not be looked at.
    """

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        self.name = os.readlink(f"/proc/self/fd/{self._descriptor}")

    def close(self) -> None:
        """Let it end with its last process."""
        os.close(self._descriptor)


def end_processes_in(network: PinnedNetwork, patience: float = 1.0) -> None:
    """End the processes of a network whose owner is gone: SIGTERM, and after `patience` SIGKILL."""
    import select
    import signal

    pidfds = _pidfds_in(network.name)
    try:
        for pidfd in pidfds:
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        waiting = select.poll()
        for pidfd in pidfds:
            waiting.register(pidfd, select.POLLIN)
        left = set(pidfds)
        while left and (ended := waiting.poll(patience * 1000)):
            for pidfd, _ in ended:
                waiting.unregister(pidfd)
                left.discard(pidfd)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
    # Once more from the start: what was ending may have started others.
    for pidfd in _pidfds_in(network.name):
        with suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def _pidfds_in(network: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and network_of(int(name)) == network:
            try:
                pidfd = os.pidfd_open(int(name))
            except OSError:
                continue
            # Asked again with the process pinned: its number may have become another's.
            if network_of(int(name)) == network:
                found.append(pidfd)
            else:
                os.close(pidfd)
    return found


def _setting(name: str, root: str = "/proc/sys/net") -> str | None:
    try:
        return Path(root, name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _own_addresses() -> Sequence[tuple[Callable[[str], None], str]]:
    """How to add each address of this machine to the loopback of another network.

    Servers bind what socket.gethostname() resolves to, and getaddrinfo() with AI_ADDRCONFIG leaves
    out a family in which there is only the loopback.
    """
    from functools import partial

    found: list[tuple[Callable[[str], None], str]] = []
    with suppress(OSError, ValueError):
        trie = Path("/proc/thread-self/net/fib_trie").read_text(encoding="ascii")
        local = dict.fromkeys(re.findall(r"\|-- ([\d.]+)\n\s+/32 host LOCAL", trie))
        others = [address for address in local if not address.startswith("127.")]
        found += [(partial(_add_ipv4, number), one) for number, one in enumerate(others, 1)]
    with suppress(OSError, ValueError):
        for line in Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines():
            address, _, _, scope, _, interface = line.split()
            if interface != "lo" and scope != _LINK_LOCAL:
                found.append((_add_ipv6, address))
    return found


def _add_ipv4(number: int, address: str) -> None:
    import fcntl
    import socket
    import struct

    # struct ifreq with a sockaddr_in; an alias "lo:1" makes a second address of the interface.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            name, raw = f"lo:{number}".encode(), socket.inet_aton(value)
            fcntl.ioctl(
                any_socket, request, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, raw)
            )


def _add_ipv6(address: str) -> None:
    import fcntl
    import socket
    import struct

    # struct in6_ifreq: the address, the length of its prefix, the interface.
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as any_socket:
        packed = struct.pack("16sIi", bytes.fromhex(address), 128, _LOOPBACK_INDEX)
        fcntl.ioctl(any_socket, _SIOCSIFADDR, packed)


def _drop_capabilities() -> None:
    """Give up what entering a user namespace gave: a file of mode 0 is still the user's own there.

    exec() would do it. Without it, a test that expects PermissionError would not get one.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise EphemportError(f"cannot isolate: capset(): {os.strerror(number)}")
    # Otherwise /proc/self may belong to root now, and nothing below it could be opened.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _what_would_allow(error: OSError) -> str:
    """The setting that stands in the way on this machine, as a command; else the usual ones."""
    if error.errno == errno.ENOSPC:
        return (
            "What would allow it: sysctl -w user.max_user_namespaces=10000 "
            "user.max_net_namespaces=10000"
        )
    threads = len(os.listdir("/proc/self/task"))
    if error.errno == errno.EINVAL and threads > 1:
        return f"This process has {threads} threads already: start it with ephemport run --isolate"
    for name, refusing, allowing in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
        ("user/max_net_namespaces", "0", "10000"),
    ):
        if _setting(name, "/proc/sys") == refusing:
            return f"What would allow it: sysctl -w {name.replace('/', '.')}={allowing}"
    return (
        "What would allow it: root with CAP_SYS_ADMIN and CAP_NET_ADMIN; in a container "
        "--cap-add SYS_ADMIN --cap-add NET_ADMIN, or --security-opt seccomp=unconfined"
    )

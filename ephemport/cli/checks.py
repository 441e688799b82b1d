"""The checks of `ephemport doctor`: one function a line; each tries the thing itself if it can."""

import errno
import json
import os
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

from ephemport import EphemportError, reserve
from ephemport._holding.host import Endpoint, is_of_this_machine
from ephemport._holding.sources.portserver import Portserver
from ephemport._kernel import port_range
from ephemport._kernel.protocols import NO_SUCH_FAMILY
from ephemport._kernel.sockets import State, can_see_bound_inactive, read_netlink, read_proc_net
from ephemport._looking.diagnosis import diagnose
from ephemport._looking.sight import in_use_in_words
from ephemport.cli.check import BROKEN, NOTE, OK, Check
from ephemport.cli.sandbox_checks import (
    activation,
    assistance,
    files,
    network_namespace,
    pidfd,
    processes,
    sharing,
)
from ephemport.cli.unheld import installed

# A suite with many workers needs some hundred ports, and its connections need as many again.
_SMALL_RANGE = 2000
_CROWDED = 0.8
_FEW_DESCRIPTORS = 256


def examine() -> list[Check]:
    """Every line, in the order in which people read them."""
    return [_safely(name, check) for name, check in _checks().items()]


def _checks() -> dict[str, Callable[[str], Check]]:
    return {
        "self-test": self_test,
        "ephemeral port range": ephemeral_range,
        "ip_local_reserved_ports": reserved_ports,
        "ip_autobind_reuse": autobind_reuse,
        "IPv4": ipv4,
        "IPv6": ipv6,
        "file descriptors": descriptors,
        "seeing listeners": listeners_seen,
        "seeing holders": holders_seen,
        "seeing processes (/proc)": processes,
        "pidfd": pidfd,
        "activation": activation,
        "sharing (Unix sockets)": sharing,
        "assisted take-over (seccomp, pidfd_getfd)": assistance,
        "isolation (network namespaces)": network_namespace,
        "files": files,
        "portserver": portserver,
        "other packages that hand out unheld ports": other_plugins,
    }


def _safely(name: str, check: Callable[[str], Check]) -> Check:
    try:
        return check(name)
    except (OSError, EphemportError) as error:
        return Check(name, BROKEN, f"could not be checked: {error}", "see what the error names")


# A neighbour process that wants the port: prints the result of bind() for each address and option.
_NEIGHBOUR = """
import json, socket, sys
answers = {}
for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
    for option in (None, "SO_REUSEADDR"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                if option:
                    sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
                sock.bind((address, int(sys.argv[1])))
            answers[f"{address} {option}"] = 0
        except OSError as error:
            answers[f"{address} {option}"] = error.errno
print(json.dumps(answers))
"""


def self_test(name: str) -> Check:
    """Hold a port, let another process try to get it, release it, let the process try again."""
    with reserve() as held:
        while_held = _neighbour(held.port)
        diagnosis = diagnose(held.port, "tcp")
    after = _neighbour(held.port)
    strangers = [one for one, answer in while_held.items() if one.endswith("None") and answer == 0]
    if strangers:
        where = ", ".join(one.partition(" ")[0] for one in strangers)
        return Check(
            name,
            BROKEN,
            f"a neighbour process got port {held.port} on {where} while it was held",
            f"please report this, with 'uname -a' ({diagnosis})",
        )
    loopback = _loopback()
    if while_held[f"{loopback} SO_REUSEADDR"] != 0 and not _options_count_after_the_bind(loopback):
        return Check(
            name,
            BROKEN,
            f"no server could take over port {held.port}: this system looks at SO_REUSEADDR at the "
            "bind only, as gVisor's own network stack does, and a hold sets it after the bind. "
            "Ports can be held, shared and looked at, and no server can bind them while they are",
            "use the network stack of the host (runsc --network=host)",
        )
    if while_held[f"{loopback} SO_REUSEADDR"] != 0:
        return Check(
            name,
            BROKEN,
            f"no server could take over port {held.port}: {diagnosis}",
            "reserve with handoff='fd', or start servers with assistance (ephemport run --assist)",
        )
    if after[f"{loopback} None"] != 0:
        answer = os.strerror(after[f"{loopback} None"])
        return Check(name, NOTE, f"port {held.port} was taken after its release: {answer}")
    return Check(
        name,
        OK,
        f"port {held.port}: while it was held, a neighbour process could not get it and a server "
        "with SO_REUSEADDR could; after its release the neighbour got it",
    )


def _options_count_after_the_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as first, socket.socket(family) as second:
        first.bind((address, 0))
        for one in (first, second):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            second.bind(first.getsockname())
        except OSError:
            return False
    return True


def _neighbour(port: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _NEIGHBOUR, str(port)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"the neighbour process failed: {done.stderr.decode(errors='replace')}")
    answers: dict[str, int] = json.loads(done.stdout)
    return answers


def ephemeral_range(name: str) -> Check:
    """How large the range is and how full."""
    ports = port_range.ephemeral_range()
    reserved = port_range.reserved_ports()
    usable = {port for port in ports if port not in reserved}
    used = {kind: len(port_range.ports_in_use(kind) & usable) for kind in ("tcp", "udp")}
    said = {kind: in_use_in_words(count, kind) for kind, count in used.items()}
    reason = (
        f"{ports.start}-{ports.stop - 1}, {len(usable):,} ports, of which "
        f"{said['tcp']} (tcp) and {said['udp']} (udp) are in use"
    )
    remedy = 'sysctl -w net.ipv4.ip_local_port_range="10240 65535"'
    full = max(used.values())
    if full >= len(usable):
        return Check(name, BROKEN, reason, f"release ports, or {remedy}")
    if full > _CROWDED * len(usable):
        return Check(name, NOTE, f"{reason}: nearly full", remedy)
    if len(usable) < _SMALL_RANGE:
        return Check(name, NOTE, f"{reason}: small", remedy)
    return Check(name, OK, reason)


def reserved_ports(name: str) -> Check:
    """How many ports the kernel never assigns."""
    reserved = port_range.reserved_ports()
    if not reserved:
        return Check(name, OK, "none")
    inside = len(reserved & set(port_range.ephemeral_range()))
    return Check(
        name,
        OK,
        f"{len(reserved):,} ports, {inside:,} of them in the ephemeral port range, are never "
        "assigned; they can still be reserved by name",
    )


def autobind_reuse(name: str) -> Check:
    """The setting that breaks the promise."""
    if port_range.autobind_reuse():
        return Check(
            name,
            BROKEN,
            "1: bind() to port 0 may give a held port to a stranger who sets SO_REUSEADDR",
            "sysctl -w net.ipv4.ip_autobind_reuse=0",
        )
    return Check(name, OK, "0: the kernel gives a held port to nobody")


def _loopback() -> str:
    """The loopback address that servers here can bind."""
    v4 = Endpoint(socket.AF_INET, "127.0.0.1")
    return v4.address if is_of_this_machine(v4) else "::1"


def _refused_family(family: int) -> int | None:
    """The errno with which sockets of a family are refused; None if they are not."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno in NO_SUCH_FAMILY:
            return error.errno
    return None


def ipv4(name: str) -> Check:
    """Whether servers can bind 127.0.0.1, the usual host of a reservation."""
    if (refused := _refused_family(socket.AF_INET)) is not None:
        return Check(
            name,
            BROKEN,
            f"AF_INET sockets are refused ({os.strerror(refused)}): no port can be held",
            "allow socket(AF_INET) in the sandbox (RestrictAddressFamilies=, seccomp profile)",
        )
    if _loopback() != "127.0.0.1":
        return Check(
            name,
            NOTE,
            "no address 127.0.0.1: no server can bind it, and no shadow can exist for servers on "
            "::1, on localhost, or for UDP",
            "reserve with host='::1', or as root: ip address add 127.0.0.1/8 dev lo",
        )
    why = _why_no_connection()
    if why is not None:
        return Check(
            name,
            BROKEN,
            f"servers can bind 127.0.0.1, and nobody can connect to them ({why}): the loopback "
            "interface is down",
            "as root: ip link set lo up",
        )
    if not is_of_this_machine(Endpoint(socket.AF_INET, "127.0.0.2")):
        return Check(
            name,
            NOTE,
            "servers can bind 127.0.0.1. There is no address 127.0.0.2: no shadow can exist for "
            "servers on ::1, on localhost, or for UDP",
            "as root: ip address add 127.0.0.1/8 dev lo",
        )
    return Check(name, OK, "servers can bind 127.0.0.1")


def _why_no_connection() -> str | None:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        return str(error.strerror or error)
    return None


def ipv6(name: str) -> Check:
    """Whether one socket can hold both families."""
    if (refused := _refused_family(socket.AF_INET6)) not in (None, errno.EAFNOSUPPORT):
        return Check(
            name,
            NOTE,
            f"AF_INET6 sockets are refused ({os.strerror(refused or 0)}): ports are held on "
            "0.0.0.0, which covers every address that can be used here; no shadow can exist for "
            "servers on 0.0.0.0",
            "allow socket(AF_INET6) in the sandbox (RestrictAddressFamilies=, seccomp profile)",
        )
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return Check(
            name,
            NOTE,
            "not there: ports are held on 0.0.0.0, which covers every address; no shadow can exist "
            "for servers on 0.0.0.0",
        )
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return Check(
            name,
            NOTE,
            "a socket for both families, but no ::1: no shadow can exist for servers on 0.0.0.0",
            "sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
        )
    return Check(name, OK, "one socket holds a port in both families")


def descriptors(name: str) -> Check:
    """How many ports one process can hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft_limit = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    hard_limit = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    reason = f"{soft_limit} a process (hard limit: {hard_limit}); each held port needs one"
    if soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS:
        return Check(name, NOTE, reason, "ulimit -n 4096")
    return Check(name, OK, reason)


def listeners_seen(name: str) -> Check:
    """Whether sock_diag shows listeners: wait_listening() needs it."""
    loopback = _loopback()
    family = socket.AF_INET6 if ":" in loopback else socket.AF_INET
    with socket.create_server((loopback, 0), family=family) as server:
        port = server.getsockname()[1]
        try:
            if read_netlink("tcp", {State.LISTEN}, port=port):
                return Check(
                    name,
                    OK,
                    f"sock_diag answers, in microseconds (Linux {platform.release()})",
                )
            why = "sock_diag does not show a listener of our own"
        except OSError as error:
            why = f"sock_diag is refused ({os.strerror(error.errno or 0)})"
        remedy = (
            "allow AF_NETLINK sockets in the seccomp profile or RestrictAddressFamilies=, and load "
            "the kernel modules tcp_diag, udp_diag"
        )
        try:
            if read_proc_net("tcp", {State.LISTEN}, port=port):
                return Check(
                    name, NOTE, f"{why}: /proc/net is read instead, in milliseconds", remedy
                )
        except OSError as error:
            why += f", and /proc/net cannot be read ({os.strerror(error.errno or 0)})"
        return Check(name, BROKEN, f"{why}: when a server is up is unknown", remedy)


def holders_seen(name: str) -> Check:
    """Whether sock_diag shows TCP sockets that are bound and do not listen."""
    if can_see_bound_inactive():
        return Check(
            name,
            OK,
            f"sock_diag shows sockets that do not listen (Linux {platform.release()})",
        )
    return Check(
        name,
        BROKEN,
        "TCP sockets that are bound and do not listen are not shown. Ports are held all the same, "
        "but 'ephemport ls', 'who' and error messages cannot name the holder",
        "Linux 6.8 or newer, and sock_diag allowed",
    )


def portserver(name: str) -> Check:
    """Whether the portserver answers, if one is wanted."""
    address = os.environ.get("PORTSERVER_ADDRESS")
    if not address:
        return Check(name, OK, "none is asked for (PORTSERVER_ADDRESS is not set)")
    try:
        # The portserver's port is ours until this process ends.
        held = Portserver(address).hold("tcp", ())
    except EphemportError as error:
        return Check(name, BROKEN, str(error), "unset PORTSERVER_ADDRESS, or start it")
    held.close()
    return Check(name, OK, f"{address!r} answers with port {held.port}, which can be held")


def other_plugins(name: str) -> Check:
    """Which other packages hand out ports that nobody holds."""
    found = installed()
    if not found:
        return Check(name, OK, "none is installed")
    return Check(
        name,
        NOTE,
        "; ".join(found),
        "another process can get their ports before they are used: use reserve(), or the fixtures "
        "reservation and reserve_port",
    )

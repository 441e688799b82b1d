"""A network of one's own, and the settings read in it."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from ephemport._kernel import namespaces, port_range

NOBODY = 65534

IN_A_SMALL_NETWORK = """
outside = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user")
namespaces.enter_new_network(user_namespace=OPTION)
namespaces.set_ephemeral_range(40000, 40063)
inside = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user")
ports = port_range.ephemeral_range()
before = port_range.ports_in_use()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
hold = socket.socket(socket.AF_INET6)
hold.bind(("::", 0))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::1", 0))
tcp = {s.getsockname()[1] for s in (listener, client, hold)}
if not sockets.can_see_bound_inactive():
    tcp.discard(hold.getsockname()[1])
answer({
    "left": [a != b for a, b in zip(outside, inside)],
    "ids": [os.getuid(), os.getgid(), os.stat("/proc/self/ns").st_uid],
    "range": [ports.start, ports.stop],
    "before": sorted(before),
    "tcp": port_range.ports_in_use() == tcp and all(port in ports for port in tcp),
    "udp": port_range.ports_in_use("udp") == {udp.getsockname()[1]},
})
"""


def check(found: dict[str, Any], uid: int, gid: int, user_namespace: bool) -> None:
    assert found == {
        "left": [True, user_namespace],
        "ids": [uid, gid, uid],
        "range": [40000, 40064],
        "before": [],
        "tcp": True,
        "udp": True,
    }


@pytest.mark.parametrize("option", [None, False])
def test_root_enters_a_network(
    ask: Callable[..., Any], as_root: None, root_may_unshare: None, option: bool | None
) -> None:
    found = ask(IN_A_SMALL_NETWORK.replace("OPTION", repr(option)))
    check(found, 0, os.getgid(), False)


@pytest.mark.parametrize("option", [None, True])
def test_an_ordinary_user_enters_a_network(
    ask: Callable[..., Any], anyone_may_unshare: None, option: bool | None
) -> None:
    found = ask("become_nobody()\n" + IN_A_SMALL_NETWORK.replace("OPTION", repr(option)))
    uid, gid = (NOBODY, NOBODY) if os.getuid() == 0 else (os.getuid(), os.getgid())
    check(found, uid, gid, True)


def test_root_in_a_user_namespace(
    ask: Callable[..., Any], as_root: None, anyone_may_unshare: None
) -> None:
    check(ask(IN_A_SMALL_NETWORK.replace("OPTION", "True")), 0, os.getgid(), True)


def test_both_loopbacks_work(ask: Callable[..., Any], anyone_may_unshare: None) -> None:
    assert ask(
        """
become_nobody()
namespaces.enter_new_network()
hosts = []
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]) as client:
            hosts.append(client.getpeername()[0])
answer(hosts)
"""
    ) == ["127.0.0.1", "::1"]


def test_settings(ask: Callable[..., Any], anyone_may_unshare: None) -> None:
    result = ask(
        """
def settings():
    return [sorted(port_range.reserved_ports()), port_range.bindv6only(),
            port_range.autobind_reuse()]

become_nobody()
namespaces.enter_new_network()
first = settings()
for name, value in (("ipv4/ip_local_reserved_ports", "8080,9148-9150"),
                    ("ipv6/bindv6only", "1"), ("ipv4/ip_autobind_reuse", "1")):
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)
answer([first, settings()])
"""
    )
    assert result == [[[], False, False], [[8080, 9148, 9149, 9150], True, True]]


def test_settings_where_proc_is_missing(
    ask: Callable[..., Any], as_root: None, tmp_path: Any
) -> None:
    assert ask(
        """
os.chroot(sys.argv[1])
ports = port_range.ephemeral_range()
answer([ports.start, ports.stop, sorted(port_range.reserved_ports()),
        port_range.bindv6only(), port_range.autobind_reuse()])
""",
        tmp_path,
    ) == [32768, 61000, [], False, False]


def test_the_range_of_this_machine() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    ports = port_range.ephemeral_range()
    assert (ports[0], ports[-1]) == (low, high)


@pytest.mark.parametrize("low_high", [(2, 1), (0, 70000)])
def test_a_range_that_the_kernel_does_not_take(
    ask: Callable[..., Any], anyone_may_unshare: None, low_high: tuple[int, int]
) -> None:
    number, message = ask(
        f"""
become_nobody()
namespaces.enter_new_network()
try:
    namespaces.set_ephemeral_range{low_high}
except OSError as error:
    answer([error.errno, str(error)])
"""
    )
    assert number == errno.EINVAL
    assert f"'{low_high[0]} {low_high[1]}'" in message


def test_an_ordinary_user_may_not_set_the_machine(ask: Callable[..., Any]) -> None:
    number, message = ask(
        """
become_nobody()
try:
    namespaces.set_ephemeral_range(*map(int, sys.argv[1:]))
except OSError as error:
    answer([error.errno, str(error)])
""",
        port_range.ephemeral_range()[0],
        port_range.ephemeral_range()[-1],
    )
    assert number in (errno.EACCES, errno.EROFS)
    assert "ip_local_port_range" in message


def test_refusals_name_the_usual_suspects(ask: Callable[..., Any]) -> None:
    number, message = ask(
        """
become_nobody()
try:
    namespaces.enter_new_network(user_namespace=False)
except OSError as error:
    answer([error.errno, str(error)])
"""
    )
    assert number == errno.EPERM
    assert "unshare(CLONE_NEWNET)" in message
    assert "kernel.apparmor_restrict_unprivileged_userns" in message
    assert "seccomp" in message


def test_threads_are_refused_a_user_namespace(ask: Callable[..., Any]) -> None:
    number, message = ask(
        """
import threading
done = threading.Event()
threading.Thread(target=done.wait).start()
try:
    namespaces.enter_new_network(user_namespace=True)
except OSError as error:
    answer([error.errno, str(error)])
done.set()
"""
    )
    assert number == errno.EINVAL
    assert "single thread" in message


def test_capabilities_decide(ask: Callable[..., Any]) -> None:
    assert ask("become_nobody(); answer(namespaces._has_capabilities(21))") is False
    if os.getuid() == 0:
        assert namespaces._has_capabilities(12)


def test_a_range_as_gvisor_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_range, "_read", lambda name: "32768\t28232\n")
    assert port_range.ephemeral_range() == range(32768, 61000)

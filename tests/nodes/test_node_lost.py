"""A node that is lost: what it says, when, and that the ports are let go over there."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ephemport import Node, NodeLost, on
from tests.conftest import ROOT
from tests.core.helpers import eventually
from tests.nodes.conftest import Host, channel_of, node_on

SHORT = 1.5


def open_over(remote_shell: list[str], **terms: object) -> Node:
    return on(remote_shell, python=sys.executable, **terms)  # type: ignore[arg-type]


def test_a_cut_link_is_lost_at_the_end_of_the_lease(
    hosts: tuple[Host, Host], remote_shell: list[str]
) -> None:
    here, there = hosts
    with open_over(remote_shell, lease=SHORT) as node:
        r = node.reserve(host=there.address)
        here.cut()
        # Nobody may be told "held" when it is free already.
        while not there.is_free(r.port):
            pass
        assert r.lost
        assert node.lost
        with pytest.raises(NodeLost, match=f"no sign of life came from it for {SHORT:g} s"):
            r.share()
        with pytest.raises(NodeLost, match="unknown there, possibly still held") as caught:
            r.release()
        assert "free" not in str(caught.value)
        with pytest.raises(NodeLost):
            node.reserve(host=there.address)
        with pytest.raises(NodeLost):
            with r:
                pass
        assert r.port
        assert "lost" in repr(r)
        assert "lost" in repr(node)
    assert not node.lost


def test_signs_of_life_keep_it(hosts: tuple[Host, Host], remote_shell: list[str]) -> None:
    _, there = hosts
    with open_over(remote_shell, lease=6) as node:
        r = node.reserve(host=there.address)
        lease_ends = channel_of(node)._alive_until
        # Nothing is asked from now on.
        eventually(lambda: channel_of(node)._alive_until > lease_ends)
        assert not r.lost
        assert not there.is_free(r.port)


def test_without_a_lease_a_cut_link_is_seen_by_the_next_answer(
    hosts: tuple[Host, Host], remote_shell: list[str]
) -> None:
    here, there = hosts
    with open_over(remote_shell, lease=None) as node:
        r = node.reserve(host=there.address)
        channel_of(node)._timeout = SHORT  # not for the greeting, which a busy machine delays
        here.cut()
        assert not r.lost
        with pytest.raises(NodeLost, match=f"it did not answer within {SHORT:g} s"):
            r.share()
        assert r.lost
        assert not there.is_free(r.port)
        # Nothing tells it, on its side of the link, that nobody is there any more.
        os.kill(node.pid, signal.SIGKILL)


def test_the_end_of_the_agent_is_seen_at_once(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with node_on(there) as node:
        r = node.reserve(host=there.address)
        os.kill(node.pid, signal.SIGKILL)
        eventually(lambda: r.lost)
        assert there.is_free(r.port)
        with pytest.raises(NodeLost, match="nsenter ended with status -9"):
            node.reserve(host=there.address)


def test_a_block_that_ends_on_a_lost_node_hides_no_error(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with pytest.raises(ZeroDivisionError):
        with node_on(there) as node, node.reserve_many(2, host=there.address):
            os.kill(node.pid, signal.SIGKILL)
            eventually(lambda: node.lost)
            raise ZeroDivisionError


def test_an_agent_that_stands_still_is_lost(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with node_on(there, lease=SHORT) as node:
        r = node.reserve(host=there.address)
        os.kill(node.pid, signal.SIGSTOP)
        eventually(lambda: r.lost)
        # It holds the port still, as the error says that it may.
        assert not there.is_free(r.port)
        os.kill(node.pid, signal.SIGCONT)
        eventually(lambda: there.is_free(r.port))


def test_a_client_that_stood_still_says_lost(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    script = (
        "import sys, ephemport\n"
        f"r = ephemport.on({there.enter!r}, python=sys.executable, lease={SHORT}).reserve(\n"
        f"    host={there.address!r})\n"
        "print(r.port, flush=True)\n"
        "sys.stdin.readline()\n"
        "print(r.lost, flush=True)\n"
        "r.node.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        port = int(client.stdout.readline())
        client.send_signal(signal.SIGSTOP)
        eventually(lambda: there.is_free(port))
        client.send_signal(signal.SIGCONT)
        assert client.communicate("\n", timeout=60)[0] == "True\n"


def test_closed_descriptors_are_a_lost_node_and_nobody_else_is_hit(
    hosts: tuple[Host, Host],
) -> None:
    _, there = hosts
    node = node_on(there)
    try:
        channel = channel_of(node)
        number = channel._from_agent.number
        os.close(number)
        strangers = [os.open(os.devnull, os.O_RDONLY)]
        while number not in strangers:
            strangers.append(os.dup(strangers[0]))
        eventually(lambda: node.lost)
        with pytest.raises(NodeLost, match="other code of this process closed its descriptors"):
            node.reserve(host=there.address)
        eventually(channel.ended.is_set)
        for one in strangers:
            os.close(one)
    finally:
        node.close()


@pytest.mark.parametrize("when", ["before the greeting", "after it"])
def test_ctrl_c_ends_client_and_agent(hosts: tuple[Host, Host], when: str) -> None:
    _, there = hosts
    python = sys.executable if when == "after it" else "sleep"
    script = (
        "import sys, ephemport\n"
        "print('begins', flush=True)\n"
        f"with ephemport.on({there.enter!r}, python={python!r}) as node:\n"
        "    print(node.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    if when == "before the greeting":
        script = script.replace(repr(there.enter), repr([*there.enter, "sh", "-c", "cat", "--"]))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        agent = int(client.stdout.readline()) if when == "after it" else None
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=60)
        assert client.returncode == -signal.SIGINT
        assert said.rstrip().endswith("KeyboardInterrupt")
    if agent is not None:
        eventually(lambda: not os.path.exists(f"/proc/{agent}"))


def test_threads_that_wait_are_woken_when_it_is_lost(hosts: tuple[Host, Host]) -> None:
    _, there = hosts
    with node_on(there) as node:
        os.kill(node.pid, signal.SIGSTOP)
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                node.reserve(host=there.address)
            except NodeLost as error:
                raised.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for one in threads:
            one.start()
        eventually(lambda: len(channel_of(node)._waiting) == 4)
        os.kill(node.pid, signal.SIGKILL)
        for one in threads:
            one.join(20)
        assert len(raised) == 4

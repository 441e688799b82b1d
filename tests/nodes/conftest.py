"""Two hosts for a test, and nodes on them."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.hosts import Host, shell_server, two_hosts
from ephemport import Node, on
from ephemport._nodes.command import CommandChannel

__all__ = ["Host", "channel_of", "hosts", "node_on", "remote_shell"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "ray" not in config.option.markexpr:
        left_out = [one for one in items if one.get_closest_marker("ray")]
        items[:] = [one for one in items if one not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other. They end with the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can connect two network namespaces")
    with two_hosts() as both:
        yield both


def node_on(host: Host, **terms: Any) -> Node:
    """The host as a node, with this interpreter."""
    return on(host.enter, python=sys.executable, **terms)


def channel_of(node: Node) -> CommandChannel:
    """The inside of a node behind a command."""
    channel = node._channel
    assert isinstance(channel, CommandChannel)
    return channel


@pytest.fixture
def remote_shell(hosts: tuple[Host, Host]) -> Iterator[list[str]]:
    """The words with which the first host runs a command on the second, over the link."""
    with shell_server(*hosts) as words:
        yield words

"""The Unix sockets of this network namespace, through netlink and through /proc."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ephemport._kernel.unix_sockets import (
    UnixSocket,
    UnixState,
    read_netlink,
    read_proc_net,
    read_unix_sockets,
)

READERS = [read_netlink, read_proc_net, read_unix_sockets]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """A path that listens, a path of datagrams that is bound, and an abstract name."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        ]
        made[0].bind(str(tmp_path / "stream"))
        made[0].listen()
        made[1].bind(str(tmp_path / "datagram"))
        made[2].bind(f"\0{tmp_path}")
        yield made


@pytest.mark.parametrize("read", READERS)
def test_names_states_and_inodes(
    three: list[socket.socket], read: Callable[[], list[UnixSocket]]
) -> None:
    found = {one.inode: one for one in read()}
    stream, datagram, abstract = (found[os.fstat(one.fileno()).st_ino] for one in three)
    assert os.fsencode(three[0].getsockname()) == stream.name
    assert os.fsencode(three[1].getsockname()) == datagram.name
    assert three[2].getsockname() == abstract.name
    states = [one.state for one in (stream, datagram, abstract)]
    assert states == [UnixState.LISTEN, UnixState.CLOSE, UnixState.CLOSE]


def test_netlink_names_the_file(three: list[socket.socket]) -> None:
    path = three[0].getsockname()
    (found,) = (one for one in read_netlink() if one.name == os.fsencode(path))
    assert found.file is not None
    assert found.file[1] == os.stat(path).st_ino
    (abstract,) = (one for one in read_netlink() if one.name == three[2].getsockname())
    assert abstract.file is None


def test_an_accepted_connection_has_its_server_s_name(three: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(three[0].getsockname())
        with three[0].accept()[0] as accepted:
            inode = os.fstat(accepted.fileno()).st_ino
            for read in READERS:
                (one,) = (one for one in read() if one.inode == inode)
                assert one.state is UnixState.ESTABLISHED
                assert one.name == os.fsencode(three[0].getsockname())

"""Ctrl-C ends a command by the signal itself, without a word."""

import fcntl
import os
import signal
import sys
import termios
from collections.abc import Callable
from typing import Any

from tests.cli.conftest import Cli


def test_ctrl_c_ends_it_by_the_signal(
    cli: Cli, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    """Whoever waits for it, a shell say, has to see that it was the signal."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = cli.start("who", "--json", *map(str, range(1, 40)), stdout=writer)
    os.close(writer)
    # Nobody reads: it waits in write().
    eventually(lambda: unread(reader) == size)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    os.close(reader)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def unread(pipe: int) -> int:
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)

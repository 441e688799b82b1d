"""`ephemport reserve`: print ports, and hold them for the caller."""

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from types import FrameType
from typing import Any

from ephemport import EphemportError
from ephemport._arguments import PORTS, shown
from ephemport._holding.handoffs import HANDOFFS
from ephemport._kernel.process_end import ProcessEnd
from ephemport._kernel.protocols import PARTS
from ephemport.cli import ports, there

_EXAMPLES = """\
examples:
  PORT=$(ephemport reserve --for $$)     held until this shell ends
  ephemport reserve -n 3                 held until standard input closes (Ctrl-D) or Ctrl-C
  ephemport reserve --port 8080          this port, or an error that says who has it
  ephemport reserve -n 2 --port 8000-8010 --exclude 8003     two of these, but not 8003
  ephemport reserve --range 20000-20099    any of these, which a firewall lets through
  ephemport reserve --outside-ephemeral    a port that the system assigns to nobody
  ephemport reserve -n 3 --contiguous    P, P+1 and P+2
  ephemport reserve --offsets 0,10000    P and P+10000, as a Redis Cluster node has them
  ephemport reserve --on 'ssh n7' --host 10.0.0.7     held on another host
  ephemport reserve --offsets 0,1 --multiple-of 2 --protocol udp     an even port and the next: RTP
"""

# In seconds. With a pidfd the end of the process wakes us, without one we look for it.
_LONGEST_SLEEP = 3600.0
_PAUSE = 0.2


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "reserve",
        help="print ports and hold them",
        description="Reserve ports, print one a line, and hold them until standard input closes "
        "or a signal arrives (SIGINT, SIGTERM, SIGHUP); with --for until a process ends.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n",
        type=int,
        metavar="COUNT",
        help="how many ports (default: 1, or as many as --offsets has)",
    )
    parser.add_argument(
        "--for",
        dest="holder_for",
        type=int,
        metavar="PID",
        help="return at once; a small background process holds the ports until process PID ends",
    )
    parser.add_argument("--protocol", choices=tuple(PARTS), default="tcp", help="default: tcp")
    parser.add_argument(
        "--handoff",
        choices=[one.name for one in HANDOFFS.values() if one.servers_bind],
        default="takeover",
        help="default: takeover",
    )
    ports.add_options(parser)
    parser.set_defaults(action=_reserve)


def _reserve(options: argparse.Namespace) -> int:
    count: int | None = options.n
    if count is None and options.offsets is None:
        count = 1
    if count is not None and not 0 < count < PORTS:
        raise ValueError(f"-n takes how many ports, from 1 up to {PORTS - 1}, not {shown(count)}")
    asked = ports.asked(options, [(options.protocol, options.handoff)], count)
    if options.holder_for is not None:
        return _hold_for(options.holder_for, asked)
    # Before the first port is printed: its reader may stop this process at once.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _stop)
    with suppress(_Stopped), asked.held() as reservations:
        _print(reservations)
        node = there.node_of(reservations)
        try:
            if node is not None:
                there.when_lost(node, lambda: os.kill(os.getpid(), signal.SIGTERM))
            _wait_for_end_of_input()
        finally:
            if node is not None:
                there.require_held(node)
    return 0


class _Stopped(BaseException):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _print(reservations: ports.Held) -> None:
    for reservation in reservations:
        print(reservation.port)
    sys.stdout.flush()


def _wait_for_end_of_input() -> None:
    # A background job cannot read its terminal (man 7 credentials): then only signals end it.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    try:
        while os.read(0, 65536):
            pass
    except OSError as error:
        if error.errno == errno.EBADF:
            return
        if error.errno != errno.EIO:
            raise
        while True:
            signal.pause()


def _hold_for(pid: int, asked: ports.Asking) -> int:
    """Fork first, reserve in the child: a forked child keeps none of its parent's holds."""
    if pid <= 0:
        raise ValueError(f"--for takes the id of a running process, not {pid}")
    try:
        watched = ProcessEnd(pid)
    except (ProcessLookupError, OverflowError):
        raise EphemportError(
            f"cannot hold for process {pid}: there is none; in a shell its own id is $$"
        ) from None
    except OSError as error:
        # EINVAL: the id of a thread.
        raise EphemportError(f"cannot hold for process {pid}: {error.strerror}") from None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # The child must never return from here: two processes would go on.
        try:
            _hold_until_end(watched, writer, asked)
        finally:
            os._exit(1)
    os.close(writer)
    watched.close()
    with os.fdopen(reader, encoding="utf-8") as child_said:
        answer = child_said.read()
    if not answer.startswith("held\n"):
        raise EphemportError(answer or "the background process ended before it held a port")
    try:
        sys.stdout.write(answer.removeprefix("held\n"))
        sys.stdout.flush()
    except OSError:
        # Nobody learns the ports, so nobody needs them.
        os.kill(child, signal.SIGKILL)
        raise
    return 0


def _close_what_is_inherited(*kept: int) -> None:
    """Close inherited descriptors: a process that waits for the end of a pipe would wait for us."""
    limits = (2, *sorted(kept), _last_descriptor() + 1)
    for below, above in pairwise(limits):
        os.closerange(below + 1, above)


def _last_descriptor() -> int:
    # In containers the limit may be a billion. Where close_range(2) is refused as well, Python
    # closes one by one.
    try:
        return max(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return int(os.sysconf("SC_OPEN_MAX"))


def _hold_until_end(watched: ProcessEnd, writer: int, asked: ports.Asking) -> None:
    with suppress(OSError):  # in a sandbox
        os.setsid()
    _close_what_is_inherited(*watched.descriptors, writer)
    holding = asked.held()
    try:
        reservations: ports.Held = holding.__enter__()
        answer = "".join(f"{reservation.port}\n" for reservation in reservations)
        answer = f"held\n{answer}"
    except (EphemportError, ValueError, OSError) as error:
        reservations, answer = [], str(error)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.write(writer, answer.encode())
    os.close(writer)
    if reservations:
        while not watched.has_come:
            watched.sleep(_LONGEST_SLEEP if watched.descriptors else _PAUSE)
        holding.__exit__(None, None, None)
    os._exit(0)

"""The far end: it holds ports on its host for as long as its standard input is open.

The channel is the lease. At the end of file, the agent releases every port and ends. A host that
is cut off sends no end of file. So with `lease` the agent also ends when it has heard nothing for
so many seconds.
"""

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from ephemport import __version__
from ephemport._errors import ReservationReleased
from ephemport._holding.request import Request
from ephemport._holding.shape import shape_of
from ephemport._holding.sources.ephemeral import EPHEMERAL
from ephemport._nodes.wire import PROTOCOL, Message, answered, error_as_message
from ephemport._reservation import Reservation, reserve_group_from
from ephemport._spelling import for_the_command

ENDED, LEASE_OVER, GARBLED = 0, 3, 4

# The longest request: one that excludes all ports.
_LONGEST = 4 * 1024 * 1024
# How long, in seconds, an agent without a lease tries to answer.
_PATIENCE = 3600.0

# Each hold has a number of its own for ever: one that was released may still be known elsewhere.
_numbers = count(1)

Held = dict[int, Reservation]


def serve(lease: float | None) -> int:
    """Answer requests on standard input until it ends, and return the exit status.

    lease: seconds without a request after which the other end is taken for lost; None: for ever.
    """
    answers = _keep_for_answers()
    held: Held = {}
    try:
        return _answer_all(held, answers, lease)
    except OSError:
        # Nobody reads the answers: the other end is gone, and this is how it is seen.
        return ENDED
    finally:
        for reservation in held.values():
            reservation.release()


def _keep_for_answers() -> int:
    """Standard output for answers only: what else is printed goes to standard error."""
    sys.stdout.flush()
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _answer_all(held: Held, answers: int, lease: float | None) -> int:
    patience = _PATIENCE if lease is None else lease
    _send(answers, answered(greeting(lease)), time.monotonic() + patience)
    requests = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while poll.poll(None if lease is None else lease * 1000):
        received = os.read(0, 65536)
        if not received:
            return ENDED
        *lines, requests = (requests + received).split(b"\n")
        for line in lines:
            answer = _answer(held, line)
            if answer is None:
                return GARBLED
            _send(answers, answered(answer), time.monotonic() + patience)
        if len(requests) > _LONGEST:
            return GARBLED
    print(f"ephemport agent: nothing heard for {lease:g} s", file=sys.stderr)
    return LEASE_OVER


def _send(descriptor: int, data: bytes, until: float) -> None:
    """Write all of `data`, and wait while the other end does not read.

    until: a time of time.monotonic(). Raises TimeoutError then, OSError if the other end is gone.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while data:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(min(left, 3600) * 1000):
            raise TimeoutError("the other end does not read")
        # So much fits into a pipe that is ready (pipe(7)): write() does not block.
        data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def greeting(lease: float | None) -> Message:
    """What an agent says first."""
    return {
        "hello": PROTOCOL,
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "lease": lease,
    }


def _answer(held: Held, line: bytes) -> Message | None:
    """The answer to a line. None where it is no request."""
    try:
        request = json.loads(line)
        request["id"], _DO[request["do"]]
    except (ValueError, KeyError, TypeError):
        return None
    return answer_to(held, request)


def answer_to(held: Held, request: Message) -> Message:
    """Do what a request asks for, and return the answer."""
    try:
        return {"id": request["id"], "ok": _DO[request["do"]](held, request)}
    except Exception as error:
        return {"id": request["id"], "error": error_as_message(error)}


def _alive(held: Held, request: Message) -> Message:
    return {}


def _reserve(held: Held, request: Message) -> Message:
    shape = shape_of(
        request["count"], request["contiguous"], request["offsets"], request["multiple_of"]
    )
    terms = request["terms"]
    every = terms if len(terms) > 1 else terms * shape.length
    with for_the_command(request["for_the_command"]):
        group = reserve_group_from(EPHEMERAL, [Request(**one) for one in every], shape)
    numbered = dict(zip(_numbers, group, strict=False))
    held.update(numbered)
    return {"holds": list(numbered), "ports": group.ports}


def _release(held: Held, request: Message) -> Message:
    for number in request["holds"]:
        reservation = held.pop(number, None)
        if reservation is not None:
            reservation.release()
    return {}


def _share(held: Held, request: Message) -> Message:
    reservation = held.get(request["hold"])
    if reservation is None:
        raise ReservationReleased("its reservation was released; reserve another")
    return {"token": reservation.share()}


_DO: dict[str, Callable[[Held, Message], Any]] = {
    "alive": _alive,
    "release": _release,
    "reserve": _reserve,
    "share": _share,
}

"""Wait until nobody listens on a port any more: the counterpart of `wait_listening()`."""

import os
from contextlib import ExitStack
from typing import Self, SupportsIndex

from ephemport._arguments import seconds
from ephemport._errors import StillListening
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.diagnosis import diagnosis_or_none
from ephemport._looking.fronts import front_in_words
from ephemport._looking.listeners import Listener, listener_of, listening_records, owners_of
from ephemport._serving.awaited import ServerLike, awaited
from ephemport._serving.destination import destination_of
from ephemport._serving.event_loop import async_sleep, running_loop
from ephemport._serving.failed_wait import in_vain
from ephemport._serving.pace import Pace
from ephemport._serving.wait import Wanted

_END = (
    "End that process, or wait longer (timeout=). A server that is started with "
    "start_new_session=True is ended with all that it started by os.killpg(server.pid, "
    "signal.SIGTERM)"
)
# A message names at most so many listeners.
_MOST_NAMED = 4


def wait_not_listening(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ServerLike | None = None,
) -> None:
    """Wait until nobody listens on `port` (TCP) or receives on it (UDP), on any address.

    Call it after a server was stopped: a child of the server may live on and listen, and then the
    next server gets an error, or its clients reach the old one. It asks the kernel, as
    `wait_listening()` does. It ends no process.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server that stops, as for `wait_listening()`. Then only its listeners count,
            and those of all that it started, as long as the wait sees them: not those of the next
            server. If it had ended before the call, it is unknown what it started, and every
            listener counts. None: every listener counts.

    Raises:
        StillListening: Somebody listened on the port when `timeout` was over.
        EphemportError: The process cannot be watched. Or the listener is this process, and this
            call would block the event loop in which it runs.
        TypeError: An argument has the wrong type.
        ValueError: `port` is no port, `timeout` is no number of seconds, or `process` is no pid.
        CallRefused: The kernel answers neither through netlink nor through /proc.
    """
    wait_until_gone([(port, process)], timeout)


async def wait_not_listening_async(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ServerLike | None = None,
) -> None:
    """Do what `wait_not_listening()` does, in an event loop of asyncio or trio.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server that stops, as for `wait_not_listening()`. None: everybody.

    Raises:
        StillListening, EphemportError: These and all others as `wait_not_listening()`.
    """
    await wait_until_gone_async([(port, process)], timeout)


def wait_until_gone(wanted: Wanted, timeout: float) -> None:
    """Wait for several ports, each with its process or None, all in one time."""
    pace = Pace(seconds(timeout, "timeout"))
    with ExitStack() as stack:
        waiting = [stack.enter_context(_Departure(*one)) for one in wanted]
        for looks, pause in enumerate(pace.pauses()):
            waiting = [one for one in waiting if one.look()]
            if not waiting:
                return
            if looks == 0 and pause > 0:
                for one in waiting:
                    one.check_it_may_block()
            waiting[0].awaited.sleep(pause)
        for one in waiting:
            raise one.still_listening(timeout)


async def wait_until_gone_async(wanted: Wanted, timeout: float) -> None:
    """`wait_until_gone()` for an event loop."""
    pace = Pace(seconds(timeout, "timeout"))
    sleep = async_sleep()
    with ExitStack() as stack:
        waiting = [stack.enter_context(_Departure(*one)) for one in wanted]
        for pause in pace.pauses():
            waiting = [one for one in waiting if one.look()]
            if not waiting:
                return
            await sleep(pause)
        for one in waiting:
            raise one.still_listening(timeout)


class _Departure:
    """A port whose server goes, and who listens there still."""

    def __init__(self, port: SupportsIndex, process: ServerLike | None) -> None:
        self._destination = destination_of(port)
        self.awaited = awaited(process)
        family = self.awaited.family()
        # Of a process that has ended already, the children are unknown.
        self._counts_all = not family
        # Also those that it started and that live on after it.
        self._family = set(family or ())
        self._still: list[tuple[SocketRecord, list[int]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.awaited.close()

    def look(self) -> bool:
        """Whether somebody listens whose listening counts."""
        # First the family: a child that is made now has the socket of its parent.
        if not self._counts_all:
            self._family.update(self.awaited.family() or ())
        records = [
            record
            for protocol in self._destination.protocols
            for record in listening_records(self._destination.port, protocol)
        ]
        owners = owners_of(records)
        self._still = [
            (record, owners.get(record.inode) or [])
            for record in records
            if self._counts_all or self._family.intersection(owners.get(record.inode) or ())
        ]
        return bool(self._still)

    def check_it_may_block(self) -> None:
        """Raise EphemportError if the listener is in the event loop of this thread."""
        loop = running_loop()
        port = self._destination.port
        why = self.awaited.why_in_vain(loop, port) if not self._counts_all else ""
        here = all(owners == [os.getpid()] for _, owners in self._still)
        if self._counts_all and here and loop is not None and loop.other_tasks:
            why = "the listener is this process, and its server may be another task of it"
        if why:
            raise in_vain(self._destination, self.awaited, why, loop, stops=True)

    def still_listening(self, timeout: float) -> StillListening:
        """Return the error that says who listens, and what to do."""
        destination = self._destination
        who = [self._in_words(*one) for one in self._still[:_MOST_NAMED]]
        return StillListening(
            f"port {destination.port} ({' and '.join(destination.protocols)}) still has a listener "
            f"after {timeout:g} s: {'; '.join(who)}. {self._what_to_do()}",
            port=destination.port,
            protocol=destination.protocol,
            diagnosis=diagnosis_or_none(destination.port, destination.protocol),
        )

    def _in_words(self, record: SocketRecord, owners: list[int]) -> str:
        started = ""
        pid = getattr(self.awaited, "pid", None)
        if not self._counts_all and pid is not None and pid not in owners:
            started = f", which {self.awaited.name} started"
            if self.awaited.has_ended:
                started += " and which lives on after it"
        return f"{listener_of(record, owners)}{started}"

    def _what_to_do(self) -> str:
        listeners: list[Listener] = [listener_of(*one) for one in self._still]
        if any(os.getpid() in owners for _, owners in self._still):
            return "Close the socket in this process: end the server that has it"
        fronts = [front_in_words(one.command, None) for one in listeners if one.command]
        for front in filter(None, fronts):
            return f"{front}. Do not end it: stop the container"
        return _END

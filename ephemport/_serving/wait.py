"""Wait until a server listens on a port, and check that it is the right one. Nothing connects."""

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, SupportsIndex

from ephemport._arguments import seconds
from ephemport._errors import ServerExited
from ephemport._holding.hold import live_inodes
from ephemport._kernel.lookup import Lookup
from ephemport._kernel.processes import owners, pids, user_of
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.listeners import Listener, listener_of, listening_records, owners_of
from ephemport._serving.awaited import ProcessLike, awaited
from ephemport._serving.destination import destination_of
from ephemport._serving.failed_wait import exited, timed_out, wrong_listener

__all__ = ["ProcessLike", "wait_listening", "wait_listening_async"]

# Pauses between two looks, in seconds. The median delay is half a pause, and a look with the sleep
# before it costs up to 90 us, on a busy machine twice that. So the pause is 6 ms while most servers
# start. Later it is 5 % of the time waited, and at most 100 ms. That makes some 110 looks in 5 s,
# and 160 in 10 s.
_FIRST_PAUSE = 0.001
_USUAL_PAUSE = 0.006
_SHARE_OF_WAIT = 0.05
_LONGEST_PAUSE = 0.1
# An expensive look (/proc/net on a busy machine) takes at most this share of the time.
_LARGEST_SHARE = 0.05
# The quick look asks about the likely addresses. Every 12th look finds servers on all others.
_THOROUGH_LOOK = 12
_TURNS_FOR_STATUS = 200


def wait_listening(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ProcessLike | int | None = None,
) -> Listener:
    """Wait until a server listens on `port` (TCP) or is bound to it (UDP), and return who it is.

    The wait asks the kernel (sock_diag) and connects to nobody. So the server's log stays clean,
    and a server that listens and does not accept connections counts as listening.

    For a Reservation a server is up when a client of its `host` reaches it. So a server counts on
    that address itself, on the wildcard of its family, or, for IPv4, on `::` if it takes both
    families. A server on another address is waited on: 127.0.0.1, ::1 and 127.0.0.9 are three
    addresses. Of the host "0.0.0.0" or "::", only a server on the wildcard counts. A name such as
    "localhost" stands for every address that it has here (getaddrinfo()), and a server on any of
    them counts. Then a client that tries all addresses in turn gets through, as
    socket.create_connection(), browsers and curl do. For a client that tries only one, reserve
    with that address. For a plain int, a server on any address counts.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server's process: a Popen, asyncio's or psutil's Process, or a pid. Then only
            a listener of this process or of one of its descendants counts. None: any listener.

    Returns:
        The Listener that was found. With protocol "both" it is the UDP one. A port can have
        several: on different addresses, or where all set SO_REUSEPORT. `listeners()` lists them.

    Raises:
        TakeoverTimeout: Nothing listened on the port, where its clients reach it, within
            `timeout`.
        WrongListener: Another process listens there, alone or as well (only with `process`).
        ServerExited: The process ended before it listened (only with `process`).
        EphemportError: The process cannot be watched.
        TypeError: An argument has the wrong type.
        ValueError: `port` is no port, `timeout` is no number of seconds, or `process` is no pid.
        OSError: The kernel answers neither through netlink nor through /proc.
    """
    with _Watch(port, timeout, process) as watch:
        for pause in watch.pauses():
            found = watch.look()
            if found is not None:
                return found
            watch.awaited.sleep(pause)
        raise watch.timed_out()


async def wait_listening_async(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ProcessLike | int | None = None,
) -> Listener:
    """Do what `wait_listening()` does, in an event loop of asyncio or trio.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server's process, as for `wait_listening()`. None: any listener counts.

    Returns:
        The Listener that was found.

    Raises:
        TakeoverTimeout, WrongListener, ServerExited: These and all others as `wait_listening()`.
    """
    sleep = _async_sleep()
    with _Watch(port, timeout, process) as watch:
        for pause in watch.pauses():
            try:
                found = watch.look()
            except ServerExited:
                # asyncio collects the exit status elsewhere and reports it in a turn of the loop.
                for _ in range(_TURNS_FOR_STATUS):
                    if getattr(process, "returncode", 0) is not None:
                        break
                    await sleep(_FIRST_PAUSE)
                raise exited(watch.destination, watch.awaited) from None
            if found is not None:
                return found
            await sleep(pause)
        raise watch.timed_out()


class _Watch:
    """One wait: what is looked for, since when, and what stood in the way."""

    def __init__(
        self, port: SupportsIndex, timeout: float, process: ProcessLike | int | None
    ) -> None:
        self._timeout = seconds(timeout, "timeout")
        self.destination = destination_of(port)
        self.awaited = awaited(process)
        self._stranger: int | None = None
        self._looks = 0
        self._cost = 0.0
        # To the kernel a UDP hold also receives.
        self._holds = live_inodes() if "udp" in self.destination.protocols else set()
        self._lookups: dict[str, Lookup] = {}

    def __enter__(self) -> "_Watch":
        port, likely = self.destination.port, self.destination.likely()
        with suppress(OSError):
            for one in self.destination.protocols:
                self._lookups[one] = Lookup(one, port, likely)
        return self

    def __exit__(self, *_: object) -> None:
        self.awaited.close()
        for lookup in self._lookups.values():
            lookup.close()

    def pauses(self) -> Iterator[float]:
        """Yield how long to sleep before the next look, until the time is up."""
        began = time.monotonic()
        pause = _FIRST_PAUSE
        while True:
            waited = time.monotonic() - began
            left = self._timeout - waited
            patient = min(max(pause, waited * _SHARE_OF_WAIT), _LONGEST_PAUSE)
            yield max(min(max(patient, self._cost / _LARGEST_SHARE), left), 0)
            if left <= 0:
                return
            pause = min(pause * 1.2, _USUAL_PAUSE)

    def look(self) -> Listener | None:
        """Return the wanted listener, or None. Raises WrongListener and ServerExited."""
        # Before the look at listeners: a server that listens and then ends is seen to listen.
        ended = self.awaited.has_ended
        found: Listener | None = None
        began = time.perf_counter()
        self._looks += 1
        for protocol in self.destination.protocols:
            # The last look is thorough too.
            if not ended and self._looks % _THOROUGH_LOOK and self._nobody_at(protocol):
                found = None
                break
            records = listening_records(self.destination.port, protocol)
            reached = self.destination.reached(records)
            found = self._right_one(reached) if reached else None
            if found is None:
                break
        self._cost = time.perf_counter() - began
        if found is None and ended:
            raise exited(self.destination, self.awaited)
        return found

    def timed_out(self) -> Exception:
        """Return the error for a wait in vain."""
        return timed_out(self.destination, self.awaited, self._timeout)

    def _nobody_at(self, protocol: str) -> bool:
        """Whether certainly nobody receives on the likely addresses."""
        lookup = self._lookups.get(protocol)
        if lookup is None:
            return False
        try:
            return lookup.inodes() <= self._holds
        except OSError:
            del self._lookups[protocol]
            lookup.close()
            return False

    def _right_one(self, records: list[SocketRecord]) -> Listener | None:
        family = self.awaited.family()
        if family is None:
            openers = owners_of(records[:1])
            return listener_of(records[0], openers.get(records[0].inode))
        if not family and not pids():
            # Without /proc no process is seen, and whose a socket is is unknown, except its user.
            ours = [one for one in records if one.uid == os.geteuid()]
            return listener_of(ours[0], None) if ours else None
        of_family = owners({record.inode for record in records}, within=family)
        hidden = {user_of(pid) for pid in family if not os.access(f"/proc/{pid}/fd", os.R_OK)}
        for record in records:
            if record.inode not in of_family and record.uid not in hidden:
                # A child that was forked just now may be missing in the tree: look twice.
                if self._stranger != record.inode:
                    self._stranger = record.inode
                    return None
                raise wrong_listener(self.destination, self.awaited, record, bool(of_family))
        return listener_of(records[0], of_family.get(records[0].inode))


def _async_sleep() -> Callable[[float], Awaitable[None]]:
    """Return the sleep of the running event loop, trio's or asyncio's."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            trio.lowlevel.current_trio_token()
            sleep: Callable[[float], Awaitable[None]] = trio.sleep
            return sleep
    import asyncio

    return asyncio.sleep

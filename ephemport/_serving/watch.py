"""The watch over one port during a wait: a look finds its server, or why there will be none."""

import os
import time
from contextlib import suppress
from typing import Self, SupportsIndex

from ephemport._errors import ServerExited, TakeoverTimeout
from ephemport._holding.hold import live_inodes
from ephemport._kernel.lookup import Lookup
from ephemport._kernel.processes import open_sockets, owners, pids, user_of
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.listeners import Listener, listener_of, listening_records, owners_of
from ephemport._serving.awaited import ServerLike, awaited
from ephemport._serving.destination import destination_of
from ephemport._serving.event_loop import Loop, running_loop
from ephemport._serving.failed_wait import exited, in_vain, timed_out, wrong_listener

# The quick look asks about the likely addresses. Every 12th look finds servers on all others.
_THOROUGH_LOOK = 12


class Watch:
    """What is looked for on a port, and what stood in the way.

    port and process: as for `wait_listening()`. found: the listener, once it is there. cost: how
    long the last look took, in seconds.
    """

    def __init__(self, port: SupportsIndex, process: ServerLike | None) -> None:
        self.process = process
        self.found: Listener | None = None
        self.cost = 0.0
        self._destination = destination_of(port)
        self.awaited = awaited(process)
        self._stranger: int | None = None
        self._looks = 0
        # The event loop that this wait blocks.
        self._blocked: Loop | None = None
        # To the kernel a UDP hold also receives.
        self._holds = live_inodes() if "udp" in self._destination.protocols else set()
        self._lookups: dict[str, Lookup] = {}

    def __enter__(self) -> Self:
        port, likely = self._destination.port, self._destination.likely()
        with suppress(OSError):
            for one in self._destination.protocols:
                self._lookups[one] = Lookup(one, port, likely)
        return self

    def __exit__(self, *_: object) -> None:
        self.awaited.close()
        for lookup in self._lookups.values():
            lookup.close()

    def check_it_may_block(self, pause: float) -> None:
        """Raise EphemportError if a server in the event loop of this thread is what is awaited.

        It cannot come up while this thread sleeps. Asked after the first look, which may answer.
        """
        if self._looks == 1 and pause > 0:
            self._blocked = running_loop()
            why = self.awaited.why_in_vain(self._blocked, self._destination.port)
            if why:
                raise in_vain(self._destination, self.awaited, why, self._blocked)

    def look(self) -> Listener | None:
        """Return the wanted listener, or None. Raises WrongListener and ServerExited."""
        # Before the look at listeners: a server that listens and then ends is seen to listen.
        ended = self.awaited.has_ended
        found: Listener | None = None
        began = time.perf_counter()
        self._looks += 1
        for protocol in self._destination.protocols:
            # The last look is thorough too.
            if not ended and self._looks % _THOROUGH_LOOK and self._nobody_at(protocol):
                found = None
                break
            records = listening_records(self._destination.port, protocol)
            reached = self._destination.reached(records)
            found = self._right_one(reached) if reached else None
            if found is None:
                break
        self.cost = time.perf_counter() - began
        if found is None and ended:
            raise self.exited()
        self.found = found
        return found

    def exited(self) -> ServerExited:
        """Return the error for a server that ended before it listened."""
        return exited(self._destination, self.awaited)

    def timed_out(self, timeout: float) -> TakeoverTimeout:
        """Return the error for a wait that lasted `timeout` seconds."""
        return timed_out(self._destination, self.awaited, timeout, self._blocked)

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
        inodes = {record.inode for record in records}
        of_family = owners(inodes, within=family)
        hidden = {user_of(pid) for pid in family if open_sockets(pid) is None}
        # What a process has that may be looked into is not the hidden one's.
        seen = owners(inodes) if hidden else {}
        ours = [
            one
            for one in records
            if one.inode in of_family or (one.uid in hidden and one.inode not in seen)
        ]
        strangers = [one for one in records if one not in ours]
        if strangers and self.awaited.is_known:
            # A child that was forked just now may be missing in the tree: look twice.
            if self._stranger == strangers[0].inode:
                raise wrong_listener(
                    self._destination, self.awaited, strangers[0], also=bool(of_family)
                )
            self._stranger = strangers[0].inode
            return None
        return listener_of(ours[0], of_family.get(ours[0].inode)) if ours else None

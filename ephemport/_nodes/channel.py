"""A channel: what reaches an agent, and the lease on what it holds.

The agent frees its ports when the channel ends. With a lease it does so as well when it has heard
nothing for that long. So this end counts from the moment when the last request *that was answered*
was sent. It then says "lost" before the agent lets go, and not after.
"""

import math
import os
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from ephemport._errors import EphemportError, NodeLost
from ephemport._nodes.wire import Message, error_in


class Channel(ABC):
    """The way to one agent.

    name: the node, in messages. lease: in seconds, or None. timeout: for the greeting and for each
    answer, in seconds.
    """

    def __init__(self, name: str, lease: float | None, timeout: float) -> None:
        self.name = name
        self.greeting: Message = {}
        self.pid = os.getpid()
        # Set when nothing of the channel is left.
        self.ended = threading.Event()
        self._lease = math.inf if lease is None else lease
        self._timeout = timeout
        self._alive_until = math.inf
        self._why: str | None = None
        self._closed = False

    @abstractmethod
    def close(self) -> None:
        """End the channel; the agent frees its ports. It may be called often, from any thread."""

    @abstractmethod
    def abandon(self) -> None:
        """`close()` without waiting, for a node that nobody has any more."""

    @abstractmethod
    def _exchange(self, do: str, terms: Message) -> Message:
        """Send a request, and return the agent's answer. Raises as `require()` does."""

    @property
    def lost(self) -> bool:
        """Whether the agent cannot be reached any more, so that nobody knows what it holds."""
        return not self._closed and self._why_lost() is not None

    def ask(self, do: str, **terms: Any) -> Message:
        """Ask the agent, and return its answer. Raises what it raised there, or NodeLost."""
        self.require(do)
        answer = self._exchange(do, terms)
        if "error" in answer:
            raise error_in(answer["error"], self.name)
        ok: Message = answer["ok"]
        return ok

    def require(self, verb: str) -> None:
        """Raise NodeLost if the agent cannot be reached, EphemportError if it was left."""
        if self.pid != os.getpid():
            raise EphemportError(
                f"cannot {verb} on node {self.name}: its channel belongs to pid {self.pid}, which "
                "this process was forked from; open the node in this process"
            )
        if self._closed:
            raise EphemportError(f"cannot {verb} on node {self.name}: it was closed here")
        why = self._why_lost()
        if why is not None:
            raise NodeLost(
                f"cannot {verb} on node {self.name}, which is lost: {why}. Its ports are unknown "
                "there, possibly still held"
            )

    def _why_lost(self) -> str | None:
        if self._why is None and time.monotonic() > self._alive_until:
            return f"no sign of life came from it for {self._lease:g} s"
        return self._why

    def _lose(self, why: str) -> None:
        self._why = self._why or why

    def _answered(self, sent: float) -> None:
        """Note that a request that was sent at that time was answered: the agent has heard it."""
        self._alive_until = max(self._alive_until, sent + self._lease)

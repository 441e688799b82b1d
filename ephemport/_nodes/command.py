"""The near end of a channel: a command whose standard input and output reach an agent.

One thread does all reading and writing. Callers queue requests and wait for the answers, so a
signal handler or another thread may use the same node at any time.
"""

import math
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from typing import NamedTuple
from weakref import WeakSet

from ephemport._errors import NodeUnreachable
from ephemport._kernel.descriptors import Descriptor
from ephemport._kernel.fork import lock
from ephemport._nodes.channel import Channel
from ephemport._nodes.wire import Message, answer_in, asked

# How often within a lease the agent hears from this end.
_SIGNS_IN_A_LEASE = 3
# How much of what the far end prints is kept, in bytes, and how many of its last lines a message
# shows.
_KEPT, _SHOWN = 4096, 5
# How long, in seconds, the command may take to end after its input has ended, and after SIGTERM.
_GRACE = 5.0
# What waits for an event looks so often, in seconds, whether all is still as it was.
_LOOK_AGAIN = 1.0

# What shells and env(1) end with when there is no such command (POSIX, sh, "Exit Status").
_NOT_FOUND = 127
_OLDEST = "3.11"

_channels: "WeakSet[CommandChannel]" = WeakSet()


class Waiting(NamedTuple):
    """A caller that waits for an answer."""

    answer: list[Message]
    done: threading.Event


class Shipment(NamedTuple):
    """What a far end without ephemport gets: a line at once, and the package when it asks."""

    line: bytes
    package: bytes


class CommandChannel(Channel):
    """A command that was started, and the agent behind it.

    command: what to run. shipment: what the far end needs first. The others: as for Channel.

    Raises NodeUnreachable.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        lease: float | None,
        timeout: float,
        shipment: Shipment | None = None,
    ) -> None:
        super().__init__(name, lease, timeout)
        self._shipment = shipment
        self._numbers = count(1)
        self._outgoing: deque[bytes] = deque([shipment.line] if shipment else [])
        self._sent: dict[int, float] = {}
        self._waiting: dict[int, Waiting] = {}
        self._said = bytearray()
        self._greeted = threading.Event()
        # No child is forked meanwhile that has the pipes and does not know of them.
        with lock:
            self._open(command)
            _channels.add(self)
        self._waking = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="ephemport-node", daemon=True)
        self._thread.start()

    def _open(self, command: Sequence[str]) -> None:
        with ExitStack() as on_error, ExitStack() as theirs:

            def pipe() -> tuple[int, int]:
                ends = os.pipe()
                for end in ends:
                    on_error.callback(os.close, end)
                return ends

            reader, to_agent = pipe()
            from_agent, writer = pipe()
            words, complaints = pipe()
            wake_reader, wake_writer = pipe()
            try:
                self._process = subprocess.Popen(
                    command, stdin=reader, stdout=writer, stderr=complaints
                )
            except OSError as error:
                raise NodeUnreachable(
                    f"cannot use node {self.name}: cannot start {shlex.quote(command[0])}: "
                    f"{error.strerror}"
                ) from None
            on_error.pop_all()
            for one in (reader, writer, complaints):
                theirs.callback(os.close, one)
        os.set_blocking(to_agent, False)
        os.set_blocking(wake_writer, False)
        self._to_agent, self._from_agent = Descriptor(to_agent), Descriptor(from_agent)
        self._words = Descriptor(words)
        self._wake_reader, self._wake_writer = Descriptor(wake_reader), Descriptor(wake_writer)

    def greet(self) -> Message:
        """Wait for the agent's greeting. Raises NodeUnreachable, with the far end's words."""
        if not self._greeted.wait(self._timeout):
            self._lose(f"no agent answered within {self._timeout:g} s")
        if not self.greeting:
            why = self._why_lost()
            self.close()
            raise NodeUnreachable(
                f"cannot use node {self.name}: {why}. {self._words_in_short()}"
                f"{_what_helps(self._process.returncode, self._text())}",
                returncode=self._process.returncode,
                output=self._text(),
            )
        return self.greeting

    def _exchange(self, do: str, terms: Message) -> Message:
        number = next(self._numbers)
        waiting = self._waiting[number] = Waiting([], threading.Event())
        try:
            self._outgoing.append(asked({"id": number, "do": do, **terms}))
            self._sent[number] = time.monotonic()
            self._wake()
            self._wait_for(waiting, do)
        except BaseException:
            # Nobody takes the answer, now or later: what it brings is released.
            if self._waiting.pop(number, None) is None:
                self._release(waiting.answer)
            raise
        (answer,) = waiting.answer
        return answer

    def close(self) -> None:
        if self.pid != os.getpid():
            return
        self._closed = True
        self._wake()
        self._thread.join(3 * _GRACE)

    def abandon(self) -> None:
        self._closed = True
        self._wake()

    def _wait_for(self, waiting: Waiting, do: str) -> None:
        until = time.monotonic() + self._timeout
        while not waiting.done.wait(min(_LOOK_AGAIN, max(until - time.monotonic(), 0))):
            self.require(do)
            if time.monotonic() >= until:
                self._lose(f"it did not answer within {self._timeout:g} s")
        if not waiting.answer:
            self.require(do)

    def _lose(self, why: str) -> None:
        super()._lose(why)
        self._wake()

    def _wake(self) -> None:
        with self._waking:
            if not self.ended.is_set() and self._wake_writer.is_open():
                with suppress(BlockingIOError):  # full: the thread is awake
                    os.write(self._wake_writer.number, b"!")

    def _release(self, answers: Sequence[Message]) -> None:
        """Give back what answers have brought that nobody waits for."""
        for answer in answers:
            if holds := answer.get("ok", {}).get("holds"):
                self._outgoing.append(asked({"id": 0, "do": "release", "holds": holds}))
                self._wake()

    def _text(self) -> str:
        return bytes(self._said).decode("utf-8", "replace")

    def _words_in_short(self) -> str:
        """What the far end has printed besides its answers."""
        lines = [line.strip() for line in self._text().splitlines() if line.strip()]
        return f"It said: {' | '.join(lines[-_SHOWN:])}" if lines else "It said nothing"

    # Below is what the thread does.

    def _run(self) -> None:
        # A signal is for another thread, and SIGPIPE must not end a program that has not set it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._serve()
        except OSError as error:
            self._lose(f"its channel broke: {error.strerror or error}")
        finally:
            self._end()

    def _serve(self) -> None:
        to_agent, from_agent, words, wake = (
            one.number for one in (self._to_agent, self._from_agent, self._words, self._wake_reader)
        )
        poll = select.poll()
        for one in (from_agent, words, wake):
            poll.register(one, select.POLLIN)
        received, unsent = b"", b""
        sign_at = math.inf
        while not self._closed and self._why_lost() is None:
            now = time.monotonic()
            if self.greeting and self._lease < math.inf and (sign_at is math.inf or now >= sign_at):
                sign_at = now + self._lease / _SIGNS_IN_A_LEASE
                self._give_sign(now)
            while self._outgoing:
                unsent += self._outgoing.popleft()
            if unsent:
                poll.register(to_agent, select.POLLOUT)
            until = min(sign_at, self._alive_until, now + _LOOK_AGAIN)
            ready = poll.poll(max(until - time.monotonic(), 0) * 1000)
            if not self._has_its_descriptors():
                return self._lose("other code of this process closed its descriptors")
            for one, _ in ready:
                if one == to_agent:
                    unsent = self._sent_but(unsent)
                    poll.unregister(to_agent)
                    continue
                data = os.read(one, 65536)
                if one == words:
                    self._keep(data)
                    if not data:
                        poll.unregister(words)
                elif one == from_agent and data:
                    *lines, received = (received + data).split(b"\n")
                    for line in lines:
                        self._hear(line)
                elif one == from_agent:
                    return self._lose(self._how_it_ended(words))
        return None

    def _has_its_descriptors(self) -> bool:
        return all(one.is_open() for one in (self._to_agent, self._from_agent, self._wake_reader))

    def _sent_but(self, data: bytes) -> bytes:
        """Send what can be sent, and return the rest."""
        try:
            return data[os.write(self._to_agent.number, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return b""  # what the far end said before it ended is still to be read

    def _give_sign(self, now: float) -> None:
        number = next(self._numbers)
        self._sent[number] = now
        self._outgoing.append(asked({"id": number, "do": "alive"}))

    def _hear(self, line: bytes) -> None:
        message = answer_in(line)
        if message is None:
            self._keep(line + b"\n")
        elif "hello" in message:
            self._alive_until = time.monotonic() + self._lease
            self.greeting = message
            self._greeted.set()
        elif "ready" in message and self._shipment is not None:
            self._outgoing.append(self._shipment.package)
        elif "old" in message:
            self._lose(f"its Python is {message['old']}, and ephemport needs {_OLDEST} or newer")
        elif "id" in message:
            self._take(message)

    def _take(self, message: Message) -> None:
        sent = self._sent.pop(message["id"], None)
        if sent is not None:
            self._answered(sent)
        waiting = self._waiting.pop(message["id"], None)
        if waiting is None:
            return self._release([message])
        waiting.answer.append(message)
        return waiting.done.set()

    def _keep(self, data: bytes) -> None:
        self._said += data
        del self._said[:-_KEPT]

    def _how_it_ended(self, words: int) -> str:
        name = shlex.quote(str(self._process.args[0]))  # type: ignore[index]
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return f"{name} closed its output"
        os.set_blocking(words, False)
        with suppress(OSError):
            self._keep(os.read(words, 65536))
        return f"{name} ended with status {status}"

    def _end(self) -> None:
        """Close the pipes, end the command that was started, and wake whoever waits."""
        with self._waking:
            self.ended.set()
        self._close_pipes()
        _end(self._process, at_once=not self._closed)
        with lock:
            _channels.discard(self)
        self._greeted.set()
        for waiting in list(self._waiting.values()):
            waiting.done.set()

    def _close_pipes(self) -> None:
        for one in (
            self._to_agent,
            self._from_agent,
            self._words,
            self._wake_reader,
            self._wake_writer,
        ):
            one.close()

    def leave_to_parent(self) -> None:
        """In a forked child: keep no end of the pipes, or the agent would never see the end."""
        self._close_pipes()
        # The command is no child of this process: the object must not wait for it, or warn.
        self._process.returncode = 0


def _what_helps(status: int | None, said: str) -> str:
    if "No module named ephemport" in said:
        return ". Install ephemport for that interpreter, or use ship=True (--ship)"
    if status == _NOT_FOUND:
        return (
            f". Status {_NOT_FOUND} usually means that a command was not found: python= (--python) "
            "names the interpreter there"
        )
    return ""


def _end(process: "subprocess.Popen[bytes]", at_once: bool) -> None:
    """End a command that we started: its input has ended, so it ends by itself, or it is lost."""
    steps = [lambda: None, process.terminate, process.kill]
    for step in steps[1:] if at_once else steps:
        step()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _after_fork_in_child() -> None:
    for channel in list(_channels):
        channel.leave_to_parent()
    _channels.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""Wait until a server listens on a port, and check that it is the right one. Nothing connects."""

import os
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, SupportsIndex

from ephemport import _spelling
from ephemport._arguments import checked_pid, checked_port, seconds
from ephemport._errors import EphemportError, ServerExited, TakeoverTimeout, WrongListener
from ephemport._holding.hold import live_inodes
from ephemport._holding.host import endpoint
from ephemport._kernel.lookup import Lookup
from ephemport._kernel.processes import (
    command_line,
    descendants,
    is_running,
    owners,
    pids,
    user_of,
)
from ephemport._kernel.protocols import PARTS
from ephemport._kernel.sockets import SocketRecord
from ephemport._looking.diagnosis import LISTENS, RECEIVES, Diagnosis, diagnosis_or_none
from ephemport._looking.listeners import (
    Listener,
    command_in_words,
    listener_of,
    listening_records,
    owners_of,
)
from ephemport._looking.process_sockets import options_of, what_processes_have
from ephemport._serving.hints import hint, says_taken, who_has
from ephemport._serving.output import captured_output

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

_IF_LOG_SAYS = "If its log says 'Address already in use'"
_OUTPUT_SAYS = "Its output says that an address is in use. If that is this port"


class ProcessLike(Protocol):
    """A Popen, asyncio's Process or psutil's."""

    @property
    def pid(self) -> int:
        """The process id."""


def wait_listening(
    port: SupportsIndex,
    timeout: float = 10.0,
    *,
    process: ProcessLike | int | None = None,
) -> Listener:
    """Wait until a server listens on `port` (TCP) or is bound to it (UDP), and return who it is.

    The wait asks the kernel (sock_diag) and connects to nobody. So the server's log stays clean,
    and a server that listens and does not accept connections counts as listening.

    Args:
        port: The port, as an int from 1 to 65535 (TCP) or as a Reservation (its protocol).
        timeout: How long to wait at most, in seconds.
        process: The server's process: a Popen, asyncio's or psutil's Process, or a pid. Then only
            a listener of this process or of one of its descendants counts. None: any listener.

    Returns:
        The Listener that was found. With protocol "both" it is the UDP one.

    Raises:
        TakeoverTimeout: Nothing listened on the port within `timeout`.
        WrongListener: Another process listens on the port (only with `process`).
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
            watch.sleep(pause)
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
                raise watch.exited() from None
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
        self._port = checked_port(port)
        self._protocol: str = getattr(port, "protocol", "tcp")
        self._protocols = PARTS[self._protocol]
        self._waited_for = port
        self._process = process
        self._pid = _pid_of(process)
        self._stranger: int | None = None
        self._looks = 0
        self._cost = 0.0
        # To the kernel a UDP hold also receives.
        self._holds = live_inodes() if "udp" in self._protocols else set()
        self._addresses = _addresses(port)
        self._lookups: dict[str, Lookup] = {}
        self._pidfd: int | None = None
        if self._pid is not None and getattr(process, "returncode", None) is None:
            self._pidfd = _pidfd_of(self._pid)

    def __enter__(self) -> "_Watch":
        with suppress(OSError):
            for one in self._protocols:
                self._lookups[one] = Lookup(one, self._port, self._addresses)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
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

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when the process ends."""
        if self._pidfd is None:
            time.sleep(seconds)
        else:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(seconds * 1000)

    def look(self) -> Listener | None:
        """Return the wanted listener, or None. Raises WrongListener and ServerExited."""
        # Before the look at listeners: a server that listens and then ends is seen to listen.
        ended = self._has_ended()
        found: Listener | None = None
        began = time.perf_counter()
        self._looks += 1
        for protocol in self._protocols:
            # The last look is thorough too.
            unlikely = not ended and self._looks % _THOROUGH_LOOK and self._nobody_at(protocol)
            records = [] if unlikely else listening_records(self._port, protocol)
            found = self._right_one(records) if records else None
            if found is None:
                break
        self._cost = time.perf_counter() - began
        if found is None and ended:
            raise self.exited()
        return found

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

    def timed_out(self) -> TakeoverTimeout:
        """Return the error that says who holds, who listens, and what the process does."""
        diagnosis = diagnosis_or_none(self._port, self._protocol)
        message = (
            f"nothing listened on port {self._port} ({' and '.join(self._protocols)}) "
            f"within {self._timeout:g} s: {who_has(diagnosis)}"
        )
        if self._pid is None:
            message += ". It is unknown here whether a server was started (process= was not given)"
            message = self._hinted(message, "If one reports 'Address already in use'", diagnosis)
        else:
            output = captured_output(self._process)
            message += f"; {self._name()} still runs; {self._what_it_has()}"
            if output:
                message += f"; its last output:\n{output}\n"
            if says_taken(output):
                message = self._hinted(message, _OUTPUT_SAYS, diagnosis)
            else:
                message += "" if output else ". "
                message += (
                    f"Wait longer ({_spelling.TIMEOUT}), or check which port it was started with"
                )
            if output is None:
                message = self._hinted(message, _IF_LOG_SAYS, diagnosis)
        return TakeoverTimeout(
            message, port=self._port, protocol=self._protocol, diagnosis=diagnosis
        )

    def _hinted(self, message: str, condition: str, diagnosis: Diagnosis | None) -> str:
        hinted = hint(condition, diagnosis, self._protocols, self._waited_for)
        between = "" if message.endswith("\n") else ". "
        return f"{message}{between}{hinted}" if hinted else message

    def _what_it_has(self) -> str:
        assert self._pid is not None
        try:
            return what_processes_have(descendants(self._pid), self._port, self._protocols)
        except OSError as error:
            return f"its sockets are unknown ({error})"

    def _has_ended(self) -> bool:
        if self._pid is None:
            return False
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def _right_one(self, records: list[SocketRecord]) -> Listener | None:
        if self._pid is None:
            openers = owners_of(records)
            return listener_of(records[0], openers.get(records[0].inode))
        family = descendants(self._pid)
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
                raise self._wrong(record, also=bool(of_family))
        return listener_of(records[0], of_family.get(records[0].inode))

    def _wrong(self, record: SocketRecord, also: bool) -> WrongListener:
        """Return the error for a stranger's socket; `also`: the process listens there as well."""
        openers = owners_of([record]).get(record.inode) or []
        stranger = listener_of(record, openers)
        options = options_of(record, openers)
        end = "Close it in this process" if os.getpid() in openers else "End it"
        if self._has_ended():
            state = "has ended"
        else:
            state = "listens there too" if also else "runs and does not listen there"
        return WrongListener(
            f"port {self._port} has the wrong listener: {stranger}"
            f"{f' ({options})' if options is not None else ''}, while {self._name()} {state}. "
            f"Clients that connect reach the wrong server. {end}, or reserve another port",
            port=self._port,
            protocol=self._protocol,
            diagnosis=diagnosis_or_none(self._port, self._protocol),
        )

    def exited(self) -> ServerExited:
        """Return the error for a process that ended, with its status and output where known."""
        returncode = self._returncode()
        output = captured_output(self._process)
        diagnosis = diagnosis_or_none(self._port, self._protocol)
        how = "ended"
        if returncode is not None:
            how = (
                f"exited with status {returncode}"
                if returncode >= 0
                else f"was ended by signal {-returncode}"
            )
        message = f"{self._name()} {how} before it listened on port {self._port}"
        found = diagnosis.found if diagnosis is not None else ()
        others = [str(one) for one in found if one.state in (LISTENS, RECEIVES)]
        if others:
            message += f", on which {'; '.join(others)}"
        if output:
            message += f"; its last output:\n{output}\n"
        if says_taken(output) and not others:
            message = self._hinted(message, _OUTPUT_SAYS, diagnosis)
        elif output is None and not others and returncode:
            message = self._hinted(message, _IF_LOG_SAYS, diagnosis)
        return ServerExited(
            message,
            returncode=returncode,
            output=output,
            port=self._port,
            protocol=self._protocol,
            diagnosis=diagnosis,
        )

    def _returncode(self) -> int | None:
        poll = getattr(self._process, "poll", None)
        status = poll() if callable(poll) else getattr(self._process, "returncode", None)
        if isinstance(status, int):
            return status
        if self._pidfd is None:
            return None
        try:
            # WNOWAIT leaves the zombie to its own waiter, such as asyncio's child watcher.
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # Another thread may be collecting it now; meanwhile Popen.poll() returns None.
            for _ in range(_TURNS_FOR_STATUS):
                status = poll() if callable(poll) else None
                if isinstance(status, int) or not callable(poll):
                    return status
                time.sleep(_FIRST_PAUSE)
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _name(self) -> str:
        assert self._pid is not None
        command = _as_text(getattr(self._process, "args", None))
        if command is None and is_running(self._pid):
            command = command_line(self._pid)
        return f"pid {self._pid}" + (f" ({command_in_words(command)})" if command else "")


def _addresses(port: SupportsIndex) -> list[tuple[int, str]]:
    """Return where to look often: the host of a Reservation, else loopback.

    A packet to any of them also reaches a server on the wildcard address.
    """
    host = getattr(port, "host", "localhost")
    if host == "localhost":
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    where = endpoint(host)
    loopback = "::1" if where.family == socket.AF_INET6 else "127.0.0.1"
    return [(where.family, loopback if where.is_wildcard else where.address)]


def _as_text(args: object) -> str | None:
    """Return a Popen's `args` as one line; None if they are no arguments."""
    if isinstance(args, (str, bytes, os.PathLike)):
        return os.fsdecode(args)
    if isinstance(args, (list, tuple)):
        return " ".join(_as_text(one) or str(one) for one in args)
    return None


def _pid_of(process: ProcessLike | int | None) -> int | None:
    if process is None:
        return None
    return checked_pid(
        getattr(process, "pid", process), "process must be a Popen, a Process or a pid"
    )


def _pidfd_of(pid: int) -> int | None:
    """Return a descriptor that reports the end of the process; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        # EINVAL: the id of a thread.
        raise EphemportError(f"cannot watch process {pid}: {error.strerror}") from error


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

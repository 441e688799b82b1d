"""A request: the arguments of `reserve()`, checked, and how to get holds for them."""

import errno
import os
import resource
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import SupportsIndex

from ephemport import _spelling
from ephemport._arguments import PORTS, at_most, port_or_any, shown
from ephemport._errors import PortsExhausted, PortUnavailable
from ephemport._holding.acquire import opened
from ephemport._holding.handoffs import TAKEOVER, Handoff, handoff_named
from ephemport._holding.hold import TAKEN, Hold
from ephemport._holding.host import CERTAIN_HOSTS, endpoint
from ephemport._holding.sources import Source
from ephemport._kernel.protocols import check_protocol

# Not with the first error: by then the process may have another root, or be another user's.
from ephemport._looking.diagnosis import (
    CLOSING,
    TIME_WAIT,
    Diagnosis,
    diagnose,
    diagnosis_or_none,
    standing_in_the_way,
)

ANY = 0
# For more ports than this, the source is first asked how many it has. That costs as much as a few
# ports.
_MANY = 100

_NOTHING: frozenset[int] = frozenset()


class Request:
    """The arguments of `reserve()`. Raises TypeError or ValueError if they make no sense.

    handoff: the name of a hand-off, or the hand-off itself.
    """

    __slots__ = (
        "_ready",
        "_shadows",
        "excluded",
        "handoff",
        "host",
        "lone",
        "protocol",
        "simple",
        "wanted",
    )

    def __init__(
        self,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        port: SupportsIndex | Iterable[SupportsIndex] | None = None,
        exclude: Iterable[SupportsIndex] = (),
        handoff: str | Handoff = TAKEOVER,
    ) -> None:
        if type(host) is not str or host not in CERTAIN_HOSTS:
            endpoint(host)
        check_protocol(protocol)
        way = handoff if isinstance(handoff, Handoff) else handoff_named(handoff)
        self.host = host
        self.protocol = protocol
        self.handoff = way.name
        self._ready = way.ready
        self.excluded = _excluded(exclude) if exclude else _NOTHING
        self.lone = False
        self.wanted: tuple[int, ...] | None = None
        if port is not None:
            self._prefer(port)
        self._shadows = way.shadows(host, protocol)
        self.simple = port is None and way is TAKEOVER

    def _prefer(self, port: SupportsIndex | Iterable[SupportsIndex]) -> None:
        if isinstance(port, Iterable) and not isinstance(port, (str, bytes)):
            self.wanted = tuple(_ports(port, "port"))
            if ANY in self.wanted[:-1]:
                raise ValueError("0 means any port, so it can only be the last of port=")
            if not self.wanted:
                raise ValueError("port is empty: it names no port to reserve; 0 means any")
        else:
            one = port_or_any(port, "port")
            self.lone = one != ANY
            self.wanted = (one,)
        for one in self.wanted if self.lone else ():
            if one in self.excluded:
                raise ValueError(f"port {one} is requested and excluded at once")

    def hold_one(self, source: Source) -> Hold:
        """Hold one port, ready for its server."""
        if self.simple:
            try:
                return opened(source.hold(self.protocol, self.excluded))
            except OSError as error:
                raise exhausted(error, self.protocol) from error
        return self.hold_many(source, 1)[0]

    def hold_many(self, source: Source, count: int) -> list[Hold]:
        """Hold `count` ports, or none."""
        if self.lone and count > 1:
            raise ValueError(
                f"one port cannot serve {count} reservations: pass several, "
                "or contiguous=True for a row that begins with it"
            )
        if count > _MANY and self.wanted is None and count > len(source.ports):
            # Raised before the descriptors run out: more descriptors would not help.
            raise source.exhausted(self.protocol, self.excluded, count)
        if self.simple:
            return self._hold_any(source, count)
        left = list(self.wanted) if self.wanted is not None else None
        with _all_or_nothing(self.protocol) as holds:
            for _ in range(count):
                if left is None:
                    hold = source.hold(self.protocol, self.excluded)
                else:
                    hold = self._hold_first(source, left)
                    if hold.port in left:
                        del left[: left.index(hold.port) + 1]
                holds.append(hold)
                self._make_ready(hold)
            return holds

    def _hold_any(self, source: Source, count: int) -> list[Hold]:
        holds: list[Hold] = []
        try:
            for _ in range(count):
                holds.append(self.hold_one(source))
        except BaseException:
            _close_all(holds)
            raise
        return holds

    def hold_row(self, source: Source, count: int) -> list[Hold]:
        """Hold `count` ports in a row, or none."""
        with _all_or_nothing(self.protocol):
            return self._hold_row(source, count)

    def _hold_row(self, source: Source, count: int) -> list[Hold]:
        for start in self.wanted if self.wanted is not None else (ANY,):
            row = (
                self._any_row(source, count)
                if start == ANY
                else self._first_row(source, range(start, min(start + count, 65536)), count)
            )
            if row is not None:
                with _all_or_nothing(self.protocol, row):
                    for hold in row:
                        self._make_ready(hold)
                return row
            if self.lone:
                raise self._no_row(start, count)
        if self.wanted is not None and self.wanted[-1] != ANY:
            raise PortUnavailable(
                f"cannot reserve {count} {self.protocol} ports in a row beginning with any of "
                f"{_listed(self.wanted)}: each row has a port that is taken or excluded, or ends "
                "behind 65535. End port= in 0 to fall back to any",
                protocol=self.protocol,
            )
        raise source.exhausted(self.protocol, self.excluded, count, in_a_row=True)

    def _hold_first(self, source: Source, wanted: Sequence[int]) -> Hold:
        # Only an error needs to know who has a port: the look costs a millisecond.
        # Without tracebacks, which would refer to this frame, and it to them.
        refused: tuple[int, OSError] | PortUnavailable | None = None
        for port in wanted:
            if port == ANY:
                return source.hold(self.protocol, self.excluded)
            if port in self.excluded:
                continue
            try:
                return source.hold_port(port, self.protocol)
            except PortUnavailable as error:
                refused = refused or error.with_traceback(None)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                refused = refused or (port, error.with_traceback(None))
        if isinstance(refused, tuple):
            port, cause = refused
            refused = unavailable(port, self.protocol, cause)
        elif refused is not None and refused.port is not None and refused.port in source.ports:
            # Another process has locked it, and most often holds the port as well.
            refused.diagnosis = diagnosis_or_none(refused.port, self.protocol)
        if self.lone and refused is not None:
            raise refused
        raise PortUnavailable(
            f"cannot reserve any of {_listed(wanted) or 'the ports left'} ({self.protocol})"
            + (f"; for the first: {refused}" if refused else ": all are excluded or used up")
            + ". End port= in 0 to fall back to any port",
            port=refused.port if refused else None,
            protocol=self.protocol,
            diagnosis=refused.diagnosis if refused else None,
        )

    def _first_row(self, source: Source, ports: Iterable[int], count: int) -> list[Hold] | None:
        """Hold the first `count` ports in a row among `ports`; None if there is no such row."""
        with _all_or_nothing(self.protocol) as row:
            for port in ports:
                if row and port != row[-1].port + 1:
                    _close_all(row)
                if port in self.excluded:
                    continue
                try:
                    row.append(source.hold_port(port, self.protocol))
                except PortUnavailable:
                    continue
                except OSError as error:
                    if error.errno not in TAKEN:
                        raise
                    continue
                if len(row) == count:
                    return row
            _close_all(row)
            return None

    def _any_row(self, source: Source, count: int) -> list[Hold] | None:
        """Search the source's ports for a row, beginning where the source itself would."""
        if count > len(source.ports):
            return None
        try:
            first = source.hold(self.protocol, self.excluded)
        except PortsExhausted:
            return None
        first.close()
        begin = bisect_left(source.ports, first.port)
        around = (*source.ports[begin:], *source.ports[:begin])
        # A row may span the place where the search began, so the search goes on past that place.
        return self._first_row(source, (*around, *around[: count - 1]), count)

    def _make_ready(self, hold: Hold) -> None:
        try:
            self._ready(hold, self._shadows)
        except OSError as error:
            if error.errno in TAKEN:
                raise unavailable(hold.port, self.protocol, error, "hold") from error
            raise

    def _no_row(self, start: int, count: int) -> PortUnavailable:
        """The error for a requested row, about the port that stands in its way."""
        asked = f"cannot reserve the {count} ports {start}-{start + count - 1} ({self.protocol}): "
        if start + count - 1 > 65535:
            return PortUnavailable(f"{asked}ports end at 65535", port=start, protocol=self.protocol)
        for port in range(start, start + count):
            if port in self.excluded:
                return PortUnavailable(
                    f"{asked}{port} is excluded", port=port, protocol=self.protocol
                )
            if standing_in_the_way(port, self.protocol):
                diagnosis = diagnose(port, self.protocol)
                return PortUnavailable(
                    f"{asked}{port}: {diagnosis}. {_first_step(diagnosis)}, or ask for another row",
                    port=port,
                    protocol=self.protocol,
                    diagnosis=diagnosis,
                )
        return PortUnavailable(
            f"{asked}one of them was taken, but the kernel no longer shows by whom. Ask again, or "
            "for another row",
            protocol=self.protocol,
        )


@contextmanager
def _all_or_nothing(protocol: str, holds: list[Hold] | None = None) -> Iterator[list[Hold]]:
    """Close what was collected if the block fails, and explain a lack of descriptors."""
    collected = [] if holds is None else holds
    try:
        yield collected
    except BaseException as error:
        _close_all(collected)
        if isinstance(error, OSError):
            raise exhausted(error, protocol) from error
        raise


def _close_all(holds: list[Hold]) -> None:
    for hold in holds:
        hold.close()
    holds.clear()


def unavailable(port: int, protocol: str, error: OSError, verb: str = "reserve") -> PortUnavailable:
    """The error for a requested port, with who has the port if that is known."""
    asked = f"cannot {verb} port {port} ({protocol}): {os.strerror(error.errno or 0)}"
    if error.errno == errno.EACCES:
        return PortUnavailable(
            f"{asked}. Only root (CAP_NET_BIND_SERVICE) may bind ports below "
            "net.ipv4.ip_unprivileged_port_start; ask for a higher one",
            port=port,
            protocol=protocol,
        )
    diagnosis = diagnosis_or_none(port, protocol)
    who = "who has it is unknown: the kernel does not say" if diagnosis is None else str(diagnosis)
    return PortUnavailable(
        f"{asked}: {who}. {_what_to_do(port, diagnosis, verb)}",
        port=port,
        protocol=protocol,
        diagnosis=diagnosis,
    )


def _what_to_do(port: int, diagnosis: Diagnosis | None, verb: str) -> str:
    """What to do about a port that is taken."""
    first = _first_step(diagnosis)
    if verb == "listen on":
        return f"{first}, or reserve another port"
    return f"{first}, or ask for another port (port=[{port}, 0] falls back to any)"


def _first_step(diagnosis: Diagnosis | None) -> str:
    """What to do about the process or connection that stands in the way of a port."""
    found = diagnosis.found if diagnosis is not None else ()
    pids = {one.pid for one in found}
    if not found:
        return "Ask again"
    if os.getpid() in pids:
        return "Close or release it in this process"
    if any(one.state not in (TIME_WAIT, CLOSING) for one in found):
        return "End that process"
    return "Wait for that"


def exhausted(error: OSError, protocol: str | None = None) -> Exception:
    """PortsExhausted for a lack of descriptors; any other error unchanged."""
    if error.errno == errno.EMFILE:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return PortsExhausted(
            f"no file descriptor left: this process may have {soft:,} open (RLIMIT_NOFILE; its "
            f"hard limit is {hard:,}) and each held port needs one. Release reservations, or "
            f"raise the limit: {_spelling.MORE_DESCRIPTORS}",
            protocol=protocol,
        )
    if error.errno == errno.ENFILE:
        return PortsExhausted(
            "no file descriptor left on this machine (ENFILE). Release reservations, or raise the "
            "limit: sysctl -w fs.file-max=...",
            protocol=protocol,
        )
    return error


def _excluded(exclude: Iterable[SupportsIndex]) -> frozenset[int]:
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be an iterable of ints, not {shown(exclude)}")
    return frozenset(_ports(exclude, "exclude"))


def _ports(values: Iterable[SupportsIndex], argument: str) -> Iterator[int]:
    return (port_or_any(one, argument) for one in at_most(values, PORTS, argument))


def _listed(ports: Collection[int]) -> str:
    first = ", ".join(str(port) for port in list(ports)[:5])
    return f"{first}, ... ({len(ports)} ports)" if len(ports) > 5 else first

"""Why preferred ports cannot be had: one error for all of them, with who has which."""

import errno
from collections.abc import Iterator, Sequence

from ephemport import _spelling
from ephemport._errors import PortUnavailable
from ephemport._holding.owners import Owners, listed
from ephemport._holding.refusal import unavailable
from ephemport._holding.request import Request
from ephemport._holding.shape import Shape
from ephemport._looking.diagnosis import diagnosis_or_none

EXCLUDED = "excluded"


class Refusals:
    """Ports that were asked for and could not be had, in the order of the attempts, with reasons.

    A reason is the error of the attempt. It is text for a port that was not tried.
    """

    def __init__(self) -> None:
        self._reasons: dict[int, OSError | PortUnavailable | str] = {}

    def add(self, port: int, reason: OSError | PortUnavailable | str) -> None:
        """Remember why `port` cannot be had. The first reason counts."""
        self._reasons.setdefault(port, reason)

    def add_first(self, port: int, shape: Shape) -> None:
        """Remember why `port` cannot be the first of a group."""
        if port % shape.multiple_of:
            return self.add(port, f"no multiple of {shape.multiple_of}")
        others = (one for one in shape.ports(port) if not 0 < one < 65536)
        return self.add(port, f"not possible: ports end at 65535, and {next(others)} is none")

    def error(self, requests: Sequence[Request], shape: Shape, held: int = 0) -> PortUnavailable:
        """The error for these requests. held: how many ports could be had."""
        first = requests[0]
        protocols = {request.protocol for request in requests}
        protocol = first.protocol if len(protocols) == 1 else "both"
        taken = [port for port, why in self._reasons.items() if isinstance(why, OSError)]
        locked = [port for port, why in self._reasons.items() if isinstance(why, PortUnavailable)]
        port = next(iter([*taken, *locked, *self._reasons]), None)
        if first.lone and shape.offsets is None and port is not None:
            return self._lone(port, protocol)
        owners = Owners([one for one in taken if not _needs_root(self._reasons[one])], protocol)
        diagnosis = owners.diagnosis
        if not taken and locked and port is not None:
            diagnosis = diagnosis_or_none(port, protocol)
        reasons = [*owners.clauses(), *self._other_clauses(locked)] or ["there are no others"]
        asked, more = _asked(first, shape, protocol, held)
        remedy = self._glue(first, shape, held).join([*owners.steps(), *self._other_steps()])
        if first.lone:
            remedy = ", or ".join(filter(None, (remedy, "ask for other ports")))
        return PortUnavailable(
            f"{asked}{'; '.join(reasons)}. {remedy[:1].upper()}{remedy[1:]}"
            f"{'. ' if remedy and more else ''}{more}",
            port=port,
            protocol=protocol,
            diagnosis=diagnosis,
        )

    def _glue(self, first: Request, shape: Shape, held: int) -> str:
        """Whether one of the steps is enough, or all of them are needed."""
        if shape.offsets is not None:
            return " and " if first.lone else ", or "
        excluded = sum(why == EXCLUDED for why in self._reasons.values())
        others = len(self._reasons) - excluded
        return ", or " if min(excluded, others) >= shape.length - held else " and "

    def _lone(self, port: int, protocol: str) -> PortUnavailable:
        why = self._reasons[port]
        if isinstance(why, OSError):
            return unavailable(port, protocol, why)
        assert isinstance(why, PortUnavailable)
        # Another process has locked it, and most often holds the port as well.
        why.diagnosis = why.diagnosis or diagnosis_or_none(port, protocol)
        return why

    def _other_clauses(self, locked: Sequence[int]) -> Iterator[str]:
        """The reasons that are no sockets."""
        texts: dict[str, list[int]] = {}
        for port, why in self._reasons.items():
            if isinstance(why, str):
                texts.setdefault(why, []).append(port)
            elif _needs_root(why):
                texts.setdefault(_ROOT_ONLY, []).append(port)
        for text, ports in texts.items():
            yield f"{listed(ports)} {'is' if len(ports) == 1 else 'are'} {text}"
        for port in locked[:1]:
            others = f" (likewise {listed(locked[1:])})" if locked[1:] else ""
            yield f"{self._reasons[port]}{others}"

    def _other_steps(self) -> Iterator[str]:
        if EXCLUDED in self._reasons.values():
            yield "exclude fewer ports"
        if any(map(_needs_root, self._reasons.values())):
            yield "ask for higher ports"


_ROOT_ONLY = (
    "below net.ipv4.ip_unprivileged_port_start: only root (CAP_NET_BIND_SERVICE) may bind there"
)


def _needs_root(reason: object) -> bool:
    return isinstance(reason, OSError) and reason.errno == errno.EACCES


def _asked(first: Request, shape: Shape, protocol: str, held: int) -> tuple[str, str]:
    """The beginning of the message, and the remedy that a preference has besides."""
    wanted = first.wanted or ()
    fall_back = f"End {_spelling.PORT} in 0 to fall back to any port"
    if shape.offsets is not None:
        if first.lone:
            ports = listed(shape.ports(wanted[0]))
            return f"cannot reserve the {shape.length} ports {ports} ({protocol}): ", ""
        return (
            f"cannot reserve {shape} beginning with any of {listed(wanted)} ({protocol}): ",
            fall_back,
        )
    if shape.length == 1:
        return f"cannot reserve any of {listed(wanted)} ({protocol}): ", fall_back
    free = f"{held} of them {'is' if held == 1 else 'are'} free"
    return (
        f"cannot reserve {shape.length} of the ports {listed(wanted)} ({protocol}): {free}; ",
        fall_back,
    )

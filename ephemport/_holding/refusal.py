"""Why a port cannot be had: the errors, with who stands in the way and what to do about it."""

import errno
import os
import resource
from collections.abc import Iterable

from ephemport import _spelling
from ephemport._errors import (
    CallRefused,
    EphemportError,
    PortsExhausted,
    PortUnavailable,
    refusal_in_words,
)

# Not with the first error: by then the process may have another root, or be another user's.
from ephemport._findings import CLOSING, TIME_WAIT, Diagnosis, Found
from ephemport._holding.steps import refused_step
from ephemport._looking.diagnosis import diagnosis_or_none
from ephemport._looking.sight import unseen_holders
from ephemport._looking.time_wait import is_left_over, what_helps


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
    falls_back = _spelling.preferring(port, 0)
    return f"{first}, or ask for another port ({falls_back} falls back to any)"


def _first_step(diagnosis: Diagnosis | None) -> str:
    return first_step(diagnosis.found if diagnosis is not None else ())


def first_step(found: Iterable[Found]) -> str:
    """What to do about the processes or connections that stand in the way."""
    found = list(found)
    if not found:
        hidden = unseen_holders()
        return "Ask again" if hidden is None else "Release it, or end the process that holds it"
    if is_left_over(found):
        ports = {one.port for one in found}
        return what_helps(ports.pop()) if len(ports) == 1 else "Wait for those connections"
    ending = {one.pid for one in found if one.state not in (TIME_WAIT, CLOSING)}
    if os.getpid() in ending:
        own = "Close or release it in this process"
        return own if len(ending) == 1 else f"{own}, and end the others"
    if ending == {None}:
        return "End what has it: which process that is cannot be seen from here"
    return "End that process" if len(ending) == 1 else "End those processes"


def explained(error: OSError, protocol: str | None = None) -> Exception:
    """PortsExhausted for a lack of descriptors, CallRefused for what the system refuses."""
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
    # Of a lock file's error it is known what was refused.
    if isinstance(error, EphemportError) or error.filename is not None:
        return error
    step, number = refused_step(protocol) or ("a call of the hold's sockets", error.errno)
    return CallRefused(
        f"cannot reserve a port ({protocol or 'tcp'}): {step}: {refusal_in_words(number)}. Every "
        "hold needs this call: allow it there",
        number,
        protocol=protocol,
    )

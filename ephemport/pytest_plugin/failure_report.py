"""The failure report: when a test fails for want of an address, who has it and what helps.

It is made of what our errors carry, of what the kernel says of the port, the Unix name and the
socket that is in the frame, and of the reservations that the test has. What of it is unknown is
called unknown.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ephemport._errors import (
    EphemportError,
    PortUnavailable,
    ServerExited,
    TakeoverTimeout,
    WrongListener,
)
from ephemport.pytest_plugin.evidence import (
    chain_of,
    is_address_in_use,
    lines_on_addresses_in_use,
    numbers_in_frames,
    numbers_in_text,
    ports_in_frames,
    ports_in_text,
    reservations_in_frames,
    unix_sockets_in_text,
)
from ephemport.pytest_plugin.failed_bind import FailedBind, failed_bind

if TYPE_CHECKING:
    from ephemport._looking.diagnosis import Diagnosis
    from ephemport._reservation import Reservation

_OURS = (PortUnavailable, ServerExited, TakeoverTimeout, WrongListener)
_MOST_PORTS = 3
_MOST_LOOKS = 20

_ISOLATE = "  isolate   pytest -n N --ephemport-isolate: each worker has a loopback of its own"
_MIGRATE = (
    "  migrate   where the code has the port written down: a fixture (server_port, reserve_port, "
    "...), by hand or by 'ephemport migrate --write'"
)
_RESERVE = "  reserve   where something picked the port: ephemport.reserve() in place of it"
_SET_IT = (
    "In Python that is setsockopt(SOL_SOCKET, SO_REUSEADDR, 1) before bind(), or, in socketserver "
    "and http.server, allow_reuse_address = True."
)


class Evidence(NamedTuple):
    """What is known of a failure. said: lines of the captured output. isolation: is asked for."""

    chain: Sequence[BaseException]
    said: Sequence[str]
    arguments: Mapping[str, object]
    isolation: bool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section to the report of a test that failed for want of a port or a Unix name."""
    report = yield
    if report.failed and call.excinfo is not None:
        captured = "\n".join(text for _, text in report.sections)
        evidence = Evidence(
            list(chain_of(call.excinfo.value)),
            lines_on_addresses_in_use(captured),
            getattr(item, "funcargs", {}),
            getattr(item.config.option, "ephemport_isolate", None) is not None,
        )
        try:
            section = _section(evidence)
        except Exception as error:
            # The frames hold anybody's objects, and a failed test must stay a failed test.
            section = f"who has the address is unknown: the report cannot be made ({error!r})"
        if section:
            report.sections.append(("ephemport: who has the port", section))
    return report


def _section(evidence: Evidence) -> str | None:
    for one in evidence.chain:
        if isinstance(one, _OURS) and one.port is not None:
            return _of_our_error(one, one.port, evidence)
    refused = [one for one in evidence.chain if is_address_in_use(one)]
    if not refused and not evidence.said:
        return None
    try:
        return _of_an_address_in_use(refused, evidence)
    except OSError as error:
        return f"who has the address is unknown: the kernel does not say ({error})"


def _of_our_error(error: EphemportError, port: int, evidence: Evidence) -> str:
    told = "unknown" if error.diagnosis is None else str(error.diagnosis)
    section = f"port {port}, when the error was raised: {told}"
    if isinstance(error, PortUnavailable):
        found = error.diagnosis.found if error.diagnosis is not None else ()
        ways = _ways([one.pid for one in found], evidence, reserved=True)
        return section + ways
    if evidence.said and not isinstance(error, WrongListener):
        from ephemport._kernel.protocols import PARTS
        from ephemport._serving.hints import hint

        condition = "The captured output says that an address is in use. If that is this port"
        told = hint(condition, error.diagnosis, PARTS[error.protocol or "both"], None)
        return f"{section}\n\n{told}" if told else section
    return section


def _of_an_address_in_use(refused: Sequence[BaseException], evidence: Evidence) -> str:
    tried = next(filter(None, map(failed_bind, refused)), None)
    if tried is not None and tried.unix:
        return _of_unix_name(tried.name, evidence)
    if tried is not None and tried.port == 0:
        return _of_any_port(tried.protocol or "tcp")
    if tried is not None and tried.port is not None:
        return _of_port(tried.port, tried, evidence)
    text = [*evidence.said, *(line for one in evidence.chain for line in str(one).splitlines())]
    for name in unix_sockets_in_text(evidence.said):
        return _of_unix_name(name, evidence)
    told = _who_has(ports_in_text(text), tried, "", evidence)
    told = told or _who_has(
        ports_in_frames(refused), tried, ", in the frames of the error", evidence
    )
    if not told:
        likely = {*ports_in_text(text), *ports_in_frames(refused)}
        for kept in reservations_in_frames(evidence.chain, evidence.arguments):
            if kept.port in likely:
                return _of_port(kept.port, tried, evidence)
        for port in dict.fromkeys(ports_in_text(text)):
            return _of_port(port, tried, evidence)
    numbers = (
        *numbers_in_text(text),
        *numbers_in_frames(evidence.chain, evidence.arguments),
    )
    told = told or _who_has(
        numbers, tried, ", a number of the test's; whether it is the one is unknown", evidence
    )
    if told:
        return told
    unknown = "which address was in use is unknown: nothing says it"
    reserved = list(dict.fromkeys(reservations_in_frames(evidence.chain, evidence.arguments)))
    if reserved:
        return "\n".join([f"{unknown}.", *map(_if_it_was, reserved[:_MOST_PORTS])])
    return f"{unknown}{_ways([], evidence)}"


def _if_it_was(kept: "Reservation") -> str:
    from ephemport._holding.handoffs import HANDOFFS
    from ephemport._kernel.protocols import PARTS

    kinds = HANDOFFS[kept.handoff].kinds
    return (
        f"\nIf it was port {kept.port}, which this test has reserved ({kept.protocol}, handoff "
        f"{kept.handoff!r}): {_conditions({one: kinds[one] for one in PARTS[kept.protocol]})}"
    )


def _who_has(ports: Iterable[int], tried: FailedBind | None, where: str, evidence: Evidence) -> str:
    """What is told of those of `ports` that somebody has; "" where nobody has one."""
    from ephemport._looking.diagnosis import diagnose

    protocol = tried.protocol if tried is not None and tried.protocol else "both"
    taken = []
    for port in list(dict.fromkeys(ports))[:_MOST_LOOKS]:
        diagnosis = diagnose(port, protocol)
        if not diagnosis.free:
            taken.append(diagnosis)
    if not taken:
        return ""
    who = "\n".join(f"port {one.port}{where}: {one}" for one in taken[:_MOST_PORTS])
    return who + _what_helps(taken[0], tried, evidence)


def _of_port(port: int, tried: FailedBind | None, evidence: Evidence) -> str:
    from ephemport._kernel.protocols import PARTS
    from ephemport._looking.diagnosis import diagnose

    protocol = tried.protocol if tried is not None and tried.protocol else "both"
    diagnosis = diagnose(port, protocol)
    if not diagnosis.free:
        return f"port {port}: {diagnosis}{_what_helps(diagnosis, tried, evidence)}"
    for kept in reservations_in_frames(evidence.chain, evidence.arguments):
        if kept.port == port and protocol in ("both", *PARTS[kept.protocol]):
            return _of_released(kept, tried)
    return (
        f"port {port}: by now nobody has it; who had it when the error was raised is unknown"
        f"{_ways([], evidence)}"
    )


def _of_any_port(protocol: str) -> str:
    from ephemport._kernel.port_range import ephemeral_range, ports_in_use

    numbers = ephemeral_range()
    used = len(ports_in_use(protocol) & set(numbers))
    return (
        "any port was asked for (port 0), and the kernel had none to give. By now "
        f"{used:,} of the {len(numbers):,} ports of the ephemeral port range {numbers.start}-"
        f"{numbers.stop - 1} are in use ({protocol}); 'ephemport ls --all' lists who holds and who "
        "listens"
    )


def _of_released(kept: "Reservation", tried: FailedBind | None) -> str:
    from ephemport._holding.handoffs import HANDOFFS
    from ephemport._kernel.protocols import PARTS

    protocols = [tried.protocol] if tried is not None and tried.protocol else PARTS[kept.protocol]
    kinds = HANDOFFS[kept.handoff].kinds
    return (
        f"port {kept.port} was reserved by this very test (protocol {kept.protocol!r}, handoff "
        f"{kept.handoff!r}), and is released by now: nobody has it.\n\n"
        f"{_what_was_set(tried)}\nWhile it was held, "
        f"{_conditions({one: kinds[one] for one in protocols})}"
    )


def _what_helps(diagnosis: "Diagnosis", tried: FailedBind | None, evidence: Evidence) -> str:
    from ephemport._kernel.protocols import PARTS
    from ephemport._looking.diagnosis import LISTENS, RECEIVES
    from ephemport._serving.hints import kinds_of_holds

    pids = [one.pid for one in diagnosis.found]
    ours = diagnosis._replace(found=tuple(one for one in diagnosis.found if _is_ours(one.pids)))
    kinds = kinds_of_holds(ours, PARTS[diagnosis.protocol])
    if not kinds:
        return _ways(pids, evidence)
    if any(one.state in (LISTENS, RECEIVES) for one in diagnosis.found):
        return (
            "\n\nThis process has reserved the port, and a server has it already: the hold is not "
            "what is in the way of a second one."
        )
    text = f"\n\n{_what_was_set(tried)}\nThis process has reserved the port: {_conditions(kinds)}"
    if (
        tried is not None
        and tried.options is not None
        and any(tried.options)
        and "open" in kinds.values()
    ):
        text += "\nSo it was not the hold that refused this socket. What did is unknown."
    return text


def _is_ours(pids: Sequence[int]) -> bool:
    import os

    return os.getpid() in pids


def _conditions(kinds: Mapping[str, object]) -> str:
    from ephemport._holding.handoffs import lets_in
    from ephemport._looking.recognition import HoldKind

    known = {one: kind for one, kind in kinds.items() if isinstance(kind, HoldKind)}
    text = "; ".join(dict.fromkeys(lets_in(kind, one) for one, kind in known.items()))
    return f"{text}.\n{_SET_IT}" if HoldKind.OPEN in known.values() else f"{text}."


def _what_was_set(tried: FailedBind | None) -> str:
    if tried is None:
        return "What the server's socket had set is unknown."
    if tried.options is None:
        return "What the socket that tried to bind it had set is unknown: it is closed by now."
    said = {True: "set", False: "not set"}
    address, port = tried.options
    return (
        f"The socket that tried to bind it has SO_REUSEADDR {said[address]} and SO_REUSEPORT "
        f"{said[port]}."
    )


def _of_unix_name(name: bytes | None, evidence: Evidence) -> str:
    from ephemport._looking.unix_names import Standing, look_at_name

    if name is None:
        return (
            "the address is a Unix socket's, no port; which one is unknown.\n\n"
            "What helps against a path that exists: a folder of the test's own (tmp_path)"
        )
    found = look_at_name(name)
    if found.is_abstract:
        own = "  a name of its own   with the process's id in it: f'\\0name-{os.getpid()}'"
        isolate = "" if evidence.isolation else f"\n{_ISOLATE}, abstract names too"
        return f"{found}\n\nIt is no port. What helps:\n{own}{isolate}"
    ways = (
        "  a private folder   tmp_path / 'name' (pytest's fixture), or tempfile's "
        "TemporaryDirectory(): a Unix path has 107 bytes at most"
    )
    if found.standing is Standing.LEFT_BEHIND:
        ways += "\n  removing it        os.unlink() before bind(), where no server can be using it"
    return (
        f"{found}\n\nIt is a path, no port: networks of their own do not separate it, folders do. "
        f"What helps:\n{ways}"
    )


def _ways(pids: Sequence[int | None], evidence: Evidence, *, reserved: bool = False) -> str:
    """What prevents such a failure, of what is not in force already.

    pids: who has the port. reserved: reserve() itself asked for it.
    """
    import os

    ways = []
    if not evidence.isolation and not (pids and set(pids) == {os.getpid()}):
        ways.append(_ISOLATE)
    if not reserved:
        ways += [_MIGRATE, _RESERVE]
    return "\n\nWhat prevents it:\n" + "\n".join(ways) if ways else ""

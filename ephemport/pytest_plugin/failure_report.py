"""The failure report: when a test fails because an address is in use, who has it and what helps.

Its facts come from our errors, from the kernel (about the port, the Unix name and the socket in the
frame), and from the reservations of the test. A fact that is unknown is called unknown.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ephemport._errors import (
    EphemportError,
    PortUnavailable,
    ServerExited,
    StillListening,
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
    from ephemport._findings import Diagnosis
    from ephemport._reservation import Reservation

_OURS = (PortUnavailable, ServerExited, StillListening, TakeoverTimeout, WrongListener)
_MOST_PORTS = 3
_MOST_LOOKS = 20

_ISOLATE = "  isolate   pytest -n N --ephemport-isolate: each worker has a loopback of its own"
_MIGRATE = (
    "  migrate   where the port is written in the code: use a fixture (server_port, reserve_port, "
    "...), by hand or with 'ephemport migrate --write'"
)
_RESERVE = "  reserve   where the code picks a free port: call ephemport.reserve() instead"
_SET_IT = (
    "In Python that is setsockopt(SOL_SOCKET, SO_REUSEADDR, 1) before bind(), or, in socketserver "
    "and http.server, allow_reuse_address = True."
)


class Evidence(NamedTuple):
    """What is known of a failure.

    said: lines of the captured output. isolation: whether `--ephemport-isolate` is in force.
    """

    chain: Sequence[BaseException]
    said: Sequence[str]
    arguments: Mapping[str, object]
    isolation: bool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section to the report of a test that failed because an address is in use."""
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
            # The frames have objects of any kind, and a failed test must stay a failed test.
            section = f"it is unknown who has the address: this report failed ({error!r})"
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
        return f"it is unknown who has the address: the kernel does not answer ({error})"


def _of_our_error(error: EphemportError, port: int, evidence: Evidence) -> str:
    who = "unknown" if error.diagnosis is None else str(error.diagnosis)
    section = f"port {port}, when the error was raised: {who}"
    if isinstance(error, PortUnavailable):
        found = error.diagnosis.found if error.diagnosis is not None else ()
        ways = _ways([one.pid for one in found], evidence, reserved=True)
        return section + ways
    if evidence.said and not isinstance(error, WrongListener):
        from ephemport._kernel.protocols import PARTS
        from ephemport._serving.hints import hint

        condition = "The captured output says that an address is in use. If that is this port"
        advice = hint(condition, error.diagnosis, PARTS[error.protocol or "both"], None)
        return f"{section}\n\n{advice}" if advice else section
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
    answer = _who_has(ports_in_text(text), tried, "", evidence)
    answer = answer or _who_has(
        ports_in_frames(refused), tried, ", in the frames of the error", evidence
    )
    if not answer:
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
    answer = answer or _who_has(
        numbers, tried, ", a number in the test; the error may be about another port", evidence
    )
    if answer:
        return answer
    unknown = "it is unknown which address was in use: nothing names it"
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
    """Say who has those of `ports` that somebody has; "" where nobody has one."""
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
        f"port {port}: nobody has it now; it is unknown who had it when the error was raised"
        f"{_ways([], evidence)}"
    )


def _of_any_port(protocol: str) -> str:
    from ephemport._kernel.port_range import ephemeral_range, ports_in_use
    from ephemport._looking.sight import in_use_in_words

    ports = ephemeral_range()
    used = in_use_in_words(len(ports_in_use(protocol) & set(ports)), protocol)
    return (
        "the bind asked for any port (port 0), and the kernel found none. Now "
        f"{used} of the {len(ports):,} ports of the ephemeral port range {ports.start}-"
        f"{ports.stop - 1} are in use ({protocol}); 'ephemport ls --all' lists who holds and who "
        "listens"
    )


def _of_released(kept: "Reservation", tried: FailedBind | None) -> str:
    from ephemport._holding.handoffs import HANDOFFS
    from ephemport._kernel.protocols import PARTS

    protocols = [tried.protocol] if tried is not None and tried.protocol else PARTS[kept.protocol]
    kinds = HANDOFFS[kept.handoff].kinds
    return (
        f"this test had reserved port {kept.port} (protocol {kept.protocol!r}, handoff "
        f"{kept.handoff!r}) and has released it: nobody has it now.\n\n"
        f"{_what_was_set(tried)}\nWhile it was held, "
        f"{_conditions({one: kinds[one] for one in protocols})}"
    )


def _what_helps(diagnosis: "Diagnosis", tried: FailedBind | None, evidence: Evidence) -> str:
    from ephemport._findings import LISTENS, RECEIVES
    from ephemport._kernel.protocols import PARTS
    from ephemport._looking.time_wait import (
        is_left_over,
        is_left_over_beside_holds,
        what_helps,
    )
    from ephemport._serving.hints import kinds_of_holds

    if is_left_over(diagnosis.found):
        return f"\n\n{what_helps(diagnosis.port)}.{_ways([], evidence)}"
    pids = [one.pid for one in diagnosis.found]
    ours = diagnosis._replace(found=tuple(one for one in diagnosis.found if _is_ours(one.pids)))
    kinds = kinds_of_holds(ours, PARTS[diagnosis.protocol])
    if not kinds:
        return _ways(pids, evidence)
    servers = sum(one.state in (LISTENS, RECEIVES) for one in diagnosis.found)
    if servers:
        met = (
            "a server already has it. A second server meets the first one"
            if servers == 1
            else "servers already have it. Another server meets one of them"
        )
        return f"\n\nThis process has reserved the port, and {met}, not the hold."
    text = f"\n\n{_what_was_set(tried)}\n"
    if is_left_over_beside_holds(diagnosis.found):
        return text + f"This process has reserved the port. {what_helps(diagnosis.port)}."
    text += f"This process has reserved the port: {_conditions(kinds)}"
    if (
        tried is not None
        and tried.options is not None
        and any(tried.options)
        and "open" in kinds.values()
    ):
        text += "\nSo the hold did not refuse this socket. It is unknown what did."
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
        return "The options of the server's socket are unknown."
    if tried.options is None:
        return "The options of the socket that tried to bind are unknown: it is closed now."
    said = {True: "set", False: "not set"}
    address, port = tried.options
    return (
        f"The socket that tried to bind has SO_REUSEADDR {said[address]} and SO_REUSEPORT "
        f"{said[port]}."
    )


def _of_unix_name(name: bytes | None, evidence: Evidence) -> str:
    from ephemport._looking.unix_names import Standing, look_at_name

    if name is None:
        return (
            "the address is the name of a Unix socket, not a port; it is unknown which name.\n\n"
            "If it is a path that exists already, a folder of the test's own helps (tmp_path)"
        )
    found = look_at_name(name)
    if found.is_abstract:
        own = "  own name  with the process id in it: f'\\0name-{os.getpid()}'"
        isolate = (
            ""
            if evidence.isolation or found.ours
            else f"\n{_ISOLATE}, and abstract names of its own"
        )
        return f"{found}\n\nIt is not a port. What helps:\n{own}{isolate}"
    ways = (
        "  a private folder   tmp_path / 'name' (pytest's fixture), or tempfile's "
        "TemporaryDirectory(); a Unix path has at most 107 bytes"
    )
    if found.standing is Standing.LEFT_BEHIND:
        ways += "\n  remove the file    os.unlink() before bind(), if no server can be using it"
    return (
        f"{found}\n\nIt is a path, not a port: isolation does not separate paths, folders do. "
        f"What helps:\n{ways}"
    )


def _ways(pids: Sequence[int | None], evidence: Evidence, *, reserved: bool = False) -> str:
    """Say what prevents such a failure, without what is in force already.

    pids: who has the port. reserved: whether reserve() itself asked for it.
    """
    import os

    ways = []
    if not evidence.isolation and not (pids and set(pids) == {os.getpid()}):
        ways.append(_ISOLATE)
    if not reserved:
        ways += [_MIGRATE, _RESERVE]
    return "\n\nWhat prevents it:\n" + "\n".join(ways) if ways else ""

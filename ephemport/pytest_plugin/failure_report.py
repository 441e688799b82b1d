"""The failure report: when a test fails for want of a port, who has it and what prevents it."""

import errno
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import pytest

from ephemport._errors import EphemportError, TakeoverTimeout, WrongListener

# What the common servers, in any language, say of EADDRINUSE.
_IN_USE = re.compile(
    r"address already in use|EADDRINUSE|address in use|port \d+ is (?:already )?in use"
    r"|only one usage of each socket address|errno:? 98\b|BindException|already in use by",
    re.IGNORECASE,
)
# Where a line of theirs has the number: ('127.0.0.1', 9001), 127.0.0.1:9001, [::]:9001, port 9001.
_NUMBER = re.compile(r"(?:'[^']*', ?|:|\bport[ =:]+|\b)(\d{2,5})\b(?![.:\d])", re.IGNORECASE)
_MOST_PORTS = 3
_MOST_LOOKS = 20
_RUNGS = (
    "What prevents it:\n"
    "  isolate   pytest -n N --ephemport-isolate: each worker has a loopback of its own\n"
    "  migrate   a fixture (server_port, reserve_port, ...) in place of the written number: by "
    "hand, or by 'ephemport migrate --write'\n"
    "  reserve   with ephemport.reserve() as r: in place of whatever picked the number"
)


_OPTIONLESS = (
    "The number is held for this server, and the server sets neither SO_REUSEADDR nor SO_REUSEPORT."
    "\nWhat helps, any of:\n"
    "  setsockopt(SOL_SOCKET, SO_REUSEADDR, 1) before its bind(), or allow_reuse_address = True\n"
    "  reserve_port(handoff='shadow'), the number held where such a server does not bind\n"
    "  reservation.popen([...], assist=True), for a server in a process of its own\n"
    "  reservation.listen(), for a server that takes a socket"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section to the report of a test that failed for want of a port."""
    report = yield
    if report.failed and call.excinfo is not None:
        captured = "\n".join(text for _, text in report.sections)
        arguments: dict[str, object] = getattr(item, "funcargs", {})
        section = _section(call.excinfo.value, captured, arguments)
        if section:
            report.sections.append(("ephemport: who has the port", section))
    return report


def _section(raised: BaseException, captured: str, arguments: Mapping[str, object]) -> str | None:
    chain = list(_chain(raised))
    said = [line for line in captured.splitlines() if _IN_USE.search(line)]
    if not said and not any(map(_concerns_us, chain)):
        return None
    said += [line for one in chain for line in str(one).splitlines()]
    likely = [*_ports_in_text(said), *_ports_in_frames(chain)]
    try:
        told = _who_has(likely) or _who_has(_any_numbers(chain, arguments))
    except OSError as error:
        told = [f"who has the port cannot be told: {error}"]
    if not told and isinstance(raised, EphemportError):
        told = ["by now nobody; the error's message says who had it at that moment"]
    who = "\n".join(told) or "by now nobody: it was taken for a moment only"
    ours = any(
        "ephemport's" in one and "this process" in one and "listens on" not in one for one in told
    )
    return f"{who}\n\n{_OPTIONLESS if ours else _RUNGS}"


def _who_has(ports: Iterable[int]) -> list[str]:
    # Not at the plugin's start: it brings much along, and most tests never need it.
    from ephemport._looking.diagnosis import diagnose

    told = []
    for port in list(dict.fromkeys(ports))[:_MOST_LOOKS]:
        diagnosis = diagnose(port)
        if not diagnosis.free:
            told.append(f"port {port}: {diagnosis}")
    return told[:_MOST_PORTS]


def _concerns_us(raised: BaseException) -> bool:
    if isinstance(raised, (TakeoverTimeout, WrongListener)):
        return True
    return isinstance(raised, OSError) and raised.errno == errno.EADDRINUSE


def _chain(raised: BaseException | None) -> Iterator[BaseException]:
    """The exception, its causes and contexts, and the members of groups."""
    waiting, seen = [raised], set()
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions


def _ports_in_text(lines: list[str]) -> Iterator[int]:
    for line in lines:
        for digits in _NUMBER.findall(line):
            yield from _port(int(digits))


def _ports_in_frames(chain: list[BaseException]) -> Iterator[int]:
    """Python's own error names no port; the frames that it came through do, the innermost first."""
    for raised in chain:
        if isinstance(raised, OSError) and raised.errno == errno.EADDRINUSE:
            for frame in reversed(list(_frames(raised.__traceback__))):
                for name, value in frame.items():
                    yield from _ports_in_value(name, value)


def _any_numbers(chain: list[BaseException], arguments: Mapping[str, object]) -> Iterator[int]:
    """Whatever could be a port in the test's arguments and in the frames, under any name."""
    for names in (arguments, *(frame for one in chain for frame in _frames(one.__traceback__))):
        for value in names.values():
            yield from _port(value)


def _frames(trace: TracebackType | None) -> Iterator[dict[str, Any]]:
    while trace is not None:
        yield trace.tb_frame.f_locals
        trace = trace.tb_next


def _ports_in_value(name: str, value: object) -> Iterator[int]:
    if isinstance(value, int) and "port" in name.lower():
        yield from _port(value)
    elif isinstance(value, tuple) and len(value) in (2, 4) and isinstance(value[0], str):
        yield from _port(value[1])
    elif name == "self":
        # socketserver, http.server and their like keep what they bind.
        for attribute in ("server_address", "address", "port", "_port"):
            yield from _ports_in_value("port", getattr(value, attribute, None))


def _port(value: object) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536:
        yield value

"""Servers that outlive their test. Teardown looks for them while the port is still held."""

import warnings
from collections.abc import Iterable

import pytest

from ephemport._errors import LeakedServerWarning
from ephemport._looking.listeners import listeners, listening_records
from ephemport._reservation import Reservation


def report_leaks(reservations: Iterable[Reservation], request: pytest.FixtureRequest) -> None:
    """Warn, or fail the test, if a held port still has a listener (ini `ephemport_leaks`)."""
    policy = request.config.getini("ephemport_leaks")
    if policy == "ignore":
        return
    leaks = [
        str(listener)
        for reservation in reservations
        if not reservation.released and listening_records(reservation.port, reservation.protocol)
        for listener in listeners(reservation.port)
    ]
    if not leaks:
        return
    message = (
        f"a server outlives {request.node.nodeid or 'the session'}: {'; '.join(leaks)}. Stop it "
        f"in the teardown of what started it ({request.fixturename} releases the port now)"
    )
    if policy == "error":
        pytest.fail(message, pytrace=False)
    path, line, module = _place(request.node)
    warnings.warn_explicit(LeakedServerWarning(message), None, path, line, module)


def _place(node: pytest.Item | pytest.Collector) -> tuple[str, int, str | None]:
    """Return a test's file, line and module: warning filters and the summary of warnings use it."""
    if not isinstance(node, pytest.Item):
        # A fixture of a wider scope belongs to no single test.
        return __file__, 1, __name__
    module = node.getparent(pytest.Module)
    line = (node.location[1] or 0) + 1
    return str(node.path), line, None if module is None else module.obj.__name__

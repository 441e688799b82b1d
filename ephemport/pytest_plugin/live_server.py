"""pytest-django's `live_server` on a port that the user chose: held, and so free of TIME_WAIT.

Django's live server sets no option. On a port that was named (--liveserver=localhost:8081, or
DJANGO_LIVE_TEST_SERVER_ADDRESS) a second run within 60 s could not bind it. Without a port the
kernel gives it one, and nothing is to be done.
"""

import os
from collections.abc import Generator
from typing import Any

import pytest

_FIXTURE = "live_server"


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Hold the port before the live server binds it, until the server has ended."""
    if fixturedef.argname == _FIXTURE and (port := _named_port(request.config)) is not None:
        from ephemport._holding.held import holds_of
        from ephemport._reservation import reserve
        from ephemport._serving.inside import offer

        # A conftest file may have named a port that it holds.
        if all(hold.closed for hold in holds_of(port)):
            held = reserve(port=port)
            # Finalizers run in reverse: this one after the server's.
            fixturedef.addfinalizer(held.release)
            offer([held._hold])
    return (yield)


def _named_port(config: pytest.Config) -> int | None:
    """The port that the live server was told to use, as pytest-django reads it. None: any."""
    address = config.getoption("liveserver", None) or os.getenv("DJANGO_LIVE_TEST_SERVER_ADDRESS")
    _, _, port = str(address or "").partition(":")
    return int(port) if port.isdecimal() and 0 < int(port) < 65536 else None

"""The exceptions of a test's threads are kept in each of its phases, for `wait_listening()`.

A server's thread may have failed before the test waits for it. pytest keeps these exceptions as
long (its threadexception plugin), but not whose they are.
"""

from collections.abc import Generator

import pytest

from ephemport._serving.thread_failures import kept_failures


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Keep them in the setup."""
    with kept_failures():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Keep them in the call."""
    with kept_failures():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Keep them in the teardown."""
    with kept_failures():
        return (yield)

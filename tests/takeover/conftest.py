"""Sharing leaves nothing behind: no thread, no descriptor."""

from collections.abc import Iterator

import pytest

from tests.core.helpers import eventually
from tests.core.helpers import open_descriptors as descriptors
from tests.takeover.sharing import servers


@pytest.fixture
def nothing_stays_served() -> Iterator[None]:
    """Nothing is served before the test, and what the test has served is closed after it."""
    eventually(lambda: not servers())
    before = descriptors()
    yield
    eventually(lambda: not servers())
    eventually(lambda: descriptors() == before)

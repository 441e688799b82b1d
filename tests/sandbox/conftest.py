import os

import pytest


@pytest.fixture
def as_root() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root")

import pytest

from processes import SCRIPT, running


@pytest.fixture
def echo():
    with running(SCRIPT, port=6101):
        yield "http://127.0.0.1:6101"


@pytest.fixture
def other():
    with running(SCRIPT, "--port", "6102", port=6102):
        yield

"""What the documents promise: the tests that they name exist, and docstrings name all they must."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.docstrings import documented, missing

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    missing = [
        f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert missing == []
    assert named or page.name != "how-it-works.md"


def test_public_docstrings_name_what_is_taken_returned_and_raised() -> None:
    command = [sys.executable, "-m", "tests.docstrings"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr, found.returncode) == ("", "", 0)


def whole(port: int, *more: int, **options: Any) -> int:
    """Return something.

    Args:
        port: A port.
        *more (int): More ports,
            on two lines.
        **options: The rest.

    Returns:
        An int.

    Raises:
        ValueError: Always.
    """
    raise ValueError


def without_a_parameter(port: int, timeout: float) -> None:
    """Do something with `timeout`, in seconds.

    Args:
        port: A port.
    """


def without_returns() -> int:
    """Return something."""
    return 1


def without_raises() -> None:
    """Do something."""
    if not sys.argv:
        raise ValueError


def raising_below() -> None:
    """Do something. Raises ValueError."""


def without_a_docstring() -> None:
    pass


class Group:
    """A class.

    Args:
        count: How many.
    """

    def __init__(self, count: int, names: list[str]) -> None:
        self.count = count
        self.names = names

    @property
    def first(self) -> str:
        """The first name."""
        return self.names[0]

    def add(self, name: str) -> None:
        """Add a name."""

    def _private(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    ("thing", "messages"),
    [
        (whole, []),
        (without_a_parameter, ["it: Args: lacks timeout"]),
        (without_returns, ["it: no Returns:"]),
        (without_raises, ["it: no Raises:"]),
        (raising_below, ["it: no Raises:"]),
        (without_a_docstring, ["it: no docstring"]),
        (Group, ["it: Args: lacks names", "it.add: Args: lacks name"]),
    ],
)
def test_what_a_docstring_leaves_out_is_found(
    thing: Callable[..., Any], messages: list[str]
) -> None:
    found = [message for one in documented("it", thing) for message in missing(one)]
    assert found == messages

"""Whole suites: what they give serially as they were, they give under -n 4 once migrated."""

import re
from collections.abc import Callable

import pytest

from tests.migrate.conftest import Folder


@pytest.mark.parametrize(
    ("name", "tests", "failing", "left"),
    [
        pytest.param("chat", 19, 0, "", marks=pytest.mark.slow),
        pytest.param("cluster", 14, 0, "7999"),
        pytest.param("launcher", 14, 1, "6190"),
    ],
)
def test_migrated_suite_gives_what_it_gave(
    suite: Callable[[str], Folder], name: str, tests: int, failing: int, left: str
) -> None:
    folder = suite(name)
    before = folder.pytest(alone=True)
    assert len(before.outcomes) == tests, before.stdout
    assert list(before.outcomes.values()).count("PASSED") == tests - failing, before.stdout
    migrated = folder.migrate("--write")
    assert set(re.findall(r"port (\d+) .*\(left: ", migrated.stdout)) == set(left.split()), (
        migrated.stdout
    )
    after = folder.pytest("-n", "4")
    assert after.outcomes == before.outcomes, after.stdout
    written = folder.snapshot()
    assert "0 uses replaced in 0 files" in folder.migrate("--write").stderr
    assert folder.snapshot() == written


@pytest.mark.parametrize("name", ["chat", "cluster", "launcher"])
def test_isolated_suite_gives_what_it_gave(suite: Callable[[str], Folder], name: str) -> None:
    folder = suite(name)
    before = folder.pytest(alone=True)
    files = folder.snapshot()
    after = folder.pytest("-n", "4", "--ephemport-isolate")
    assert after.outcomes == before.outcomes, after.stdout
    assert folder.snapshot() == files


@pytest.mark.parametrize("name", ["chat", "cluster", "launcher"])
def test_map_alone_is_enough(suite: Callable[[str], Folder], name: str) -> None:
    folder = suite(name)
    folder.migrate("--write", "--style", "map")
    sources = [path.read_text() for path in folder.path.rglob("*.py")]
    assert any("port_map[" in source for source in sources)
    assert not any("TestPortManager" in source or "port_pair" in source for source in sources)


def test_what_stays(suite: Callable[[str], Folder]) -> None:
    folder = suite("launcher")
    left = folder.migrate("--write")
    assert left.status == 1
    [line] = left.stdout.splitlines()
    assert re.fullmatch(
        r"tests/test_launcher\.py:\d+:\d+ EPH003 port 6190 is hard-coded in an address "
        r"\(left: tests/service\.json:1 repeats it, which is no Python\)",
        line,
    )
    assert '"6190"' in folder.read("tests/test_launcher.py")
    assert "environ(6101, 6103)" in folder.read("tests/conftest.py")

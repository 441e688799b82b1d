"""What `import ephemport` brings along: little, and nothing but the standard library."""

import json
import sys

import pytest

from tests.conftest import run_python

HEAVY = {"asyncio", "ctypes", "subprocess", "multiprocessing", "logging", "email", "http", "json"}
SCRIPT = """
import sys
before = set(sys.modules)
import ephemport
{then}
after = set(sys.modules) - before
import json
print(json.dumps([sorted(before), sorted(after)]))
"""


def imported(then: str = "") -> set[str]:
    done = run_python(SCRIPT.format(then=then))
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)[1]}


@pytest.mark.parametrize("then", ["", "ephemport.reserve", "ephemport.diagnose"])
def test_only_the_standard_library_is_imported(then: str) -> None:
    assert imported(then) - {"ephemport"} <= sys.stdlib_module_names


@pytest.mark.parametrize("then", ["", "ephemport.reserve"])
def test_nothing_heavy_is_imported(then: str) -> None:
    assert imported(then) & HEAVY == set()


def test_what_nobody_asked_for_is_not_imported() -> None:
    assert "socket" not in imported()
    assert "socket" in imported("ephemport.reserve")


def test_reserving_imports_nothing_more() -> None:
    assert imported("ephemport.reserve().release()") == imported("ephemport.reserve")


def test_everything_public_is_there() -> None:
    import ephemport

    for name in ephemport.__all__:
        assert getattr(ephemport, name) is not None
    for name in ("reserve", "reserve_many", "listeners", "holders"):
        assert name in ephemport.__all__

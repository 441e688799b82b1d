"""Every public name has a fuzzer: whoever adds one adds it to the table of its area, too."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import ephemport
from ephemport import compat, dropin
from tests.conftest import ROOT
from tests.fuzz.conftest import Fuzz
from tests.fuzz.test_fuzz_compat import COMPAT
from tests.fuzz.test_fuzz_looking import LOOKING
from tests.fuzz.test_fuzz_nodes import NODES
from tests.fuzz.test_fuzz_popen import STARTING
from tests.fuzz.test_fuzz_reserving import RESERVING
from tests.fuzz.test_fuzz_share import ADOPTING

FUZZED = {*RESERVING, *LOOKING, *STARTING, *ADOPTING, *COMPAT, *NODES}

# Not called, or not with anything of the caller's.
NOT_FUZZED = {
    # What is returned and raised, and is only read.
    *("Diagnosis", "Found", "Holder", "Listener", "PortMap"),
    # Nothing is passed to them.
    *("assisted", "isolate"),
    # Calls of other parts of ephemport, with what those have checked.
    *("PortAllocator.allocate", "PortAllocator.nested", "PortAllocator.source"),
    # Commands: `test_commands_of_drop_ins` runs them.
    *("ephemeral_port_reserve.main", "port_for.cmd.main"),
}


def names_of(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name in getattr(module, "__all__", None) or [one for one in vars(module) if one[0] != "_"]:
        found = getattr(module, name)
        home = getattr(found, "__module__", "")
        if callable(found) and home.startswith(("ephemport", module.__name__)):
            yield name, found


def calls_of(name: str, found: object) -> Iterator[str]:
    """The name itself, and the methods of a class."""
    if not inspect.isclass(found):
        yield name
    elif not issubclass(found, (BaseException, tuple)):
        yield name
        for base in found.__mro__:
            for attribute, value in vars(base).items():
                ours = base.__module__.startswith("ephemport")
                if ours and attribute[0] != "_" and inspect.isfunction(value):
                    yield f"{name}.{attribute}"


def public_calls() -> set[str]:
    named = (
        dict(names_of(ephemport)) | dict(names_of(compat)) | {"PortMap": type(ephemport.port_map)}
    )
    found = {call for name, one in named.items() for call in calls_of(name, one)}
    for module in pkgutil.walk_packages(dropin.__path__, f"{dropin.__name__}."):
        short = module.name.removeprefix(f"{dropin.__name__}.")
        if short[0] != "_":
            for name, one in names_of(importlib.import_module(module.name)):
                if getattr(one, "__module__", None) == module.name and not is_fixture(one):
                    found |= {f"{short}.{call}" for call in calls_of(name, one)}
    return found


def is_fixture(found: object) -> bool:
    return "fixture" in type(found).__name__.lower()


def look_for_fuzzers() -> None:
    from tests.fuzz.dropin_calls import DROPIN

    missing = public_calls() - FUZZED - DROPIN.keys() - NOT_FUZZED
    assert not missing, f"no fuzzer calls {sorted(missing)}: add it to a table in tests/fuzz"
    gone = NOT_FUZZED - public_calls() - {"Diagnosis", "Found", "Holder", "Listener"}
    assert not gone, f"{sorted(gone)} need not be named any more"


def test_every_public_call_is_fuzzed(fuzz: Fuzz) -> None:
    fuzz(look_for_fuzzers)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ephemeral_port_reserve", ["192.0.2.1"]),
        ("ephemeral_port_reserve", ["127.0.0.1", "x"]),
        ("ephemeral_port_reserve", ["a", "b", "c"]),
        ("portpicker", ["x"]),
        ("portpicker", ["1", "nan"]),
        ("portpicker", ["1", "-1"]),
        ("portpicker", ["9" * 5000]),
    ],
    ids=str,
)
def test_commands_of_drop_ins(module: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"{dropin.__name__}.{module}", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr

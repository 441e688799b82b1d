"""Drop-ins have every public name of their originals, and take the arguments that those take."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType
from typing import Any, TypeVar

import pytest

from ephemport.dropin._install import ORIGINALS
from tests.conftest import ROOT

# What other packages import; each was read in that package.
TAKEN = {
    "pytest_postgresql.factories.process": ["get_port", "PortForException", "PortType"],
    "pytest_redis.factories.proc": ["get_port", "PortForException", "PortType"],
    "pytest_mysql.factories.process": ["get_port", "PortForException", "PortType"],
}

COMPARE = """
import sys
from tests.dropin.test_dropin_surface import lacking
for one in lacking(sys.argv[1]):
    print(one)
"""


def public_names(module: ModuleType) -> dict[str, Any]:
    """The names that are the module's own: not what it imports from elsewhere."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return {name: getattr(module, name) for name in listed}
    return {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_"
        and not inspect.ismodule(value)
        and not isinstance(value, TypeVar)
        and _home(value) == module.__name__.partition(".")[0]
    }


def _home(value: Any) -> str:
    home = getattr(value, "__module__", None)
    # Constants have no home. Names of the standard library have one.
    return home.partition(".")[0] if isinstance(home, str) else ""


def modules_of(package: ModuleType) -> list[str]:
    found = pkgutil.iter_modules(getattr(package, "__path__", ()))
    return [one.name for one in found if one.name[0] != "_"]


def lacking(original: str) -> list[str]:
    """What the drop-in lacks, one line each."""
    theirs = importlib.import_module(original)
    ours = importlib.import_module(f"ephemport.dropin.{original}")
    said = [f"module {name}" for name in modules_of(theirs) if name not in modules_of(ours)]
    pairs = [("", theirs, ours)]
    for name in modules_of(theirs):
        if f"module {name}" not in said:
            one = importlib.import_module(f"{original}.{name}")
            pairs.append((f"{name}.", one, importlib.import_module(f"{ours.__name__}.{name}")))
    for where, module, ours in pairs:
        for name, value in public_names(module).items():
            if not hasattr(ours, name):
                said.append(f"{where}{name}")
            else:
                said += _differences(f"{where}{name}", value, getattr(ours, name))
    return said


def _differences(name: str, theirs: Any, ours: Any) -> list[str]:
    if isinstance(theirs, type) and issubclass(theirs, BaseException):
        return [] if issubclass(ours, theirs.__mro__[1]) else [f"{name} is another exception"]
    if isinstance(theirs, type):
        methods = [one for one in vars(theirs) if one[0] != "_" or one == "__init__"]
        return [
            line
            for one in methods
            for line in (
                _differences(f"{name}.{one}", vars(theirs)[one], getattr(ours, one))
                if hasattr(ours, one)
                else [f"{name}.{one}"]
            )
        ]
    if not callable(theirs) or not inspect.isroutine(theirs):
        return []
    said = []
    taken = inspect.signature(ours).parameters
    for position, (one, parameter) in enumerate(inspect.signature(theirs).parameters.items()):
        if one not in taken or [*taken].index(one) != position:
            said.append(f"{name}({one})")
        elif parameter.default is not parameter.empty and taken[one].default != parameter.default:
            said.append(f"{name}({one}={taken[one].default!r}), not {parameter.default!r}")
    for more in list(taken.values())[len(inspect.signature(theirs).parameters) :]:
        if more.default is more.empty and more.kind is not more.VAR_POSITIONAL:
            said.append(f"{name} needs {more.name}")
    return said


@pytest.mark.parametrize("original", ORIGINALS)
def test_nothing_is_lacking(original: str) -> None:
    # In a process of its own: importing a drop-in wraps bind().
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, original],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_lacking_is_found() -> None:
    theirs, ours = ModuleType("theirs"), ModuleType("ours")
    exec("def f(a, b=1): pass\ndef g(): pass\nclass C:\n    def m(self, x): pass", vars(theirs))
    exec("def f(a, b=2, *, c): pass\nclass C:\n    pass", vars(ours))
    assert _differences("f", vars(theirs)["f"], vars(ours)["f"]) == [
        "f(b=2), not 1",
        "f needs c",
    ]
    assert _differences("C", vars(theirs)["C"], vars(ours)["C"]) == ["C.m"]


def test_what_other_packages_import_is_there() -> None:
    source = "".join(
        f"from ephemport.dropin.port_for import {name}\n"
        for names in TAKEN.values()
        for name in names
    )
    done = subprocess.run(
        [sys.executable, "-c", source + "import ephemport.dropin.port_for as p; p.PortType | None"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0)

"""A run that uses no port pays nothing: no module, no file, no socket, no folder."""

import json

from tests.conftest import run_python
from tests.plugin.conftest import Suite


def test_importing_the_plugin_costs_nothing() -> None:
    found = json.loads(
        run_python(
            """
import json, os, sys
import pytest, _pytest.config
def descriptors():
    return {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")}
modules, files = set(sys.modules), descriptors()
import ephemport.pytest_plugin
news = {name.partition(".")[0] for name in set(sys.modules) - modules}
print(json.dumps({
    "strangers": sorted(news - sys.stdlib_module_names - {"ephemport"}),
    "opened": {n: what for n, what in descriptors().items() if files.get(n) != what},
    "plugin": "ephemport.pytest_plugin" in sys.modules,
}))
"""
        ).stdout
    )
    assert found == {"strangers": [], "opened": {}, "plugin": True}


WATCH = """
import json, os, sys

def pytest_sessionfinish(session):
    sockets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:") or target.endswith(".lock"):
            sockets.append(target)
    extras = {"psutil", "portpicker", "libcst", "rich", "matplotlib"} & set(sys.modules)
    print("\\nfound", json.dumps([sockets, sorted(extras)]))
"""


def test_a_run_that_asks_for_no_port_opens_nothing(suite: Suite) -> None:
    suite.write(WATCH, "conftest.py")
    suite.write("def test_it(): pass")
    run = suite.run("-s", "--ephemport-mode=fixed")
    assert run.status == 0
    assert "found [[], []]" in run.output
    assert not suite.lock_dir.exists()


def test_the_watch_sees_a_port_that_is_asked_for(suite: Suite) -> None:
    suite.write(WATCH, "conftest.py")
    suite.write("def test_it(session_reserve_port): session_reserve_port()")
    run = suite.run("-s", "--ephemport-mode=ephemeral")
    assert run.status == 0
    assert "found [[], []]" in run.output, "released with the session"
    suite.write("from ephemport.compat import allocate_port\ndef test_it(): allocate_port()")
    run = suite.run("-s", "--ephemport-mode=fixed")
    assert "found [[]," not in run.output
    assert suite.lock_dir.exists()

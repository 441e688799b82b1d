"""Constants that forked workers would share, beside a runner that forks."""

import ast

import pytest

from ephemport.migrate.forking import _look_ups
from tests.migrate.conftest import Folder

MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
TESTS = """
import socket
import unittest

PORT = 9001


class Tests(unittest.TestCase):
    def test_it(self):
        with socket.create_server(("127.0.0.1", PORT)):
            socket.create_connection(("127.0.0.1", PORT)).close()
"""
TEXT = "EPH103 port_map[9001] is looked up at import"


@pytest.mark.parametrize("arguments", [[], ["--write"]])
def test_it_is_said_before_and_after(folder: Folder, arguments: list[str]) -> None:
    folder.write(manage=MANAGE, test_it=TESTS)
    done = folder.migrate(*arguments)
    assert done.status == 1
    line = next(line for line in done.stdout.splitlines() if TEXT in line)
    name, at, _ = line.split(":", 2)
    text = folder.read(name).splitlines()[int(at) - 1]
    assert text == ("PORT = port_map[9001]" if arguments else "PORT = 9001")
    for remedy in ("manage.py", "setUp()", 'TEST_RUNNER = "ephemport.django.IsolatedRunner"'):
        assert remedy in line
    assert "1 finding left" in done.stderr or not arguments


def test_it_is_said_of_a_suite_that_was_migrated(folder: Folder) -> None:
    folder.write(manage=MANAGE, test_it=TESTS)
    folder.migrate("--write")
    assert TEXT in folder.migrate().stdout


@pytest.mark.parametrize("runner", ["nothing", "isolated", "silenced", "ignored"])
def test_without_a_runner_that_forks_nothing_is_said(folder: Folder, runner: str) -> None:
    tests = (
        TESTS.replace("PORT = 9001", "PORT = 9001  # noqa: EPH103")
        if runner == "silenced"
        else TESTS
    )
    folder.write(test_it=tests)
    if runner != "nothing":
        folder.write(manage=MANAGE)
    if runner == "isolated":
        folder.write(settings='TEST_RUNNER = "ephemport.django.IsolatedRunner"')
    arguments = ["--ignore", "EPH103"] if runner == "ignored" else []
    done = folder.migrate("--write", *arguments)
    assert (done.status, "EPH103" in done.stdout) == (0, False), done.stdout
    assert "port_map[9001]" in folder.read("test_it.py")


def test_what_is_looked_up_at_import() -> None:
    source = """
from ephemport import port_map
from ephemport import port_map as mapped
import ephemport
A = port_map[1]
class C:
    a = f"http://h:{mapped[2]}"
    def f(self, b=ephemport.port_map[3]):
        return port_map[100]
@decorated(port_map[4])
def g():
    port_map[101]
h = lambda i=port_map[5]: port_map[102]
if sys.platform:
    B = {port_map[6]: [port_map[n] for n in range(7)]}
if __name__ == "__main__":
    port_map[103]
other[104]
"""
    found = {port for _, _, port in _look_ups(source)}
    assert found == {"1", "2", "3", "4", "5", "6", "n"}
    assert list(_look_ups("port_map[")) == []
    assert ast.parse(source)

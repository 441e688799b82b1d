"""Django's own `manage.py test --parallel`, with tests that have hard-coded ports."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.conftest import ROOT, run_python

FILES = {
    "manage.py": """
        import multiprocessing, os, sys
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        if __name__ == "__main__":
            multiprocessing.set_start_method(sys.argv.pop(1))
            from django.core.management import execute_from_command_line
            execute_from_command_line(sys.argv)
    """,
    "settings.py": """
        SECRET_KEY = "secret"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
        ROOT_URLCONF = "settings"
        STATIC_URL, MEDIA_URL = "/static/", "/media/"
        USE_TZ = True
        urlpatterns = []
    """,
}
# Each is there until the other one is: they run side by side, or not at all.
TESTS = """
import os, socket, time
from pathlib import Path
from django.contrib.auth import get_user_model
from django.test import LiveServerTestCase, TestCase
{imports}

class HardCoded(TestCase):
    def test_it(self):
        with socket.create_server(("127.0.0.1", {port})):
            Path("there-{name}").touch()
            deadline = time.monotonic() + 60
            while not Path("there-{other}").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            get_user_model().objects.create(username="{name}")
            self.assertEqual(get_user_model().objects.count(), 1)
            socket.create_connection(("127.0.0.1", {port})).close()

class Live(LiveServerTestCase):
    host, port = "127.0.0.1", {live_port}

    def test_it(self):
        with socket.create_connection((self.host, self.server_thread.port)) as client:
            client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            while client.recv(9999):
                pass

class LiveAgain(Live):
    pass
"""


class Project:
    """A Django project with two test files that use the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            (folder / name).write_text(dedent(text))

    def setting(self, line: str) -> None:
        with (self.folder / "settings.py").open("a") as file:
            file.write(f"\n{line}\n")

    def tests(self, port: str, live_port: str, imports: str = "") -> None:
        for name, other in (("a", "b"), ("b", "a")):
            text = TESTS.format(
                imports=imports, port=port, live_port=live_port, name=name, other=other
            )
            (self.folder / f"test_{name}.py").write_text(text)

    def run(self, method: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", method, "test", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    pytest.importorskip("django")
    return Project(tmp_path)


def _methods() -> list[str]:
    """The start methods with which this Django can clone a database in memory."""
    try:
        version = int(importlib.metadata.version("django").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ["fork"]
    return ["fork", "spawn", "forkserver"] if version >= 6 else ["fork", "spawn"]


@pytest.mark.parametrize("method", _methods())
def test_one_line_in_settings(project: Project, isolation: None, method: str) -> None:
    project.setting('TEST_RUNNER = "ephemport.django.IsolatedRunner"')
    project.tests("9001", "0")
    done = project.run(method, "--parallel", "2")
    assert done.returncode == 0, done.stdout
    assert "Ran 6 tests" in done.stdout


def test_without_it_the_workers_collide(project: Project) -> None:
    project.tests("19001", "0")
    assert project.run("fork", "--parallel", "2").returncode != 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_port_map_is_the_workers_own(project: Project, method: str) -> None:
    """Looked up at use. The live servers, which set no option, follow one another on one port."""
    project.setting('TEST_RUNNER = "ephemport.django.IsolatedRunner"')
    project.setting("from ephemport.django import IsolatedRunner")
    # Assisted, but not isolated.
    project.setting("from django.test.runner import ParallelTestSuite")
    project.setting("class Runner(IsolatedRunner): parallel_test_suite = ParallelTestSuite")
    project.setting('TEST_RUNNER = "settings.Runner"')
    imports = "from ephemport import port_map"
    project.tests("port_map[9001]", "0", imports)
    done = project.run(method, "--parallel", "2")
    assert done.returncode == 0, done.stdout


def test_a_constant_that_was_made_at_import(project: Project, isolation: None) -> None:
    project.setting('TEST_RUNNER = "ephemport.django.IsolatedRunner"')
    project.tests("PORT", "0", "from ephemport import port_map\nPORT = port_map[9001]")
    text = (project.folder / "test_a.py").read_text()
    (project.folder / "test_a.py").write_text(text.replace('", PORT)).', '", port_map[9001])).'))
    done = project.run("fork", "--parallel", "2")
    assert done.returncode == 0, done.stdout
    project.setting('TEST_RUNNER = "django.test.runner.DiscoverRunner"')
    assert project.run("fork", "--parallel", "2").returncode != 0


@pytest.mark.parametrize(
    ("engine", "host", "refused"),
    [
        ("django.db.backends.postgresql", "127.0.0.1", True),
        ("django.db.backends.postgresql", "localhost", True),
        ("django.db.backends.postgresql", "/var/run/postgresql", False),
        ("django.db.backends.postgresql", "", False),
        ("django.contrib.gis.db.backends.postgis", "db", True),
        ("django.db.backends.mysql", "localhost", False),
        ("django.db.backends.mysql", "127.0.0.1", True),
        ("django.db.backends.mysql", "/run/mysqld/mysqld.sock", False),
        ("django.db.backends.sqlite3", "", False),
    ],
)
def test_a_database_that_workers_cannot_reach(engine: str, host: str, refused: bool) -> None:
    done = run_python(
        f"""
import multiprocessing, unittest
from django.conf import settings
# Where it is another, as since Python 3.14, Django loads the drivers, which are not installed.
multiprocessing.set_start_method("fork")
settings.configure(DATABASES={{"default": {{"ENGINE": {engine!r}, "HOST": {host!r}}}}})
import ephemport
from ephemport.django import IsolatedSuite
try:
    IsolatedSuite([], 1).run(unittest.TestResult())
except ephemport.EphemportError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert ("the database 'default' is reached by TCP (HOST " in done.stdout) is refused


def test_live_servers_of_a_serial_run_follow_one_another(project: Project) -> None:
    project.setting('TEST_RUNNER = "ephemport.django.IsolatedRunner"')
    project.tests("0", "port_map[8081]", "from ephemport import port_map")
    done = project.run("fork", "test_a.Live", "test_a.LiveAgain")
    assert done.returncode == 0, done.stdout
    assert "Ran 2 tests" in done.stdout


def test_without_django() -> None:
    source = """
import sys
sys.modules["django"] = None
from ephemport import EphemportError
try:
    import ephemport.django
except EphemportError as error:
    assert "needs Django" in str(error), error
else:
    sys.exit("no error")
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

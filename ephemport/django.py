"""Django's test runner, with a network of its own for every worker of `--parallel`.

One line in settings.py is all:

    TEST_RUNNER = "ephemport.django.IsolatedRunner"

Then `manage.py test --parallel 4` runs tests with hard-coded ports side by side: every worker has
its own port 9001. A run without --parallel stays in the network that it is in. In both, servers in
the test process that set no option get the ports of `port_map` and `ephemport.compat`, as in a
pytest run.

A worker reaches no server outside: a database is reached by its Unix socket (PostgreSQL's HOST "",
MySQL's "/var/run/mysqld/mysqld.sock") or is a file (SQLite), but not by TCP. `ephemport.isolate()`
has the details. This module needs Django; nothing else of ephemport does.
"""

import importlib
from typing import Any

from ephemport._errors import EphemportError
from ephemport._isolating.this_process import isolate
from ephemport._serving import inside, own_tests

try:
    _runner: Any = importlib.import_module("django.test.runner")
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "django":
        raise
    raise EphemportError(f"ephemport.django needs Django ({error}): pip install django") from error

__all__ = ["IsolatedRunner", "IsolatedSuite", "init_worker"]


def init_worker(*args: Any, **kwargs: Any) -> None:
    """Isolate this worker, then do what Django does at the beginning of a worker.

    Args:
        *args: What Django passes to its own `_init_worker`.
        **kwargs: The same.

    Raises:
        EphemportError: This process cannot be isolated. `ephemport.isolate()` has the reasons.
    """
    isolate()
    _assist()
    _runner._init_worker(*args, **kwargs)


class IsolatedSuite(_runner.ParallelTestSuite):  # type: ignore[misc]
    """Django's suite for `--parallel`, isolated: the `parallel_test_suite` of a runner."""

    init_worker = init_worker

    def run(self, result: Any) -> Any:
        """Distribute the tests across isolated workers.

        Args:
            result: The unittest.TestResult to fill.

        Returns:
            The same.

        Raises:
            EphemportError: The workers could not reach a database: its HOST is one for TCP.
        """
        aliases = getattr(self, "used_aliases", None)
        for alias, settings in _databases().items():
            host = settings.get("HOST") or ""
            if (aliases is None or alias in aliases) and _is_over_tcp(settings["ENGINE"], host):
                raise EphemportError(
                    f"cannot isolate the workers: the database {alias!r} is reached by TCP (HOST "
                    f"{host!r}), and nothing outside can be reached from a network of its own, not "
                    "even this machine's localhost. Reach it by its Unix socket (for PostgreSQL "
                    "HOST '' or '/var/run/postgresql', for MySQL the path of its socket), or use "
                    "Django's own runner and look ports up with port_map"
                )
        return super().run(result)


class IsolatedRunner(_runner.DiscoverRunner):  # type: ignore[misc]
    """Django's own runner, with isolated workers. For `TEST_RUNNER` in settings.py."""

    parallel_test_suite = IsolatedSuite

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run the tests. Servers in this process get the ports of tests, whatever they set.

        Args:
            suite: The tests, a unittest.TestSuite.
            **kwargs: What Django passes.

        Returns:
            The unittest.TestResult.
        """
        before = own_tests.choose(True)
        inside.follow_choice()
        try:
            return super().run_suite(suite, **kwargs)
        finally:
            own_tests.choose(before)
            inside.follow_choice()


def _databases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = importlib.import_module("django.db").connections.settings
    return found


def _is_over_tcp(engine: str, host: str) -> bool:
    if "sqlite" in engine or host.startswith("/"):
        return False
    # The clients of MySQL take "localhost" for their socket.
    return host not in (("", "localhost") if "mysql" in engine else ("",))


def _assist() -> None:
    own_tests.choose(True)
    inside.follow_choice()

"""`--ephemport-isolate`: every worker has a network of its own, so each can use port 9001.

A separate plugin beside the options and fixtures; `ephemport.pytest_plugin` names it in
`pytest_plugins`. Here are the option, the hooks, and the one process of a run without xdist.
`worker` is for an isolated worker, `controller` for the process that starts the workers, `shared`
for the tests on the host network, and `relay` for the connections of other plugins.
"""

import os
import sys
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest

from ephemport._errors import EphemportError
from ephemport._isolating.enter import enter
from ephemport._isolating.wrapper import why_not, wrapper

__all__ = ["MARKER", "NotIsolatedWarning"]

MARKER = "ephemport_shared"
# The pid of the process that entered its network and became a new interpreter: the pid stays.
_ENTERED = "_EPHEMPORT_ENTERED_BY"

_ALONE = pytest.StashKey[str]()
_WORKERS = pytest.StashKey[object]()
_REFUSED = pytest.StashKey[str]()

_NO_WAY_OUT = (
    "with a loopback of its own: tests reach no other host and no server on this machine's "
    f"localhost (mark tests that must: @pytest.mark.{MARKER})"
)


class NotIsolatedWarning(pytest.PytestWarning):
    """`--ephemport-isolate=auto` was refused, and the run goes on without isolation."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ephemport", "ports that are held for the servers of tests")
    # Three options: one option with an optional value would take a path that follows it.
    for name, wish, help_text in (
        (
            "--ephemport-isolate",
            "always",
            "run every xdist worker, or the one process without xdist, in a network namespace of "
            "its own: all of them can use the same hard-coded ports at once",
        ),
        (
            "--ephemport-isolate=auto",
            "auto",
            "the same, but go on without isolation where it is refused",
        ),
        ("--ephemport-isolate=no", None, "do not isolate, even if addopts asks for it"),
    ):
        group.addoption(
            name, action="store_const", const=wish, dest="ephemport_isolate", help=help_text
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Isolate the one process before a conftest file starts a server, and before capturing."""
    options = early_config.known_args_namespace
    if _wanted(options) and not _is_worker_to_be():
        _refuse_looponfail(options)
        if not _will_be_distributed(options):
            _isolate_this_process(early_config, options)
    return (yield)


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Isolate once the decision is final: conftest files and plugins may have changed it."""
    if not _wanted(config.option) or _is_worker(config):
        return
    _refuse_looponfail(config.option)
    if not _is_distributed(config.option):
        _isolate_this_process(config, config.option)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}: the test needs the host's network; with --ephemport-isolate it runs in a "
        "worker that is not isolated",
    )
    if not _wanted(config.option):
        return
    if _is_worker(config):
        from ephemport.pytest_plugin.isolation.worker import configure_worker

        configure_worker(_workerinput(config))
    elif _is_distributed(config.option):
        from ephemport.pytest_plugin.isolation.controller import (
            IsolatedWorkers,
            why_not_these_workers,
        )

        reason = why_not_these_workers(config) or why_not()
        if reason is None:
            config.stash[_WORKERS] = workers = IsolatedWorkers(config)
            config.pluginmanager.register(workers, "ephemport-isolated-workers")
        else:
            _refused(config, config.option, reason)
    if _REFUSED in config.stash:
        warning = NotIsolatedWarning(f"ephemport: not isolated: {config.stash[_REFUSED]}")
        # -W error raises it, but that is for the suite: "auto" goes on, and the header says so.
        with suppress(NotIsolatedWarning):
            config.issue_config_time_warning(warning, stacklevel=2)


def pytest_report_header(config: pytest.Config) -> str | None:
    if _REFUSED in config.stash:
        return f"ephemport: NOT isolated: {config.stash[_REFUSED]}"
    if _WORKERS in config.stash:
        return f"ephemport: isolated, each worker {_NO_WAY_OUT}"
    if _ALONE in config.stash:
        return f"ephemport: isolated, this process {_NO_WAY_OUT}"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Report which tests are for the host network; refuse them where no worker is on it."""
    config = session.config
    marked = [n for n, item in enumerate(session.items) if item.get_closest_marker(MARKER)]
    if _is_worker(config):
        from ephemport.pytest_plugin.isolation.worker import report_marked

        report_marked(_workerinput(config), marked)
    elif marked and _ALONE in config.stash and not config.option.collectonly:
        first, others = session.items[marked[0]].nodeid, len(marked) - 1
        raise pytest.UsageError(
            f"ephemport: {first}{f' and {others} more' if others else ''} marked {MARKER} cannot "
            "run on the host network in a run of one isolated process: start workers (-n 1 or "
            f"more), deselect these tests (-m 'not {MARKER}'), or leave --ephemport-isolate out"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that an unknown scheduler has sent to the wrong worker."""
    if not item.get_closest_marker(MARKER) or not _is_worker(item.config):
        return
    from ephemport.pytest_plugin.isolation.worker import is_isolated

    if is_isolated(_workerinput(item.config)):
        pytest.fail(
            f"marked {MARKER}, but scheduled to a worker that is isolated: ephemport places such "
            "tests only with xdist's own schedulers",
            pytrace=False,
        )


def _wanted(options: Any) -> bool:
    return getattr(options, "ephemport_isolate", None) is not None and not (
        options.collectonly or options.help or options.version
    )


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _workerinput(config: pytest.Config) -> dict[str, Any]:
    return getattr(config, "workerinput", {})


def _is_worker_to_be() -> bool:
    """Whether this is a worker, before it has `workerinput`: xdist named it, execnet started it."""
    return "PYTEST_XDIST_WORKER" in os.environ and sys.argv[:1] == ["-c"]


def _is_distributed(options: Any) -> bool:
    """Whether xdist distributes, as its options say after its pytest_cmdline_main."""
    return getattr(options, "dist", "no") != "no" and bool(getattr(options, "tx", None))


def _will_be_distributed(options: Any) -> bool:
    """Whether xdist will distribute, as its pytest_cmdline_main will read the options."""
    number = getattr(options, "numprocesses", None)
    if number in ("auto", "logical"):
        return not getattr(options, "usepdb", False)
    if number is not None:
        return bool(number)
    return bool(getattr(options, "tx", None)) and (options.distload or options.dist != "no")


def _refuse_looponfail(options: Any) -> None:
    if getattr(options, "looponfail", False):
        raise pytest.UsageError(
            "ephemport: --looponfail starts an interpreter that cannot be isolated: leave "
            "--looponfail or --ephemport-isolate out (pytest-watcher and entr start pytest anew)"
        )


def _refused(config: pytest.Config, options: Any, reason: str) -> None:
    reason = reason.removeprefix("cannot isolate: ")
    if options.ephemport_isolate != "auto":
        raise pytest.UsageError(
            f"ephemport: cannot isolate: {reason} (--ephemport-isolate=auto goes on without it)"
        )
    config.stash[_REFUSED] = reason


def _isolate_this_process(config: pytest.Config, options: Any) -> None:
    if _ALONE in config.stash or _REFUSED in config.stash:
        return
    if os.environ.pop(_ENTERED, None) == str(os.getpid()):
        config.stash[_ALONE] = "a new interpreter"
        return
    if sys.platform == "linux" and os.geteuid() != 0 and len(os.listdir("/proc/self/task")) > 1:
        # Only a single-threaded process can enter a user namespace; a plugin started a thread.
        command = _own_command(config)
        if command is not None and why_not() is None:
            os.environ[_ENTERED] = str(os.getpid())
            sys.stdout.flush()
            sys.stderr.flush()
            os.execv(command[0], command)
    try:
        enter()
    except EphemportError as error:
        _refused(config, options, str(error))
    else:
        config.stash[_ALONE] = "in this process"


def _own_command(config: pytest.Config) -> list[str] | None:
    """Return the command that starts this run again, isolated; None if it is not certain."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    by_module = spec is not None and spec.name in ("pytest.__main__", "pytest")
    by_script = spec is None and os.path.basename(sys.argv[0]) in ("pytest", "py.test")
    invocation = config.invocation_params
    if not (by_module or by_script) or invocation.plugins:
        return None
    if [str(one) for one in invocation.args] != sys.argv[1:] or not sys.orig_argv[1:]:
        return None
    return [*wrapper(), sys.executable, *sys.orig_argv[1:]]

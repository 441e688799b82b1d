"""`--ephemport-dropin=port_for`: other plugins that import port_for get our drop-in.

A separate plugin beside the options and fixtures; `ephemport.pytest_plugin` names it in
`pytest_plugins`. It acts when it is registered: plugins that are loaded later import the drop-in.
pytest loads the plugins of `-p` first, in their order, and then those of installed packages, in no
order that anybody can rely on. So `-p ephemport` makes it certain.
"""

import os
import shlex
from collections.abc import Iterator
from functools import partial

import pytest

# Its hooks are no names for others.
__all__: list[str] = []

_OPTION = "--ephemport-dropin"
_INI = "ephemport_dropin"
_HELP = (
    "let code of others, such as pytest-redis, import ephemport's drop-ins in place of these "
    "modules: port_for, portpicker, ephemeral_port_reserve (with commas between them). Load "
    "ephemport before other plugins: -p ephemport"
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    group = parser.getgroup("ephemport", "ports that are held for the servers of tests")
    group.addoption(_OPTION, metavar="NAMES", action="append", help=_HELP)
    parser.addini(_INI, _HELP, type="args", default=[])
    config: pytest.Config | None = pluginmanager.get_plugin("pytestconfig")
    names = list(_names(config)) if config is not None else []
    if config is not None and names:
        _install(config, names)


def pytest_report_header(config: pytest.Config) -> str | None:
    names = list(_names(config))
    return f"ephemport: drop-ins for {', '.join(names)}" if names else None


def _install(config: pytest.Config, names: list[str]) -> None:
    # Only who asks for a drop-in pays for it: importing one wraps bind() of Python's sockets.
    from ephemport._errors import EphemportError
    from ephemport.dropin._install import install, is_installed, original_named, uninstall

    try:
        for name in map(original_named, names):
            if not is_installed(name):
                install(name)
                config.add_cleanup(partial(uninstall, name))
    except ValueError as error:
        raise pytest.UsageError(f"ephemport: {_OPTION}, ini {_INI}: {error}") from None
    except EphemportError as error:
        raise pytest.UsageError(
            f"ephemport: {error}. Load ephemport first: write -p ephemport before every other -p, "
            "on the command line or in addopts of the ini file"
        ) from None


def _names(config: pytest.Config) -> Iterator[str]:
    """The names in the option, or else in the ini file. The options are not parsed yet."""
    given = list(_given(_arguments(config)))
    for text in given or config.getini(_INI):
        yield from filter(None, (name.strip() for name in text.split(",")))


def _arguments(config: pytest.Config) -> list[str]:
    """The arguments in the order in which pytest reads them."""
    from_environment = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    from_ini = [str(one) for one in config.getini("addopts")]
    return [*from_environment, *from_ini, *map(str, config.invocation_params.args)]


def _given(arguments: list[str]) -> Iterator[str]:
    for position, one in enumerate(arguments):
        if one == "--":
            return
        if one.startswith(f"{_OPTION}="):
            yield one.removeprefix(f"{_OPTION}=")
        elif one == _OPTION and position + 1 < len(arguments):
            yield arguments[position + 1]

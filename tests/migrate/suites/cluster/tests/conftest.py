import asyncio
import inspect
from dataclasses import dataclass

import pytest

from mesh import Node, Settings


@dataclass(frozen=True)
class Addresses:
    leader: str = "ws://127.0.0.1:7101"
    follower: str = 'ws://127.0.0.1:7102'
    leader_port: int = 7101
    follower_port: int = 7102


@pytest.fixture(scope="session")
def addresses():
    return Addresses()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def pair():
    """Two nodes, the second connected to the first."""
    return (
        Node(Settings(name="a", port=7201)),
        Node(Settings(name="b", port=7202, connect="ws://127.0.0.1:7201")),
    )


@pytest.fixture(scope="module")
def module_node():
    return Settings(name="m", port=7301), "ws://127.0.0.1:7301"

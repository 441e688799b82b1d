import asyncio

import pytest

from mesh import Node, Settings, ask

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


async def test_one():
    # One number, in one test.
    async with Node(Settings(name="solo", port=7001)) as node:
        await asyncio.sleep(0.1)
        assert await ask("ws://127.0.0.1:7001") == "solo:7001"
        assert node.settings.port == 7001


async def test_two():
    """Two nodes, on 7002 and 7003."""
    async with Node(Settings(name="x", port=7002)):
        async with Node(Settings(name="y", port=7003, connect="ws://127.0.0.1:7002")):
            await asyncio.sleep(0.1)
            assert await ask("ws://127.0.0.1:7003") == "y:7003 x:7002"


async def test_four(tmp_path):
    first = Node(Settings(name="1", port=7011))
    second = Node(Settings(name="2", port=7012))
    third = Node(Settings(name="3", port=7013))
    hub = Node(
        Settings(
            name="hub",
            port=7014,
            peers=["ws://127.0.0.1:7011", "ws://127.0.0.1:7012", "ws://127.0.0.1:7013"],
        )
    )
    async with first, second, third, hub:
        assert await ask("ws://127.0.0.1:7014") == "hub:7014 1:7011 2:7012 3:7013"


async def test_six():
    """More than a fixture has."""
    nodes = [
        Node(Settings(name="n", port=7021)),
        Node(Settings(name="n", port=7022)),
        Node(Settings(name="n", port=7023)),
        Node(Settings(name="n", port=7024)),
        Node(Settings(name="n", port=7025)),
        Node(Settings(name="n", port=7026)),
    ]
    text = """
  kept as it is
"""
    for node in nodes:
        async with node:
            await ask(f"ws://127.0.0.1:{node.settings.port}")
    assert text.strip() == "kept as it is"


async def test_refused():
    with pytest.raises(OSError):
        await ask("ws://127.0.0.1:7999")

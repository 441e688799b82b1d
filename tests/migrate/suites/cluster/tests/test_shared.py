from mesh import Node, Settings, ask
from mesh.node import DEFAULT_PORT


async def test_pair(pair):
    first, second = pair
    async with first, second:
        assert await ask("ws://127.0.0.1:7202") == "b:7202 a:7201"


async def test_pair_again(pair):
    first, second = pair
    async with second, first:
        assert (await ask("ws://localhost:7201")) == "a:7201"


async def test_addresses(addresses):
    async with Node(Settings(port=addresses.leader_port)):
        async with Node(Settings(port=addresses.follower_port, connect=addresses.leader)):
            assert await ask(addresses.follower) == "node:7102 node:7101"


async def test_addresses_spelled_out():
    async with Node(Settings("l", "127.0.0.1", 7101)):
        assert await ask("ws://127.0.0.1:7101") == "l:7101"


async def test_module_node(module_node):
    settings, url = module_node
    async with Node(settings):
        assert (await ask(url)).startswith("m:")


class TestAgain:
    PORT = 7401

    async def test_class_constant(self):
        async with Node(Settings(port=self.PORT)):
            assert await ask(f"ws://127.0.0.1:{self.PORT}") == "node:7401"

    async def test_other(self, pair):
        async with pair[0]:
            reply = await ask("ws://127.0.0.1:7201")
            assert reply.split(":") == ["a", "7201"]


def test_default_settings():
    assert Settings().port == DEFAULT_PORT == 7000


def test_settings_repr():
    shown = repr(Settings(port=7101))
    assert "port=7101" in shown

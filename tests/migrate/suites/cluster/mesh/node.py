"""A node answers a line with its name and its port, and with its peers' if it has any."""

import asyncio
from dataclasses import dataclass, field

DEFAULT_PORT = 7000


@dataclass
class Settings:
    name: str = "node"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    connect: str | None = None
    peers: list[str] = field(default_factory=list)


class Node:
    def __init__(self, settings):
        self.settings = settings

    async def __aenter__(self):
        self.server = await asyncio.start_server(
            self.answer, self.settings.host, self.settings.port
        )
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def answer(self, reader, writer):
        await reader.readline()
        known = [f"{self.settings.name}:{self.settings.port}"]
        for peer in [self.settings.connect, *self.settings.peers]:
            if peer:
                known.append(await ask(peer))
        writer.write(" ".join(known).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def ask(url):
    host, _, port = url.removeprefix("ws://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"?\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line.decode().strip()

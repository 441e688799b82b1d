"""What this process has open, and a server to take a port over with."""

import asyncio
import os
import socket


def bound_here() -> set[int]:
    """The ports that a socket of this process is bound to: neighbours cannot disturb that."""
    ports = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            continue
        with sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                ports.add(sock.getsockname()[1])
    return ports


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serve_and_ask(*ports: int, host: str = "127.0.0.1") -> None:
    """Start an asyncio server on each of the ports, and have each answer."""
    servers = [await asyncio.start_server(_echo, host, port) for port in ports]
    try:
        for port in ports:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"%d\n" % port)
            assert await reader.readline() == b"%d\n" % port
            writer.close()
            await writer.wait_closed()
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()

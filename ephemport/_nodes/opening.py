"""`on(command)`: open a node behind any command."""

import shlex
from collections.abc import Sequence

from ephemport import __version__
from ephemport._arguments import seconds, shown, text
from ephemport._errors import NodeUnreachable
from ephemport._nodes.command import CommandChannel
from ephemport._nodes.node import Node
from ephemport._nodes.wire import PROTOCOL

_FOR_EVER = float("inf")


def on(
    command: str | Sequence[str],
    *,
    python: str = "python3",
    lease: float | None = 30.0,
    timeout: float = 30.0,
    ship: bool = False,
) -> Node:
    """Open a node: run an agent behind `command`, which holds ports there.

        with on(["ssh", "n7"]) as node:
            r = node.reserve(host="10.77.0.2")

    Args:
        command: What runs a program there and passes its standard input and output on: a list
            such as ["ssh", "n7"], ["ip", "netns", "exec", "h2"] or ["srun", "-N1", "-w", "n7",
            "--overlap"], or a string that is split as a shell does. An empty list is this host.
        python: The interpreter there, as `command` takes it. With ephemport installed, unless
            `ship`.
        lease: For how many seconds the two ends may not hear each other before the node is lost,
            and the ports are let go there. None: for as long as the channel does not end.
        timeout: How long to wait for the greeting of the agent and for each answer, in seconds.
        ship: Send the package through the channel, so that nothing need be installed there but
            Python 3.11 or newer.

    Returns:
        The node. `close()` it, or use `with`.

    Raises:
        NodeUnreachable: No agent answered: the command cannot be started or has failed, there is
            no Python, no ephemport or another version. The message has what the far end said.
        TypeError: An argument is of the wrong type. Nothing was started.
        ValueError: An argument makes no sense. Nothing was started.
    """
    words = _command(command)
    text(python, "python must be a string such as 'python3'")
    if not python:
        raise ValueError("python is empty; write the interpreter's name there, such as 'python3'")
    if lease is not None and not 0 < seconds(lease, "lease") < _FOR_EVER:
        raise ValueError(f"lease must be more than 0 seconds, or None, but is {shown(lease)}")
    if not 0 < seconds(timeout, "timeout") < _FOR_EVER:
        raise ValueError(f"timeout must be more than 0 seconds, but is {shown(timeout)}")
    arguments = ["agent", *([] if lease is None else ["--lease", f"{lease:g}"])]
    shipped = None
    behind = ["-m", "ephemport", *arguments]
    if ship:
        from ephemport._nodes.ship import INTERPRETER, shipment

        behind, shipped = [*INTERPRETER], shipment(arguments)
    channel = CommandChannel(
        [*words, python, *behind], shlex.join(words) or "here", lease, timeout, shipped
    )
    try:
        greeting = channel.greet()
        if greeting["hello"] != PROTOCOL:
            raise NodeUnreachable(
                f"cannot use node {channel.name}: it has ephemport {greeting['version']}, here is "
                f"{__version__}, and they do not understand each other; install the same version "
                "there, or use ship=True"
            )
    except BaseException:
        channel.close()
        raise
    return Node(channel)


def _command(command: str | Sequence[str]) -> list[str]:
    if isinstance(command, str):
        if not command.strip():
            raise ValueError("command is empty; for this host write []")
        try:
            return shlex.split(command)
        except ValueError as error:
            raise ValueError(f"command {shown(command)} is no shell command: {error}") from None
    if not isinstance(command, Sequence) or isinstance(command, (bytes, bytearray)):
        raise TypeError(f"command must be a list of strings, not {shown(command)}")
    for one in command:
        text(one, "command must be a list of strings")
        if not one or "\0" in one:
            raise ValueError(f"command has a word that is none: {shown(one)}")
    return list(command)

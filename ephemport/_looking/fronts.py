"""Programs that listen in place of a server: the proxies of container engines, and tunnels.

They are nobody's child here, so a wait for the process that asked for them meets a stranger.
"""

import os
import shlex

# By the name of the program, whose words may go on after a dot: what it is.
_FRONTS = {
    "docker-proxy": "Docker's proxy for a published port",
    "com.docker": "Docker Desktop, which forwards a published port",
    "vpnkit": "Docker Desktop, which forwards a published port",
    "rootlesskit": "RootlessKit, which forwards a published port of rootless Docker",
    "rootlessport": "Podman's proxy for a published port",
    "conmon": "Podman, which keeps a published port",
    "gvproxy": "Podman Machine, which forwards a published port",
    "slirp4netns": "slirp4netns, which forwards a published port of a rootless container",
    "pasta": "pasta, which forwards a published port of a rootless container",
    "passt": "passt, which forwards a port of a virtual machine",
    "wslrelay": "WSL, which forwards a port",
}
_ENGINES = ("docker", "docker-compose", "podman", "podman-compose", "nerdctl")


def front_in_words(stranger: str | None, awaited: str | None) -> str | None:
    """Say that a listener is a front, or that it may be one; None where nothing speaks for it.

    stranger: its command line, None where it cannot be seen. awaited: that of the server that is
    waited for.
    """
    if stranger is None:
        if _program(awaited) not in _ENGINES:
            return None
        return (
            "A container engine publishes a port by a process of its own, and this one cannot be "
            "seen from here: the server of a container is behind such a front"
        )
    program = _program(stranger)
    for name, what in _FRONTS.items():
        if program == name or program.startswith(f"{name}."):
            return f"This listener is {what}; the server is behind it"
    return None


def _program(command: str | None) -> str:
    """The name of the program in a command line."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        words = (command or "").split()
    return os.path.basename(words[0]) if words else ""

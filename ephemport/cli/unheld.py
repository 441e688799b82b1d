"""Other packages that hand out ports and do not hold them."""

from importlib import metadata

# Distribution -> what in it hands out ports that it does not hold.
_UNHELD = {
    "anyio": "free_tcp_port, free_udp_port and their factories",
    "pytest-asyncio": "unused_tcp_port, unused_udp_port and their factories",
    "pytest-aiohttp": "aiohttp_unused_port",
    "pytest-tornado": "http_port's bind_unused_port",
    "pytest-services": "port_getter",
    "pytest-postgresql": "port-for's get_port",
    "pytest-mysql": "port-for's get_port",
    "pytest-redis": "port-for's get_port",
    "pytest-mongo": "port-for's get_port",
    "port-for": "get_port, select_random",
    "portpicker": "pick_unused_port",
    "ephemeral-port-reserve": "reserve, whose TIME_WAIT ends after 60 s",
}


def installed() -> list[str]:
    """The ones that are installed here, with the functions that hand out ports."""
    found = []
    for distribution, what in _UNHELD.items():
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        found.append(f"{distribution} {version} ({what})")
    return found

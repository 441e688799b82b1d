"""The documented layer: ports by category and worker, and its helpers."""

from typing import TYPE_CHECKING

from ephemport._later import later

if TYPE_CHECKING:
    from ephemport._allocator import (
        PortAllocator,
        allocate_port,
        allocate_port_range,
        get_port_allocator,
        port_context,
        port_range_context,
        release_port,
    )
    from ephemport._holding.ranges import CATEGORIES, worker_range
    from ephemport.compat.helpers import (
        TestPortManager,
        make_client_url,
        make_server_url,
        server_cluster_urls,
        test_client_url,
        test_server_url,
    )

__all__ = [
    "CATEGORIES",
    "PortAllocator",
    "TestPortManager",
    "allocate_port",
    "allocate_port_range",
    "get_port_allocator",
    "make_client_url",
    "make_server_url",
    "port_context",
    "port_range_context",
    "release_port",
    "server_cluster_urls",
    "test_client_url",
    "test_server_url",
    "worker_range",
]

__getattr__, __dir__ = later(
    __name__,
    {
        "_allocator": (
            "PortAllocator",
            "allocate_port",
            "allocate_port_range",
            "get_port_allocator",
            "port_context",
            "port_range_context",
            "release_port",
        ),
        "compat.helpers": (
            "TestPortManager",
            "make_client_url",
            "make_server_url",
            "server_cluster_urls",
            "test_client_url",
            "test_server_url",
        ),
        "_holding.ranges": (
            "CATEGORIES",
            "worker_range",
        ),
    },
)

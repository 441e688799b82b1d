"""The documented layer: numbers by category and worker, and its helpers."""

from typing import TYPE_CHECKING

from ephemport._later import later

if TYPE_CHECKING:
    from ephemport.compat.allocator import (
        PortAllocator,
        allocate_port,
        allocate_port_range,
        get_port_allocator,
        port_context,
        port_range_context,
        release_port,
    )
    from ephemport.compat.helpers import (
        TestPortManager,
        make_client_url,
        make_server_url,
        server_cluster_urls,
        test_client_url,
        test_server_url,
    )
    from ephemport.compat.ranges import CATEGORIES, worker_range

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
        "allocator": (
            "PortAllocator",
            "allocate_port",
            "allocate_port_range",
            "get_port_allocator",
            "port_context",
            "port_range_context",
            "release_port",
        ),
        "helpers": (
            "TestPortManager",
            "make_client_url",
            "make_server_url",
            "server_cluster_urls",
            "test_client_url",
            "test_server_url",
        ),
        "ranges": (
            "CATEGORIES",
            "worker_range",
        ),
    },
)

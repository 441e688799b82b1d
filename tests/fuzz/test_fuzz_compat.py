"""The documented layer, with anything, in both of its modes."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ephemport import EphemportError, compat
from ephemport._allocator import forget_default_allocator
from tests.fuzz import values
from tests.fuzz.calls import Call, Calls, call_of, put_away, try_all, with_what_it_is_called_on
from tests.fuzz.conftest import Fuzz

LOCKS = str(Path("locks").resolve())

categories = st.sampled_from([*compat.CATEGORIES, "nosuch", ""])
some_port = st.one_of(values.ports, st.sampled_from([0, 13000, 13001, 10000, values.Number.LOW]))
schemes = st.sampled_from(["ws", "http", "", "\0"])
hosts = st.one_of(values.hosts, values.strange_hosts)
modes = st.sampled_from(
    [
        None,
        "ephemeral",
        "fixed",
        "portserver",
        "portserver:@nobody",
        "fixed:x",
        "",
        ":",
        "portserver:",
    ]
)
workers = st.sampled_from(
    [None, "", "gw0", "gw1", "master", "\0", "gw" + "9" * 5000, "gw\u0661", "gw-1"]
)
lock_dirs = st.one_of(
    st.sampled_from([None, LOCKS, Path(LOCKS)]),
    st.sampled_from(
        ["/proc/nosuch", "/dev/null", "/dev/null/x", "\0", b"locks", "x" * 5000, "", 3]
    ),
)
good_allocators = st.fixed_dictionaries(
    {"mode": st.sampled_from(["ephemeral", "fixed"]), "lock_dir": st.just(LOCKS)}
)


def of_allocator(name: str, **takes: Any) -> Call:
    def call(_allocator: dict[str, Any], **arguments: Any) -> None:
        with compat.PortAllocator(**_allocator) as allocator:
            put_away(getattr(allocator, name)(**arguments))

    checked = call_of(getattr(compat.PortAllocator, name), **takes)
    return with_what_it_is_called_on(checked, call, _allocator=good_allocators)


def of_manager(name: str, **takes: Any) -> Call:
    def call(**arguments: Any) -> None:
        with compat.TestPortManager() as manager:
            put_away(getattr(manager, name)(**arguments))

    return call_of(getattr(compat.TestPortManager, name), **takes)._replace(call=call)


def reservation_of_its_own(_allocator: dict[str, Any]) -> None:
    with compat.PortAllocator(**_allocator) as allocator:
        allocator.reservation(allocator.allocate_port()).url()


URL = {"host": hosts, "protocol": schemes}
ALLOCATING = {"category": categories, "preferred_port": some_port}
MANY = {"count": values.counts, "category": categories}
COMPAT: Calls = {
    "PortAllocator": call_of(
        compat.PortAllocator, mode=modes, worker_id=workers, lock_dir=lock_dirs
    ),
    "PortAllocator.allocate_port": of_allocator("allocate_port", **ALLOCATING),
    "PortAllocator.allocate_port_range": of_allocator("allocate_port_range", **MANY),
    "PortAllocator.port_context": of_allocator("port_context", **ALLOCATING),
    "PortAllocator.port_range_context": of_allocator("port_range_context", **MANY),
    "PortAllocator.release_port": of_allocator("release_port", port=some_port),
    "PortAllocator.reservation": of_allocator("reservation", port=some_port).may_raise(KeyError),
    "PortAllocator.release_all": of_allocator("release_all"),
    "PortAllocator.get_worker_info": of_allocator("get_worker_info"),
    "allocate_port": call_of(compat.allocate_port, **ALLOCATING),
    "allocate_port_range": call_of(compat.allocate_port_range, **MANY),
    "get_port_allocator": call_of(compat.get_port_allocator),
    "port_context": call_of(compat.port_context, **ALLOCATING),
    "port_range_context": call_of(compat.port_range_context, **MANY),
    "release_port": call_of(compat.release_port, port=some_port),
    "worker_range": call_of(compat.worker_range, category=categories, worker_id=workers),
    "make_client_url": call_of(compat.make_client_url, port=some_port, **URL),
    "make_server_url": call_of(compat.make_server_url, port=some_port, **URL),
    "server_cluster_urls": call_of(compat.server_cluster_urls, **MANY, **URL),
    "test_client_url": call_of(compat.test_client_url, category=categories, **URL),
    "test_server_url": call_of(compat.test_server_url, category=categories, **URL),
    "TestPortManager": call_of(compat.TestPortManager, allocator=st.none()),
    "TestPortManager.get_port": of_manager("get_port", category=categories),
    "TestPortManager.get_server_port": of_manager("get_server_port"),
    "TestPortManager.get_client_port": of_manager("get_client_port"),
    "TestPortManager.get_port_range": of_manager("get_port_range", **MANY),
    "TestPortManager.get_server_url": of_manager("get_server_url", **URL),
    "TestPortManager.get_client_url": of_manager("get_client_url", **URL),
    "TestPortManager.get_server_cluster": of_manager(
        "get_server_cluster", count=values.counts, **URL
    ),
    "TestPortManager.cleanup": of_manager("cleanup"),
}


def fuzz_compat() -> None:
    try_all(COMPAT, 200, forget_default_allocator)


def fuzz_compat_fixed() -> None:
    os.environ.update(EPHEMPORT_MODE="fixed", EPHEMPORT_LOCK_DIR=LOCKS)
    with suppress(EphemportError):
        compat.PortAllocator()
    try_all(COMPAT, 80, forget_default_allocator)


def test_compat(fuzz: Fuzz) -> None:
    fuzz(fuzz_compat, fuzz_compat_fixed)

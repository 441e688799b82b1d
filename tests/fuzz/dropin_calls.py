"""The drop-ins' calls. Importing them wraps `bind()` of every socket, so only fuzzers do it."""

import socket
import tempfile
import threading
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from ephemport import compat
from ephemport.dropin import _kept, ephemeral_port_reserve, fixtures, port_for, portpicker
from ephemport.dropin.port_for import api, ephemeral, utils
from tests.fuzz import values
from tests.fuzz.calls import Call, Calls, call_of, with_what_it_is_called_on

hosts = st.one_of(values.hosts, values.strange_hosts)
some_port = st.one_of(values.ports, st.sampled_from([0, 13000, 13001, 10000, values.Number.LOW]))


def factory(_kind: socket.SocketKind, family: Any = None) -> None:
    made = fixtures.FreePortFactory(_kind, None)
    try:
        made(family)
        made(family)
    finally:
        made._give_back()


answers = st.one_of(
    st.sampled_from(
        [b"", b"\n", b"0\n", b"-1", b"40000", b"40000\n", b"40001\nx", b"65536", b"\xff"]
    ),
    st.sampled_from([b"9" * 5000, b"x" * 5000, b"4 0", b"+40002", b"40_000", b" 40000", b"\0"]),
    st.binary(max_size=12),
)


def from_a_portserver(_answer: bytes, _drop_in: bool) -> None:
    """A port from a portserver that says anything."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0portserver")
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as connection:
                        connection.recv(100)
                        connection.sendall(_answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if _drop_in:
                port = portpicker.get_port_from_port_server("@portserver")
                assert port is None or 0 <= port < 65536
            else:
                with compat.PortAllocator("portserver:@portserver") as allocator:
                    allocator.allocate_port()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def of_store(method: str, **takes: Any) -> Call:
    """A method of a store in a folder of its own."""
    checked = call_of(getattr(port_for.PortStore, method), **takes)

    def call(**arguments: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            getattr(port_for.PortStore(f"{folder}/store"), method)(**arguments)

    return checked._replace(call=call)


port_sets = st.one_of(
    st.none(),
    some_port,
    st.just(-1),
    st.just("8000"),
    st.tuples(values.ports, values.ports),
    st.sets(values.ports, max_size=3),
    st.lists(st.one_of(values.ports, st.tuples(values.ports, values.ports)), max_size=3),
)
kinds = st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM])
addresses = st.sampled_from([None, "", "@nobody", "/nosuch", "@" + "x" * 200, "\0"])
DROPIN: Calls = {
    "ephemeral_port_reserve.reserve": call_of(
        ephemeral_port_reserve.reserve, ip=hosts, port=st.one_of(some_port, st.just("40000"))
    ).may_raise(OSError),
    "port_for.api.get_port": call_of(
        port_for.get_port,
        ports=port_sets,
        exclude_ports=values.excluded,
    ).may_raise(port_for.PortForException),
    "port_for.api.select_random": call_of(
        port_for.select_random,
        ports=st.one_of(st.none(), st.sets(values.ports, max_size=3)),
        exclude_ports=values.excluded,
    ).may_raise(port_for.PortForException),
    "port_for.api.is_available": call_of(port_for.is_available, port=some_port),
    "port_for.api.available_ports": call_of(
        port_for.available_ports,
        low=some_port,
        high=some_port,
        exclude_ranges=st.lists(st.tuples(values.ports, values.ports), max_size=2),
    ),
    "port_for.api.good_port_ranges": call_of(
        port_for.good_port_ranges,
        ports=st.one_of(st.none(), st.sets(values.ports, max_size=3)),
        min_range_len=st.integers(-3, 30),
        border=st.integers(-3, 30),
    ),
    "port_for.api.available_good_ports": call_of(
        port_for.available_good_ports,
        min_range_len=st.integers(-3, 30),
        border=st.integers(-3, 30),
    ),
    "port_for.api.port_is_used": call_of(port_for.port_is_used, port=some_port, host=hosts),
    "port_for.api.filter_by_type": call_of(
        api.filter_by_type,
        lst=st.lists(values.ports, max_size=3),
        type_of=st.sampled_from([int, (set, frozenset)]),
    ),
    "port_for.api.unassigned_ranges": call_of(api.unassigned_ranges),
    "port_for.utils.ranges_to_set": call_of(
        utils.ranges_to_set, lst=st.lists(st.tuples(values.ports, values.ports), max_size=3)
    ),
    "port_for.utils.to_ranges": call_of(
        lambda lst: list(utils.to_ranges(lst)), lst=st.lists(values.ports, max_size=9).map(sorted)
    ),
    "port_for.ephemeral.port_ranges": call_of(ephemeral.port_ranges),
    "port_for.store.PortStore": call_of(port_for.PortStore, config_filename=st.just("store")),
    "port_for.store.PortStore.bind_port": of_store(
        "bind_port",
        app=st.sampled_from(["a", "A", "b c", "x=y", "x:y", "", "[s]", "#c", "a%b"]),
        port=st.one_of(st.none(), some_port, st.just("8000"), st.just("x")),
    ).may_raise(port_for.PortForException),
    "port_for.store.PortStore.unbind_port": of_store(
        "unbind_port", app=st.sampled_from(["a", "none"])
    ),
    "port_for.store.PortStore.bound_ports": of_store("bound_ports"),
    "portpicker.add_reserved_port": call_of(portpicker.add_reserved_port, port=some_port),
    "portpicker.return_port": call_of(portpicker.return_port, port=some_port),
    "portpicker.bind": call_of(
        portpicker.bind, port=some_port, socket_type=kinds, socket_proto=st.just(0)
    ),
    "portpicker.is_port_free": call_of(portpicker.is_port_free, port=some_port),
    "portpicker.pick_unused_port": call_of(
        portpicker.pick_unused_port,
        pid=st.one_of(st.none(), values.numbers),
        portserver_address=addresses,
    ).may_raise(portpicker.NoFreePortFoundError),
    "portpicker.get_port_from_port_server": call_of(
        portpicker.get_port_from_port_server,
        portserver_address=addresses,
        pid=st.one_of(st.none(), values.numbers),
    ),
    "a portserver": Call(
        from_a_portserver,
        {"_answer": answers, "_drop_in": st.booleans()},
        frozenset({"_answer", "_drop_in"}),
    ),
    "fixtures.FreePortFactory.__call__": with_what_it_is_called_on(
        call_of(
            fixtures.FreePortFactory.__call__,
            family=st.sampled_from([None, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]),
        ),
        factory,
        _kind=kinds,
    ),
}


DROPIN = {name: call._replace(lenient=True) for name, call in DROPIN.items()}


def forget_all() -> None:
    _kept._let_all_go()
    for known in (portpicker._free_ports, portpicker._owned_ports, portpicker._random_ports):
        known.clear()

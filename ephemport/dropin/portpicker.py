"""`import ephemport.dropin.portpicker as portpicker`: its interface, with ports that are held.

A port is held, for TCP and UDP, from `pick_unused_port()` until `return_port()` or the end of the
process. A portserver is asked where portpicker would ask one, and its ports are held as well. The
command line, `python -m ephemport.dropin.portpicker [PID [SECONDS]]`, is portpicker's too.
"""

import logging
import os
import socket
import sys
from typing import NoReturn

from ephemport._arguments import checked_port, port_or_any, seconds, text
from ephemport._errors import EphemportError
from ephemport.dropin import _kept

__all__ = (
    "NoFreePortFoundError",
    "add_reserved_port",
    "bind",
    "get_port_from_port_server",
    "is_port_free",
    "pick_unused_port",
    "return_port",
)

_winapi = None
_BOTH = (socket.SOCK_STREAM, socket.SOCK_DGRAM)

# portpicker's three kinds: ports to return again, ports from elsewhere, the operating system's.
_free_ports: set[int] = set()
_owned_ports: set[int] = set()
_random_ports: set[int] = set()


class NoFreePortFoundError(Exception):
    """No free port could be found."""


def add_reserved_port(port: int) -> None:
    """Have `pick_unused_port()` return a port that was acquired by other means.

    Args:
        port: The port, an int from 1 to 65535.

    Raises:
        TypeError: `port` is not an int.
        ValueError: `port` is no port.
    """
    _free_ports.add(checked_port(port))


def return_port(port: int) -> None:
    """Let a port go. A port that a portserver gave, or that was added, is returned again later.

    Args:
        port: The port, an int.
    """
    if port in _random_ports:
        _random_ports.remove(port)
    elif port in _owned_ports:
        _owned_ports.remove(port)
        _free_ports.add(port)
    else:
        logging.info("Returning a port that was not picked, or was returned already: %s", port)
    _kept.give_back(port)


def bind(port: int, socket_type: int, socket_proto: int) -> int | None:
    """Try whether a port can be bound with SO_REUSEADDR on all addresses.

    Args:
        port: The port, an int from 1 to 65535; 0 means any.
        socket_type: socket.SOCK_STREAM (TCP) or socket.SOCK_DGRAM (UDP).
        socket_proto: Ignored. portpicker has this parameter.

    Returns:
        The port, or None if it cannot be bound.

    Raises:
        TypeError: `port` is not an int.
        ValueError: `port` is no port.
    """
    return _kept.any_bound(port, socket_type)


def is_port_free(port: int) -> bool:
    """Whether nobody uses the port for TCP or UDP.

    Args:
        port: The port, an int from 1 to 65535.

    Returns:
        Whether it is free. A port that only this process holds counts as free.

    Raises:
        TypeError: `port` is not an int.
        ValueError: `port` is no port.
    """
    return all(bind(port, kind, 0) is not None for kind in _BOTH)


def pick_unused_port(pid: int | None = None, portserver_address: str | None = None) -> int:
    """Reserve a port that nobody uses for TCP or UDP.

    Args:
        pid: The process that a portserver gives the port to. It takes the port back when that
            process ends. None: this process.
        portserver_address: The path of a Unix socket, with a leading "@" for an abstract one. If
            None, or if it gives no port, PORTSERVER_ADDRESS is asked, then the operating system.

    Returns:
        The port, held until `return_port()` or the end of the process.

    Raises:
        NoFreePortFoundError: No port, or no file descriptor, is left.
        TypeError: `portserver_address` is not a string.
    """
    try:
        port = _free_ports.pop()
    except KeyError:
        pass
    else:
        _owned_ports.add(port)
        _kept.try_to_keep(port, "both")
        return port
    for address in (portserver_address, os.environ.get("PORTSERVER_ADDRESS")):
        assigned = get_port_from_port_server(address, pid) if address else None
        if assigned:
            return assigned
    return _pick_unused_port_without_server()


def get_port_from_port_server(portserver_address: str | None, pid: int | None = None) -> int | None:
    """Reserve a port that a portserver gives.

    Args:
        portserver_address: The path of a Unix socket, with a leading "@" for an abstract one.
        pid: The process that the portserver gives the port to. None: this process.

    Returns:
        The port, held until `return_port()` or the end of the process. None if the portserver
        gives no port, does not answer, or has no address.

    Raises:
        TypeError: `portserver_address` is not a string.
    """
    if not portserver_address:
        return None
    address = text(portserver_address, "portserver_address must be a string such as '@name'")
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.connect(address)
            server.sendall(b"%d\n" % (os.getpid() if pid is None else pid))
            answer = server.recv(1024)
        finally:
            server.close()
    except OSError as error:
        print(f"Socket error when connecting to portserver: {error}", file=sys.stderr)
        return None
    try:
        port = port_or_any(int(answer.split(b"\n")[0]), "the portserver's answer")
    except ValueError:
        print("Portserver failed to find a port.", file=sys.stderr)
        return None
    _owned_ports.add(port)
    if port:
        _kept.try_to_keep(port, "both")
    return port


def _pick_unused_port_without_server() -> int:
    try:
        port = _kept.new_port("both")
    except EphemportError as error:
        raise NoFreePortFoundError(str(error)) from error
    _random_ports.add(port)
    return port


Bind = bind
GetPortFromPortServer = get_port_from_port_server
IsPortFree = is_port_free
PickUnusedPort = pick_unused_port


def main(argv: list[str]) -> NoReturn:
    """Print a port that nobody uses.

    The first argument is a pid: a portserver reserves the port for that process. The default is the
    parent process. The second argument is a number of seconds: a process in the background holds
    the port for that long, if no portserver was asked. Without it the port is free again at once.

      #!/bin/bash
      port="$(python -m ephemport.dropin.portpicker $$ 60)"
      my_server "$port"

    `ephemport run -p PORT -- my_server {PORT}` holds it for as long as the server runs.
    Older versions of portpicker ignored the second argument.
    """
    if "-h" in argv or "--help" in argv:
        import inspect

        print(f"{argv[0]} usage:\n\n{inspect.getdoc(main)}")
        sys.exit(1)
    try:
        pid = int(argv[1]) if len(argv) > 1 else os.getppid()
        time = seconds(float(argv[2]), "SECONDS") if len(argv) > 2 else None
        port = pick_unused_port(pid=pid)
    except (ValueError, NoFreePortFoundError) as error:
        sys.exit(f"{argv[0]}: {error}")
    print(port, flush=True)
    if time is not None and port in _random_ports:
        _hold_for(port, time)
    sys.exit(0)


def _hold_for(port: int, time: float) -> None:
    import subprocess

    # Adopted and not inherited: a hold ends in a forked child.
    source = (
        "import sys, time; from ephemport import adopt\n"
        "with adopt(sys.argv[1]):\n    print(flush=True); sys.stdout.close()\n"
        "    time.sleep(float(sys.argv[2]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, _kept.share(port), str(time)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.returncode = 0  # not waited for: it outlives this process


if __name__ == "__main__":
    main(sys.argv)

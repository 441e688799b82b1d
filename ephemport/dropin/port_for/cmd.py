"""port-for's command: `python -m ephemport.dropin.port_for.cmd`."""

import argparse
import sys

from ephemport.dropin.port_for.exceptions import PortForException
from ephemport.dropin.port_for.store import PortStore


def main() -> None:
    """Find a port for a program, and remember it in /etc/port-for.conf."""
    parser = argparse.ArgumentParser(prog="port-for", description=main.__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the program")
    parser.add_argument("--bind", "-b", metavar="NAME", help="the same as NAME")
    parser.add_argument("--port", "-p", type=int, help="this port and no other")
    parser.add_argument("--unbind", "-u", metavar="NAME", help="take the program's port back")
    parser.add_argument("--list", "-l", action="store_true", help="list programs and their ports")
    options = parser.parse_args()
    store = PortStore()
    try:
        if options.name or options.bind:
            print(store.bind_port(options.name or options.bind, options.port))
        elif options.list:
            for app, port in store.bound_ports():
                print(f"{app}: {port}")
        elif options.unbind:
            store.unbind_port(options.unbind)
    except (OSError, ValueError, PortForException) as error:
        sys.exit(f"port-for: {error}")


if __name__ == "__main__":
    main()

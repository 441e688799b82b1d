"""port-for's store: which port belongs to which program, in a file of its own format."""

from configparser import DEFAULTSECT, ConfigParser
from pathlib import Path

from ephemport.dropin import _kept
from ephemport.dropin.port_for.api import select_random
from ephemport.dropin.port_for.exceptions import PortForException

DEFAULT_CONFIG_PATH = "/etc/port-for.conf"


class PortStore:
    """The ports of programs, kept in a file.

    Args:
        config_filename: The path of the file, a string. The first use makes it.
    """

    def __init__(self, config_filename: str = DEFAULT_CONFIG_PATH) -> None:
        self._path = Path(config_filename)

    def bind_port(self, app: str, port: int | str | None = None) -> int:
        """Give a port to a program, and hold it until this process ends if it is free.

        Args:
            app: The name of the program, without "=" and ":".
            port: The port, an int or a string of digits. None: the one that the program has
                already, or else a random one.

        Returns:
            The port.

        Raises:
            PortForException: The program has another port, another program has this one, or no
                port can be selected.
            ValueError: `app` or `port` makes no sense.
        """
        if "=" in app or ":" in app or app != app.strip() or not app:
            raise ValueError(f"invalid app name: {app!r}")
        wanted = None if port is None else int(port)
        known = dict(self.bound_ports())
        has = known.get(app.lower())
        if has is not None and wanted not in (None, has):
            raise PortForException(
                f"Can't bind to port {wanted}: {app} is already associated with port {has}"
            )
        others = {number: name for name, number in known.items() if name != app.lower()}
        if wanted in others:
            raise PortForException(f"Port {wanted} is already used by {others[wanted]}!")
        chosen = has or wanted or select_random(exclude_ports=others)
        if chosen != has:
            parser = self._read()
            parser.set(DEFAULTSECT, app, str(chosen))
            self._write(parser)
        _kept.try_to_keep(chosen, "tcp")
        return chosen

    def unbind_port(self, app: str) -> None:
        """Take the port of a program back. A program without a port is left alone.

        Args:
            app: The name of the program.
        """
        parser = self._read()
        parser.remove_option(DEFAULTSECT, app)
        self._write(parser)

    def bound_ports(self) -> list[tuple[str, int]]:
        """The programs and their ports.

        Returns:
            Pairs of the name of a program, in small letters, and its port.
        """
        return [(app, int(port)) for app, port in self._read().items(DEFAULTSECT)]

    def _read(self) -> ConfigParser:
        self._path.touch()
        parser = ConfigParser(interpolation=None)
        parser.read(self._path)
        return parser

    def _write(self, parser: ConfigParser) -> None:
        with open(self._path, "w") as file:
            parser.write(file)

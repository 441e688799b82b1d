"""Ports from a portpicker portserver, then held like every other."""

import errno
import io
import os
from collections import deque
from collections.abc import Collection
from contextlib import redirect_stderr, suppress

from ephemport._errors import EphemportError, PortsExhausted
from ephemport._holding.acquire import hold_port
from ephemport._holding.hold import Hold
from ephemport._holding.lack import not_enough
from ephemport._holding.ranges import CATEGORIES
from ephemport._holding.shape import ONE, Shape
from ephemport._holding.sources import Source, Terms
from ephemport._holding.span import Span
from ephemport._kernel.fork import lock
from ephemport._kernel.port_range import reserved_ports

# How many ports of the portserver may be taken already before we stop asking for more.
_TRIES = 32
# What portpicker prints if the portserver gives no port (portpicker.py, get_port_from_port_server).
_DENIED = "failed to find a port"


class Portserver:
    """Ports from the portserver at `address`, which defaults to PORTSERVER_ADDRESS.

    Raises EphemportError if no address is known or portpicker is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        chosen = address or os.environ.get("PORTSERVER_ADDRESS")
        if not chosen:
            raise EphemportError(
                "mode 'portserver' needs the address of the portserver: set PORTSERVER_ADDRESS "
                "(portserver.py --portserver_address), or name it: 'portserver:@address'"
            )
        try:
            import portpicker
        except ImportError:
            raise EphemportError(
                "mode 'portserver' needs portpicker's client: pip install 'ephemport[portserver]'"
            ) from None
        if portpicker.__name__ != "portpicker":
            raise EphemportError(
                "mode 'portserver' needs portpicker's own client, but a drop-in stands in its "
                "place (--ephemport-dropin, ini ephemport_dropin). The drop-in asks the portserver "
                "too: use mode 'ephemeral', or leave portpicker out there"
            )
        self.address = chosen
        self._ask = portpicker.get_port_from_port_server
        # A portserver takes ports back only when the process that asked for them ends.
        self._returned: deque[int] = deque()

    @property
    def ports(self) -> range:
        return range(1024, 65536)

    @property
    def barred(self) -> Collection[int]:
        return reserved_ports()

    def within(self, span: Span) -> Source:
        # As for `hold_port()`: the portserver is not asked.
        return span

    def hold(self, protocol: str, exclude: Collection[int]) -> Hold:
        passed_over: list[int] = []
        with lock:
            try:
                for _ in range(_TRIES):
                    port = self._next_port(protocol)
                    if port in exclude:
                        passed_over.append(port)
                        continue
                    try:
                        held = hold_port(port, protocol)
                    except OSError as error:
                        passed_over.append(port)
                        if error.errno != errno.EADDRINUSE:
                            raise
                        continue
                    held.lease = _Return(self._returned, port)
                    return held
            finally:
                self._returned.extend(passed_over)
        raise PortsExhausted(
            f"no port left: the last {_TRIES} ports from the portserver at {self.address!r} are "
            "all taken or excluded; give it a range of its own (portserver.py "
            "--portserver_static_pool), or use mode 'ephemeral'",
            protocol=protocol,
        )

    def hold_port(self, port: int, protocol: str) -> Hold:
        # The portserver's protocol cannot ask for one given port. The hold protects it.
        with suppress(ValueError):
            self._returned.remove(port)
        return hold_port(port, protocol)

    def exhausted(
        self, protocol: str, exclude: Collection[int], shape: Shape = ONE
    ) -> PortsExhausted:
        asked = not_enough(protocol, shape)
        if shape.length > len(self.ports):
            return PortsExhausted(
                f"{asked}, and a portserver has the ports "
                f"{self.ports.start}-65535 at most ({len(self.ports):,}). Ask for fewer",
                protocol=protocol,
            )
        return PortsExhausted(
            f"{asked} around what the "
            f"portserver at {self.address!r} gives, and found too few that are neither taken nor "
            "excluded. Ask for fewer, or use mode 'ephemeral'",
            protocol=protocol,
        )

    def _next_port(self, protocol: str) -> int:
        said = io.StringIO()
        with redirect_stderr(said):
            port = self._ask(self.address)
        # A portserver that has no port closes the connection without an answer. portpicker returns
        # None for that, as it does if there is no server. Only its output differs.
        if port == 0 or (port is None and _DENIED in said.getvalue()):
            if self._returned:
                return self._returned.popleft()
            raise PortsExhausted(
                f"no port left: the portserver at {self.address!r} gave none, as it does when its "
                "pool has no free port; widen it (portserver.py --portserver_static_pool), or "
                "use mode 'ephemeral'",
                protocol=protocol,
            )
        if port is None or not 0 < port < 65536:
            answer = said.getvalue().strip() or f"it answered {port!r}"
            raise EphemportError(
                f"no port from the portserver at {self.address!r}: {answer}. Start portserver.py "
                "with that --portserver_address, or use mode 'ephemeral'"
            )
        return int(port)


def open_sources(terms: Terms) -> dict[str, Source]:
    """The pool of the portserver, for every category."""
    return dict.fromkeys(CATEGORIES, Portserver(terms.address or None))


class _Return:
    def __init__(self, returned: deque[int], port: int) -> None:
        self._returned = returned
        self._port = port

    def close(self) -> None:
        self._returned.append(self._port)

    def abandon(self) -> None:
        """Do nothing: the parent process returns it."""

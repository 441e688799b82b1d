"""The waits of a reservation and of a group: their methods."""

from collections.abc import Sequence

from ephemport._looking.listeners import Listener
from ephemport._serving.awaited import ServerLike
from ephemport._serving.wait import wait, wait_async, wait_listening, wait_listening_async
from ephemport._serving.wait_not_listening import (
    wait_not_listening,
    wait_not_listening_async,
    wait_until_gone,
    wait_until_gone_async,
)


class WaitsForServer:
    """Waits for the server of one port. A reservation inherits from it."""

    __slots__ = ()

    def _require_held(self, verb: str) -> None:
        raise NotImplementedError

    def __index__(self) -> int:
        raise NotImplementedError

    def wait_listening(self, timeout: float = 10.0, process: ServerLike | None = None) -> Listener:
        """Wait until a client of `host` reaches a server, as `ephemport.wait_listening()` does.

        A server on another address of the port does not count: 127.0.0.1 and ::1 are two.

        Args:
            timeout: How long to wait, in seconds.
            process: The server: a Popen, a Process or a pid; a Thread, Task or Future of this
                process; or the Path of the pid file that it writes. Then only a listener of this
                process or of a descendant counts. None: any listener.

        Returns:
            The listener: its address, its pid and its command line.

        Raises:
            TakeoverTimeout: Nothing listened on the port in time.
            WrongListener: Another process than `process` listens on the port.
            ServerExited: The process, thread, task or future ended before it listened.
            EphemportError: The wait would block the event loop in which the server runs.
            ReservationReleased: This process no longer holds the port.
        """
        self._require_held("wait for a server on")
        return wait_listening(self, timeout, process=process)

    async def wait_listening_async(
        self, timeout: float = 10.0, process: ServerLike | None = None
    ) -> Listener:
        """`wait_listening()` that does not block the event loop, for asyncio and trio.

        Args:
            timeout: How long to wait, in seconds.
            process: The server, as for `wait_listening()`. None: any listener counts.

        Returns:
            The listener: its address, its pid and its command line.

        Raises:
            TakeoverTimeout: Nothing listened on the port in time.
            WrongListener: Another process than `process` listens on the port.
            ServerExited: The process, thread, task or future ended before it listened.
            ReservationReleased: This process no longer holds the port.
        """
        self._require_held("wait for a server on")
        return await wait_listening_async(self, timeout, process=process)

    def wait_not_listening(self, timeout: float = 10.0, process: ServerLike | None = None) -> None:
        """Wait until nobody listens on the port, as `ephemport.wait_not_listening()` does.

        Args:
            timeout: How long to wait, in seconds.
            process: The server that stops, as for `wait_listening()`. Then only its listeners
                count, and those of what it started. None: every listener, on any address.

        Raises:
            StillListening: Somebody listened on the port when the time was over.
            EphemportError: The wait would block the event loop in which the listener runs.
            ReservationReleased: This process no longer holds the port.
        """
        self._require_held("wait for the end of a server on")
        wait_not_listening(self, timeout, process=process)

    async def wait_not_listening_async(
        self, timeout: float = 10.0, process: ServerLike | None = None
    ) -> None:
        """`wait_not_listening()` that does not block the event loop, for asyncio and trio.

        Args:
            timeout: How long to wait, in seconds.
            process: The server that stops, as for `wait_not_listening()`. None: everybody.

        Raises:
            StillListening: Somebody listened on the port when the time was over.
            ReservationReleased: This process no longer holds the port.
        """
        self._require_held("wait for the end of a server on")
        await wait_not_listening_async(self, timeout, process=process)


class WaitsForServers:
    """Waits for the servers of several ports. A group inherits from it."""

    __slots__ = ()

    def _waited_on(self) -> Sequence[WaitsForServer]:
        raise NotImplementedError

    def wait_listening(
        self,
        timeout: float = 10.0,
        process: ServerLike | Sequence[ServerLike | None] | None = None,
    ) -> list[Listener]:
        """Wait until all servers are up, as `Reservation.wait_listening()` does for one.

        Args:
            timeout: How long to wait for all together, in seconds.
            process: The one server of all ports, as for `Reservation.wait_listening()`. Or a list
                of servers, one for each port and in the same order. None: any listener.

        Returns:
            The listeners, one for each port, in order.

        Raises:
            TakeoverTimeout: Nothing listened on a port in time. `.port` is the first of these.
            WrongListener, ServerExited, EphemportError: As for `Reservation.wait_listening()`, of
                the first port that has such an error.
            ReservationReleased: This process no longer holds one of the ports.
            ValueError: `process` has another length than the group.
        """
        return wait(self._with_servers(process), timeout)

    async def wait_listening_async(
        self,
        timeout: float = 10.0,
        process: ServerLike | Sequence[ServerLike | None] | None = None,
    ) -> list[Listener]:
        """`wait_listening()` that does not block the event loop, for asyncio and trio.

        Args:
            timeout: How long to wait for all together, in seconds.
            process: As for `wait_listening()`.

        Returns:
            The listeners, one for each port, in order.

        Raises:
            TakeoverTimeout, WrongListener, ServerExited: These and all others as
                `wait_listening()`.
        """
        return await wait_async(self._with_servers(process), timeout)

    def wait_not_listening(
        self,
        timeout: float = 10.0,
        process: ServerLike | Sequence[ServerLike | None] | None = None,
    ) -> None:
        """Wait until nobody listens on any of the ports.

        Args:
            timeout: How long to wait for all together, in seconds.
            process: The servers that stop, as for `wait_listening()`. None: every listener counts.

        Raises:
            StillListening: Somebody listened on a port when the time was over. `.port` is the
                first of these.
            EphemportError, ReservationReleased, ValueError: As for `wait_listening()`.
        """
        wait_until_gone(self._with_servers(process), timeout)

    async def wait_not_listening_async(
        self,
        timeout: float = 10.0,
        process: ServerLike | Sequence[ServerLike | None] | None = None,
    ) -> None:
        """`wait_not_listening()` that does not block the event loop, for asyncio and trio.

        Args:
            timeout: How long to wait for all together, in seconds.
            process: As for `wait_not_listening()`.

        Raises:
            StillListening, ReservationReleased: These and all others as `wait_not_listening()`.
        """
        await wait_until_gone_async(self._with_servers(process), timeout)

    def _with_servers(
        self, process: ServerLike | Sequence[ServerLike | None] | None
    ) -> list[tuple[WaitsForServer, ServerLike | None]]:
        waited_on = self._waited_on()
        for one in waited_on:
            one._require_held("wait at")
        if not isinstance(process, (list, tuple)):
            return [(one, process) for one in waited_on]  # type: ignore[misc]
        if len(process) != len(waited_on):
            raise ValueError(
                f"process has {len(process)} servers, and the group has "
                f"{len(waited_on)} ports: give one for each port, or one for all"
            )
        return list(zip(waited_on, process, strict=True))

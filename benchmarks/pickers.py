"""The small interface of all peers, and what does not fit a single function behind it.

`take()` gives a port, `give_back()` ends its use, `once()` is both in a row as the peer's own
documentation writes it, `group()` the same for several ports.
"""

import socket
from collections.abc import Callable

from ephemport import Reservation, reserve, reserve_many
from ephemport.compat import PortAllocator

_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h


class Picker:
    """A peer that only picks: its port belongs to nobody until the server binds."""

    def __init__(self, pick: Callable[[], int]) -> None:
        self.take = pick

    def give_back(self, port: int) -> None:
        """Nothing is held, so nothing is given back."""

    def once(self) -> None:
        """Take a port and end its use."""
        self.give_back(self.take())

    def group(self, count: int) -> None:
        """Take `count` ports and end their use."""
        for port in [self.take() for _ in range(count)]:
            self.give_back(port)


class Limit(Picker):
    """The system calls of a hold and nothing else: what no library can be faster than.

    The first and the last of them tell a hold from whatever has its descriptor later.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[socket.socket, bytes]] = {}
        super().__init__(self._take)

    def once(self) -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.getsockname()
        if sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) == cookie:
            sock.close()

    def group(self, count: int) -> None:
        held = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.getsockname()
            held.append((sock, cookie))
        for sock, cookie in held:
            if sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) == cookie:
                sock.close()

    def _take(self) -> int:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port: int = sock.getsockname()[1]
        self._held[port] = sock, cookie
        return port

    def give_back(self, port: int) -> None:
        sock, cookie = self._held.pop(port)
        if sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) == cookie:
            sock.close()


class Ephemeral(Picker):
    """`with reserve() as r:`, as the README writes it."""

    def __init__(self) -> None:
        self._held: dict[int, Reservation] = {}
        super().__init__(self._take)

    def once(self) -> None:
        with reserve() as r:
            r.port  # noqa: B018 (reading it is part of what is measured)

    def group(self, count: int) -> None:
        with reserve_many(count) as group:
            group.ports  # noqa: B018

    def _take(self) -> int:
        reservation = reserve()
        self._held[reservation.port] = reservation
        return reservation.port

    def give_back(self, port: int) -> None:
        self._held.pop(port).release()


class Allocated(Picker):
    """The documented layer: fixed ranges, or a portserver's ports."""

    def __init__(self, allocator: PortAllocator) -> None:
        self._allocator = allocator
        super().__init__(allocator.allocate_port)

    def give_back(self, port: int) -> None:
        self._allocator.release_port(port)

    def group(self, count: int) -> None:
        with self._allocator.port_range_context(count):
            pass


class Portpicker(Picker):
    """portpicker; its own way of giving back is `return_port()`."""

    def __init__(self, pick: Callable[[], int], give_back: Callable[[int], None]) -> None:
        super().__init__(pick)
        self._return = give_back

    def give_back(self, port: int) -> None:
        self._return(port)

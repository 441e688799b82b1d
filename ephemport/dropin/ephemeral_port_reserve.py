"""`from ephemport.dropin.ephemeral_port_reserve import reserve`: its one function, held.

The original leaves the port in TIME_WAIT. That keeps others away for 60 s, and for that time the
ephemeral port range has one port less. Here the port is held until the process ends.
"""

import errno
import sys
from typing import NoReturn

from ephemport._errors import EphemportError
from ephemport.dropin import _kept

LOCALHOST = "127.0.0.1"


def reserve(ip: str = LOCALHOST, port: int | str = 0) -> int:
    """Reserve a TCP port, held until the process ends.

    Args:
        ip: The address that the server will bind, a string. An empty one means every address.
        port: The port to reserve if nobody uses it, an int or a string of digits. Otherwise, or
            if it is 0, another port is reserved.

    Returns:
        The port.

    Raises:
        OSError: `ip` is not an address of this machine, or no port is left. The original raises
            the same.
        ValueError: `port` is not a string of digits.
    """
    wanted = int(port)
    try:
        return _kept.new_port("tcp", host=ip or "0.0.0.0", port=[wanted, 0] if wanted else None)
    except ValueError as error:
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
    except EphemportError as error:
        raise OSError(errno.EADDRINUSE, str(error)) from error


def main() -> NoReturn:
    """Print a port. It is free again when this process ends (see `ephemport reserve --for`)."""
    try:
        print(reserve(*sys.argv[1:]))
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    sys.exit(0)


if __name__ == "__main__":
    main()

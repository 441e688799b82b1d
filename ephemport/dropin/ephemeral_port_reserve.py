"""`from ephemport.dropin.ephemeral_port_reserve import reserve`: its one function, held.

The original leaves the number in TIME_WAIT, which keeps others away for 60 s and uses up a number
of the ephemeral port range that long. Here it is held until the process ends.
"""

import errno
import sys
from typing import NoReturn

from ephemport._errors import EphemportError
from ephemport.dropin import _kept

LOCALHOST = "127.0.0.1"


def reserve(ip: str = LOCALHOST, port: int | str = 0) -> int:
    """A TCP number for a server on `ip`: `port` if nobody uses it, otherwise another.

    Raises OSError where the original does: for an address that is not this machine's, and when no
    number is left.
    """
    wanted = int(port)
    try:
        return _kept.new_port("tcp", host=ip or "0.0.0.0", port=[wanted, 0] if wanted else None)
    except ValueError as error:
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
    except EphemportError as error:
        raise OSError(errno.EADDRINUSE, str(error)) from error


def main() -> NoReturn:
    """Print a number; it is let go when this process ends (see `ephemport reserve --for`)."""
    print(reserve(*sys.argv[1:]))
    sys.exit(0)


if __name__ == "__main__":
    main()

"""What can go wrong. Every message says what was tried, what stands in the way, what to do.

The facts of the message are attributes of the error, for reports and for programs. They are what
the kernel reported when the error was made. A later look may show something else.
"""

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemport._findings import Diagnosis


class EphemportError(RuntimeError):
    """The base of every error of this library.

    `port`, `protocol` and `diagnosis` are attributes. They stay with the error when it is pickled
    or copied.

    Args:
        message: What `str()` returns.
        port: The port that the error is about, an int. Of several ports, the first one that was
            refused. None where the error is about no port.
        protocol: "tcp", "udp" or "both". None where the error is about no protocol.
        diagnosis: Who had the port when the error was made. None where the kernel was not asked.
    """

    port: "int | None" = None
    protocol: "str | None" = None
    diagnosis: "Diagnosis | None" = None

    def __init__(
        self,
        message: str = "",
        *,
        port: int | None = None,
        protocol: str | None = None,
        diagnosis: "Diagnosis | None" = None,
    ) -> None:
        super().__init__(message)
        self.port = port
        self.protocol = protocol
        self.diagnosis = diagnosis


class PortsExhausted(EphemportError):
    """No port could be reserved: no port or no file descriptor is left. `.port` is None."""


class PortUnavailable(EphemportError):
    """A port that the caller named is taken."""


class NoShadow(EphemportError, ValueError):
    """`handoff="shadow"` is not possible: every address that a shadow could have is in the way.

    A shadow is held on an address that the server does not use. Servers on "::" use all of them. A
    machine without an IPv4 or an IPv6 loopback may have no other address.
    """


class ReservationReleased(EphemportError):
    """The reservation no longer holds its port: it was released, or this process was forked."""


class TakeoverTimeout(EphemportError, TimeoutError):
    """Nothing listened on the port within the timeout."""


class StillListening(EphemportError, TimeoutError):
    """Somebody listened on the port, and nobody was to, when the time was over."""


class WrongListener(EphemportError):
    """Another process than the expected one listens on the port."""


class ServerExited(EphemportError):
    """The server's process ended before it listened.

    All parameters except `message` are attributes.

    Args:
        message: What `str()` returns.
        returncode: The exit status; a negative one is the number of the signal that ended the
            process. None where it is unknown.
        output: The last lines that the process wrote. None where they were not captured.
        port: As for EphemportError.
        protocol: As for EphemportError.
        diagnosis: As for EphemportError.
    """

    def __init__(
        self,
        message: str = "",
        *,
        returncode: int | None = None,
        output: str | None = None,
        port: int | None = None,
        protocol: str | None = None,
        diagnosis: "Diagnosis | None" = None,
    ) -> None:
        super().__init__(message, port=port, protocol=protocol, diagnosis=diagnosis)
        self.returncode = returncode
        self.output = output


class CallRefused(EphemportError, OSError):
    """The system refuses a call that cannot be done without: a sandbox does, or an old kernel.

    It is an OSError as well, with its `errno`.

    Args:
        message: What `str()` returns.
        number: The errno of the refused call.
        port: As for EphemportError.
        protocol: As for EphemportError.
    """

    def __init__(
        self,
        message: str = "",
        number: int | None = None,
        *,
        port: int | None = None,
        protocol: str | None = None,
    ) -> None:
        super().__init__(message, port=port, protocol=protocol)
        self.errno = number


def refusal_in_words(number: int | None) -> str:
    """Return the name of an errno, and what commonly answers with it where the kernel would not."""
    if not number:
        return "refused"
    words = os.strerror(number)
    if number in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        words += (
            " (commonly refused by a sandbox: a container's seccomp profile, SELinux, AppArmor; "
            "'ephemport doctor' lists what is refused here)"
        )
    return words


class NodeUnreachable(EphemportError):
    """No agent could be reached on a node. It holds nothing.

    All parameters except `message` are attributes.

    Args:
        message: What `str()` returns.
        returncode: The exit status of the command that was to reach it. None where it did not
            start.
        output: The last that the far end wrote. None where the command did not start.
    """

    def __init__(
        self, message: str = "", *, returncode: int | None = None, output: str | None = None
    ) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.output = output


class NodeLost(EphemportError):
    """A node that held ports cannot be reached any more. They are unknown, possibly still held."""


class LeakedServerWarning(UserWarning):
    """A test ended, but its server still listens on the port that the test had reserved."""

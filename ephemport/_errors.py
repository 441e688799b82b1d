"""What can go wrong. Every message says what was tried, what stands in the way, what to do.

The facts of the message are attributes of the error, for reports and for programs. They are as the
kernel gave them when the error was made; whoever looks later may see something else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemport._looking.diagnosis import Diagnosis


class EphemportError(RuntimeError):
    """The base of every error of this library.

    message: what `str()` returns. port: the port that the error is about; of several, the first
    that was refused; None where it is about no port. protocol: "tcp", "udp" or "both", None where
    it is about none. diagnosis: who had the port when the error was made, None where nobody was
    asked. The three are attributes, and stay with the error when it is pickled or copied.
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
    """No port could be reserved: the range is used up, or the descriptors are. `.port` is None."""


class PortUnavailable(EphemportError):
    """A port that was asked for by name is taken."""


class ReservationReleased(EphemportError):
    """The reservation holds nothing any more: it was released, or this process was forked."""


class TakeoverTimeout(EphemportError, TimeoutError):
    """Nothing listened on the port in time."""


class WrongListener(EphemportError):
    """Something listens on the port, but not the process that was expected to."""


class ServerExited(EphemportError):
    """The server's process ended before it listened.

    returncode: the exit status where it is known (negative: the signal that ended it). output: the
    last lines that the process wrote, where they were captured. Both are attributes, as are
    EphemportError's, which the other parameters are.
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


class LeakedServerWarning(UserWarning):
    """A test ended and its server still listens on the port that the test had reserved."""

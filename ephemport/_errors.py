"""What can go wrong. Every message says what was tried, what stands in the way, what to do."""


class EphemportError(RuntimeError):
    """The base of every error of this library."""


class PortsExhausted(EphemportError):
    """No number could be reserved: the range is used up, or the descriptors are."""


class PortUnavailable(EphemportError):
    """A number that was asked for by name is taken."""


class ReservationReleased(EphemportError):
    """The reservation holds nothing any more: it was released, or this process was forked."""


class TakeoverTimeout(EphemportError, TimeoutError):
    """Nothing listened on the number in time."""


class WrongListener(EphemportError):
    """Something listens on the number, but not the process that was expected to."""


class ServerExited(EphemportError):
    """The server's process ended before it listened.

    `returncode` is the exit status where it is known (negative: the signal that ended it), and
    `output` the last lines that the process wrote, where they were captured.
    """

    def __init__(
        self, message: str, *, returncode: int | None = None, output: str | None = None
    ) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.output = output


class LeakedServerWarning(UserWarning):
    """A test ended and its server still listens on the number that the test had reserved."""

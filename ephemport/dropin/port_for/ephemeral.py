"""port-for's name for the ephemeral port range."""

from ephemport._kernel.port_range import ephemeral_range

DEFAULT_EPHEMERAL_PORT_RANGE = (32768, 65535)


def port_ranges() -> list[tuple[int, int]]:
    """The ephemeral port range of this machine.

    Returns:
        A list of one pair: the first and the last port.
    """
    assigned = ephemeral_range()
    return [(assigned.start, assigned.stop - 1)]

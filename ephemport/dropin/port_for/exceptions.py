"""port-for's exception."""


class PortForException(Exception):
    """No port can be selected, or `ports` has an unknown format."""

"""Every server that takes a port, started on a number that is held, and talked to."""

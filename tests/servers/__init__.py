"""Every server that takes a port, started on a held port, and talked to."""

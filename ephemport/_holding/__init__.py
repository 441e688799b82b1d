"""What keeps a port: the sockets, the arguments of `reserve()`, and where ports come from.

Read in this order: `hold` has the sockets and is the one place for setsockopt(). `acquire` gets a
hold, `identity` recognizes its sockets, and `end` reports how it ended. `handoffs` changes a hold
so that its server gets the port. `host` finds the address that the server binds. `sources` find the
ports. `request` checks the arguments of `reserve()` and gets holds from a source. `mode` chooses
the source. `ranges`, `lock_file` and `lock_folder` are for the documented fixed ranges.
"""

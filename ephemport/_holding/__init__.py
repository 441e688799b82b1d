"""What keeps a port: the sockets, what is asked for, and where ports come from.

Read in this order: `hold` has the sockets and is the one place for setsockopt(); `handoffs` says
what becomes of a hold so that its server gets the port; `host` says which address that server
binds; `sources` find the ports; `request` checks what `reserve()` is asked for and gets holds from
a source. `mode` chooses the source; `ranges` and `lock_folder` are the documented fixed ranges'.
"""

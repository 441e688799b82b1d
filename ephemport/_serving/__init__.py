"""How a server gets its port, and when it is up.

Read in this order: `start` runs a server with its ports filled in. `activation` gives it sockets
that listen already. `assist` lets in a server that sets no option. `share` gives a hold to another
process. `wait` returns when the server listens.
"""

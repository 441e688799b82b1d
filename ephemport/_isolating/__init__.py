"""Isolation: entering a network of one's own, what comes along, and what ends with it.

Read in this order: `enter` moves the calling thread. `along` gives the new network the addresses
and settings of the old one. `wrapper` does both for a program before it starts. `networks` ends
what a worker has left in its network. The pytest side is `ephemport.pytest_plugin.isolation`.
"""

"""The soak: a million server starts, with crashes, forks and signals, and not one port lost.

`python -m benchmarks.soak`. From the ground up: `ledger` (promises, counts, claims, sockets),
`books` (what a worker has), `servers`, `events` and `children` (what happens to it), `network`
(workers and neighbours in a network of their own), `__main__` (the command).
"""

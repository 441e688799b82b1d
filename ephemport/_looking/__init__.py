"""Who has a port: what the kernel shows, recognised and put into words.

Read in this order: `listeners` says who listens and who holds. `trial` says which servers can bind.
`recognition` says which sockets are ephemport's holds, by the `mark` of their process. `diagnosis`
makes one answer of all of these.
"""

"""Who has a port: what the kernel shows, recognised and put into words.

Read in this order: `listeners` says who listens and who holds, `trial` who could bind,
`recognition` which sockets are holds of ephemport's (by the `mark` of their process), and
`diagnosis` is the one answer of all of these.
"""

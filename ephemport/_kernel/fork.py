"""The lock that is taken around every fork.

A forked child must inherit neither a bound socket that nobody knows of nor anything half-changed:
sockets are bound, and whatever else a child relies on is changed, with this lock held.
"""

import threading

lock = threading.RLock()

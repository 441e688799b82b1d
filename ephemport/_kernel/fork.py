"""What goes on around every fork: a lock that it takes, and a count of forks.

A forked child must inherit neither a bound socket that nobody knows of nor anything half-changed.
There are two ways to see to that. What is changed now and then is changed with `lock` held, which
no fork happens under. Whatever is made so often that a lock would be felt, reads `forks[0]` before
and after: if it differs, a child was forked between the two.
"""

import os
import threading
from collections import deque

lock = threading.RLock()

# Changes with every fork, before it. Turned rather than counted up: a hook in C cannot be
# interrupted by a signal handler that raises, nor does it hand the interpreter to another thread.
forks = deque(range(1 << 12))

os.register_at_fork(before=forks.rotate)

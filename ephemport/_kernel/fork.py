"""What happens around every fork: it takes a lock, and it changes a counter.

A forked child must inherit no bound socket that it does not know of, and nothing half-changed.
There are two ways to ensure that. A rare change is made with `lock` held: no fork happens
meanwhile. A change that is too frequent for a lock reads `forks[0]` before and after: if the two
differ, a child was forked between them.
"""

import os
from collections import deque

from ephemport._kernel.locks import new_lock

# A `with lock:` calls what it guards, and has no loop with a condition of its own: at the jump back
# of such a loop CPython 3.13 looks for signals, and an exception there does not give the lock back.
lock = new_lock()

# Changes before every fork. It is rotated, not counted up: a hook in C cannot be interrupted by a
# signal handler that raises, and it does not give the interpreter to another thread.
forks = deque(range(1 << 12))

os.register_at_fork(before=forks.rotate)

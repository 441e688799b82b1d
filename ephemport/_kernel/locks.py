"""Locks that a signal handler which raises does not leave locked.

Since 3.14 Python looks for signals between the return of `__enter__` and the begin of a `with`
block. An exception there does not give the lock back, and the next thread waits without end.
"""

import sys
import threading

if sys.version_info >= (3, 14):
    from _thread import RLock as _RLock

    class _Lock(_RLock):  # type: ignore[misc]  # not final, whatever typeshed says
        def __enter__(self) -> bool:
            before: int = self._recursion_count()
            try:
                return super().__enter__()
            except BaseException:
                if self._recursion_count() > before:
                    self.release()
                raise

    new_lock = _Lock
else:
    new_lock = threading.RLock

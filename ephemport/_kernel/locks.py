"""Locks that a signal handler which raises does not leave locked.

Python 3.14 looks for signals between the return of `__enter__` and the begin of a `with` block. An
exception there does not give the lock back, and the next thread waits without end. Before 3.14, and
since 3.15, no signal is handled at that place.
"""

import sys
import threading

if sys.version_info[:2] == (3, 14):
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

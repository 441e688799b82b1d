"""What ends with a `with` block, sync or async: reservations, groups, allocators, managers."""

from typing import Self


class EndsWithBlock:
    """A context manager that calls `_end()` of the class that inherits from it."""

    __slots__ = ()

    def _end(self) -> None:
        raise AssertionError(f"{type(self).__name__} has no _end()")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._end()

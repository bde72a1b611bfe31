"""Results in any order, out in the order of their numbers."""

from typing import Generic, TypeVar

T = TypeVar("T")


class ReorderBuffer(Generic[T]):
    """Hold what came too early; hand out what is due. Does no waiting and no I/O of its own."""

    def __init__(self) -> None:
        self._due = 0
        self._early: dict[int, T] = {}

    def push(self, number: int, item: T) -> list[T]:
        """Take the result of chunk *number*; return all that are now due, in order."""
        if number < self._due or number in self._early:
            raise ValueError(f"chunk {number} was pushed twice")
        self._early[number] = item
        due = []
        while self._due in self._early:
            due.append(self._early.pop(self._due))
            self._due += 1
        return due

"""What is worked out once for a long-lived object and found again by its identity."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST_ENTRIES: Final = 256


class Prepared(Generic[K, V]):
    """
    ``prepared(key)`` is ``make(key)``, made once per key object.

    For keys that cannot be hashed, or only slowly, and that live as long as a loaded model does. An entry holds its
    key, so an identity cannot be taken over by another object while it stands here.
    """

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        self._entries: dict[int, tuple[K, V]] = {}

    def __call__(self, key: K) -> V:
        """The value for this very object."""
        entry = self._entries.get(id(key))
        if entry is not None:
            return entry[1]
        if len(self._entries) >= MOST_ENTRIES:  # models come and go; the ones in use are made again
            self._entries.clear()
        value = self._make(key)
        self._entries[id(key)] = (key, value)
        return value

"""How much goes into one request. Pure: it learns from what was measured elsewhere."""

from dataclasses import dataclass
from typing import Final

from batch.chunking import MAX_COUNTED, MIB

LARGEST: Final = MAX_COUNTED
SMALLEST: Final = 4 * 1024
AUTO: Final = MIB
"""Larger chunks were measured to be no faster, and take memory in proportion."""
WANTED_SECONDS: Final = 5.0
BYTES_PER_CELL: Final = 8
"""A guess, for values that are no text yet."""


@dataclass
class ChunkSize:
    """Bytes or rows of a chunk: shrinks where the server is slow or refuses the size, grows back after."""

    bytes: int = AUTO
    rows: int | None = None
    adapts: bool = True
    most: int = AUTO
    """What it may grow back to."""

    @classmethod
    def asked_for(cls, chunk_size: "int | str", mini_batch_size: int | None) -> "ChunkSize":
        """From a job's ``chunk_size`` (bytes, or auto, dynamic, fixed) and ``mini_batch_size`` (rows)."""
        if mini_batch_size is not None:
            return cls(rows=mini_batch_size, adapts=False)
        if isinstance(chunk_size, str):
            return cls(adapts=chunk_size != "fixed")
        size = max(1, min(chunk_size, LARGEST))
        return cls(size, adapts=False, most=size)

    def rows_of(self, n_columns: int) -> int:
        """Rows of a chunk of values, of which only the number of columns is known."""
        return self.rows or max(1, self.bytes // (BYTES_PER_CELL * max(1, n_columns)))

    def took(self, size: int, seconds: float) -> None:
        """A request of *size* bytes was answered."""
        if not self.adapts:
            return
        if seconds > WANTED_SECONDS:
            self.bytes = max(SMALLEST, min(self.bytes, int(size * WANTED_SECONDS / seconds)))
        elif seconds < WANTED_SECONDS / 4 and size > self.bytes // 2:
            self.bytes = min(self.most, self.bytes * 2)

    def too_large(self, size: int, n_rows: int) -> None:
        """A request of *size* bytes was refused for its size: no later one may be half as large."""
        self.bytes = self.most = max(1, min(self.bytes, size // 2))
        if self.rows is not None:
            self.rows = max(1, min(self.rows, n_rows // 2))

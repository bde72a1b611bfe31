"""
Bytes of a table in, as they come; chunks of whole records out. No I/O, no waiting.

What is held back is less than a chunk and one record, and no record may be longer than `MAX_RECORD`, so memory is
bounded whatever the input.
"""

from typing import Final, Protocol

MIB: Final = 1024 * 1024
MAX_RECORD: Final = 17 * MIB
"""Above the longest field that a server reads."""
MAX_COUNTED: Final = 40 * MIB
"""A chunk of so many rows is cut short here; a server takes 50 MB."""
FIRST_LOOK: Final = 64 * 1024


class RecordTooLong(ValueError):
    """No end of a record, within `MAX_RECORD` or at all: not a table, or a quote that is never closed."""


class Boundaries(Protocol):
    """How records of a text format end."""

    def end_of_last(self, data: bytes, stop: int) -> int:
        """Where the last whole record of *data* up to *stop* ends; 0 if there is none."""
        ...

    def end_of_records(self, data: bytes, count: int) -> tuple[int, int]:
        """Where the *count*-th record ends, and how many were found."""
        ...


class Cutter:
    """Holds what has come and was not yet cut off."""

    def __init__(self, boundaries: Boundaries) -> None:
        self._boundaries = boundaries
        self._blocks: list[bytes] = []
        self._held = 0
        self._window = 0
        """Below this many bytes it is known that nothing can be cut off."""
        self._ended = False

    def feed(self, block: bytes) -> None:
        """Take what comes next."""
        self._blocks.append(block)
        self._held += len(block)

    def end(self) -> None:
        """Nothing comes any more; the last record may lack its line end."""
        if self._held and not self._blocks[-1].endswith((b"\n", b"\r")):
            self.feed(b"\n")
        self._ended = True

    def take(self, size: int, count: int | None = None) -> bytes | None:
        """
        A chunk of whole records; None: feed first, or all is taken.

        Args:
            size: about how many bytes; less, unless a single record is more.
            count: exactly that many records instead, unless they are more than `MAX_COUNTED` bytes or the last ones.

        Raises:
            RecordTooLong: see there.
        """
        window = max(size if count is None else FIRST_LOOK, self._window)
        while self._held and (self._ended or self._held >= window):
            data = self._all()
            end = self._end_in(data, min(window, len(data)), count)
            if not end and self._ended and window >= self._held:
                if self._boundaries.end_of_last(data + b"\n", self._held + 1) <= self._held:
                    raise RecordTooLong("a quote is opened and never closed")
                end = self._held
            if end:
                self._window = 0
                return self._cut(data, end)
            if window >= MAX_RECORD and not self._boundaries.end_of_last(data, len(data)):
                raise RecordTooLong(f"a record is longer than {MAX_RECORD // MIB} MiB")
            window = self._window = window * 2
        return None

    def _end_in(self, data: bytes, stop: int, count: int | None) -> int:
        end = self._boundaries.end_of_last(data, stop)
        if count is None or not end:
            return end
        counted, found = self._boundaries.end_of_records(data[:end], count)
        return counted if found == count or stop >= MAX_COUNTED else 0

    def _all(self) -> bytes:
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    def _cut(self, data: bytes, end: int) -> bytes:
        self._blocks = [data[end:]] if end < len(data) else []
        self._held = len(data) - end
        return data[:end]

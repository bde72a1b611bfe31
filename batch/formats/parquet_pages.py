"""
How large the pages of a Parquet column are, before anybody unpacks one. Pure.

A page is unpacked in one piece, so that a small file could ask for any amount of memory.

Page headers are Thrift structs in the compact protocol; of their fields only the two sizes are looked at.
"""

from collections.abc import Iterator
from typing import Final

UNPACKED, PACKED = 2, 3
"""Fields of a page header: sizes in bytes."""
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _TEXT, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_NUMBERS: Final = (4, 5, 6)
_DEEPEST: Final = 8


def page_sizes(column: bytes | memoryview) -> Iterator[int]:
    """
    The unpacked size of each page of a column chunk.

    Raises:
        ValueError: these are no pages.
    """
    place = 0
    while place < len(column):
        header = _Header(column, place)
        sizes = header.numbers()
        unpacked, packed = sizes.get(UNPACKED, -1), sizes.get(PACKED, -1)
        if unpacked < 0 or packed < 0:
            raise ValueError(f"no page header at byte {place} of a column")
        yield unpacked
        place = header.place + packed


class _Header:
    """Reads one struct."""

    def __init__(self, data: bytes | memoryview, place: int) -> None:
        self._data = data
        self.place = place
        """Behind what was read."""

    def numbers(self, depth: int = 0) -> dict[int, int]:
        """The whole numbers among its fields, by their ids; everything else is skipped."""
        found: dict[int, int] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self._number()
            if kind in _NUMBERS:
                found[field] = self._number()
            elif kind not in (_TRUE, _FALSE):  # those say it all
                self._skip(kind, depth + 1)
        return found

    def _skip(self, kind: int, depth: int) -> None:
        if kind in _NUMBERS:
            self._number()
        elif kind in (_TRUE, _FALSE, _BYTE):
            self.place += 1
        elif kind == _DOUBLE:
            self.place += 8
        elif kind == _TEXT:
            length = self._varint()
            self.place += length
        elif kind == _STRUCT and depth < _DEEPEST:
            self.numbers(depth)
        elif kind in (_LIST, _SET) and depth < _DEEPEST:
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._skip(head & 15, depth + 1)
        else:
            raise ValueError(f"no page header: kind {kind} at byte {self.place}")

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise ValueError("a page header ends too early")
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number in a page header is too long")

    def _number(self) -> int:
        coded = self._varint()
        return (coded >> 1) ^ -(coded & 1)

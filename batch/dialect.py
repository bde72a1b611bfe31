"""
Records of a CSV as raw bytes: found, taken apart and written without changing a byte of them.

Two readers, one meaning. The standard library's `csv` is the authority, as it is for the server. Where every quote of
the data either opens a field (after a delimiter or a line end), closes one (before them) or is doubled inside one,
counting quotes says the same: a line end is outside of a field exactly if an even number of quotes stands before it.
`_regular` checks that for a whole chunk at once; what it doubts (``5" pipe``, ``"a"b``) is read by the authority.

All data is UTF-8 here: other encodings are turned into it where they enter.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batch.chunking import MIB

MAX_FIELD: Final = 16 * MIB
"""As the server's own reader; its module is not imported, because it takes numpy along."""
LINE_ENDS: Final = b"\r\n"
_AFTER_LAST: Final = "\0"
"""A line after the last one: it arrives as a record of its own unless a quote is still open."""


class MalformedCsv(ValueError):
    """What the authority says of data that is no CSV."""


@dataclass(frozen=True)
class Dialect:
    """Which characters separate and quote."""

    delimiter: str = ","
    quotechar: str = '"'
    """Empty: nothing is quoted."""

    @property
    def separator(self) -> bytes:
        """The delimiter as it stands in the data."""
        return self.delimiter.encode()

    def records(self, data: bytes) -> list[bytes]:
        """Every record without its line end; blank lines are none. *data* begins and ends with whole records."""
        return self.records_and_lines(data)[0]

    def records_and_lines(self, data: bytes) -> tuple[list[bytes], int]:
        """The same, and the number of physical lines."""
        if not self._has_quotes(data):
            plain = data.splitlines()
            return [line for line in plain if line] if b"" in plain else plain, len(plain)
        physical = data.splitlines(keepends=True)
        lines = self._joined(physical) if self._regular(data) else self._read(data)
        return [line for line in (line.rstrip(LINE_ENDS) for line in lines) if line], len(physical)

    def end_of_last(self, data: bytes, stop: int) -> int:
        """Where the last whole record of *data* up to *stop* ends, its line end included; 0 if there is none."""
        end = data.rfind(b"\n", 0, stop) + 1
        if end < stop:
            end = max(end, data.rfind(b"\r", end, stop - 1) + 1)  # a last CR may be half of a CRLF
        quote = self.quotechar.encode()
        if not end or not quote or data.find(quote, 0, stop) < 0:
            return end
        return self._end_among_quotes(data[:stop], end)

    def end_of_records(self, data: bytes, count: int) -> tuple[int, int]:
        """Where the *count*-th record of *data* ends (blank lines are none), and how many of them were found."""
        lines: Sequence[bytes] = data.splitlines(keepends=True)
        if self._has_quotes(data):
            lines = self._joined(lines) if self._regular(data) else list(self._read(data))
        end = found = 0
        for line in lines:
            if found == count:
                break
            end += len(line)
            found += line not in (b"\n", b"\r\n", b"\r")
        return end, found

    def cells(self, record: bytes) -> list[str]:
        """What the fields of one record say."""
        return next(self._rows(_text_lines(record)), [])

    def raw_cells(self, record: bytes) -> list[bytes]:
        """The fields of one record as they stand, quotes and all."""
        if not self._has_quotes(record):
            return record.split(self.separator)
        if not self._regular(record):
            return [self.field(cell) for cell in self.cells(record)]
        return _merged(record.split(self.separator), self.quotechar.encode(), self.separator)

    def text(self, raw: bytes) -> str:
        """What one field says, as `raw_cells` gives it."""
        return self.cells(raw)[0] if self._has_quotes(raw) else raw.decode(errors="surrogateescape")

    def field(self, text: str) -> bytes:
        """One cell, quoted if it must be."""
        quote = self.quotechar
        if quote and (self.delimiter in text or quote in text or "\n" in text or "\r" in text):
            text = f"{quote}{text.replace(quote, quote * 2)}{quote}"
        return text.encode(errors="surrogateescape")

    def line(self, cells: Sequence[str]) -> bytes:
        """A record without a line end."""
        return self.separator.join(map(self.field, cells))

    def rewritten(self, data: bytes, target: "Dialect") -> bytes:
        """The records of *data* in another dialect, lines ended by LF."""
        if self == target:
            return data
        marks = (target.delimiter + target.quotechar + self.quotechar).encode()
        if not any(mark in data for mark in (marks[i : i + 1] for i in range(len(marks)))):
            return data.replace(self.separator, target.separator)
        return b"".join(target.line(row) + b"\n" for row in self._rows(_text_lines(data)))

    def _end_among_quotes(self, data: bytes, end: int) -> int:
        if not self._regular(data):
            return self._end_by_reading(data[:end])
        quote = self.quotechar.encode()
        while end and data.count(quote, 0, end) % 2:
            opening = data.rfind(quote, 0, end)
            end = max(data.rfind(b"\n", 0, opening), data.rfind(b"\r", 0, opening)) + 1
        return end

    def _has_quotes(self, data: bytes) -> bool:
        return bool(self.quotechar) and self.quotechar.encode() in data

    def _regular(self, data: bytes) -> bool:
        """Whether counting quotes is exact for *data*, which begins with a record and may end anywhere."""
        parts = data.split(self.quotechar.encode())
        edges = (self.separator, b"\n", b"\r")
        if len(parts) > 1 and parts[0] and not parts[0].endswith(edges):
            return False
        last = len(parts) - 1
        return all(
            not text or (text.startswith(edges) and (place == last or text.endswith(edges)))
            for place, text in zip(range(2, last + 1, 2), parts[2::2], strict=True)
        )

    def _joined(self, lines: Sequence[bytes]) -> list[bytes]:
        """Lines joined where a line end stood in quotes; their quotes are regular."""
        return _merged(lines, self.quotechar.encode(), b"")

    def _read(self, data: bytes) -> Iterator[bytes]:
        """The lines of each record, as the authority cuts them."""
        taken: list[str] = []

        def noted() -> Iterator[str]:
            for line in _text_lines(data):
                taken.append(line)
                yield line

        for _ in self._rows(noted()):
            yield "".join(taken).encode(errors="surrogateescape")
            taken.clear()

    def _end_by_reading(self, data: bytes) -> int:
        records = list(self._read(data + _AFTER_LAST.encode()))
        return len(data) + 1 - len(records[-1])

    def _rows(self, lines: Any) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_FIELD)
        quoting: dict[str, Any] = {"quotechar": self.quotechar} if self.quotechar else {"quoting": csv.QUOTE_NONE}
        try:
            yield from csv.reader(lines, delimiter=self.delimiter, **quoting)
        except csv.Error as exc:
            raise MalformedCsv(str(exc)) from exc


def _text_lines(data: bytes) -> Iterator[str]:
    """Ended by LF, CRLF or CR, as the authority wants them; bytes that are no UTF-8 come back as they were."""
    return io.StringIO(data.decode(errors="surrogateescape"), newline="")


def _merged(pieces: Sequence[bytes], quote: bytes, between: bytes) -> list[bytes]:
    """*pieces* joined by *between* as long as a quote is open."""
    merged: list[bytes] = []
    opened: list[bytes] = []
    for piece in pieces:
        odd = piece.count(quote) % 2
        if not opened and not odd:
            merged.append(piece)
        elif opened and odd:
            merged.append(between.join([*opened, piece]))
            opened = []
        else:
            opened.append(piece)
    return [*merged, between.join(opened)] if opened else merged


WIRE: Final = Dialect()
"""What a prediction server reads and writes."""

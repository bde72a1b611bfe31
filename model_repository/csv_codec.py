"""
CSV in: UTF-8 or another charset, a header, commas, quotes as in RFC 4180, lines ended by LF, CRLF or CR.

The strict reader on the standard library's `csv` is the authority: it reads small bodies, and it decides whatever the
fast reader doubts. What it makes of every odd cell stands in docs/input-rules.md; one property test holds both to it.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Final

from model_repository.cells import MAX_COLUMNS, csv_converter, shown
from model_repository.charsets import Body, ByteStream, line_after, text_of, utf8_of
from model_repository.errors import MalformedBody, MissingColumns, UnknownPassthroughColumns, UnscorableValue
from model_repository.predictions import Keep
from model_repository.tables import Cell, Rows, Schema, Table

SMALL_BODY: Final = 16 * 1024
"""Up to this many bytes rows are faster than columns."""
BLOCK_BYTES: Final = 2 * 1024 * 1024
BLOCK_ROWS: Final = 8192
MAX_FIELD: Final = 16 * 1024 * 1024

csv.field_size_limit(MAX_FIELD)  # of the process; the default of 128 KiB is less than a text column may hold

_END: Final = ["\0", "\0"]
"""A record after the last one: it arrives as such unless a quote is still open. NUL is refused elsewhere."""
_END_LINE: Final = ("\0,\0",)

Record = list[str]


def read_csv_rows(body: Body, schema: Schema, keep: Keep = (), encoding: str = "utf-8") -> Rows:
    """
    A small table, row by row.

    Raises:
        MalformedBody: not a CSV with a header and rows; names the line.
        MissingColumns: features of *schema* are not in the header.
        UnknownPassthroughColumns: columns of *keep* are not in the header.
        UnscorableValue: a cell is not of its feature's type.
    """
    return CsvReader(schema).rows(body, keep, encoding)


def read_csv_tables(body: Body, schema: Schema, keep: Keep = (), encoding: str = "utf-8") -> Iterator[Table]:
    """
    A large table, block by block, with the same meaning and the same errors; its arrays may be read-only.

    An error may come after some blocks, so nothing should be answered before the last one was read.
    """
    return CsvReader(schema).tables(body, keep, encoding)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a header has what is wanted."""

    width: int
    cells: tuple[tuple[Callable[[str], Cell], int], ...]
    kept: tuple[tuple[str, int], ...]

    def rows(self, pairs: Sequence[tuple[Record, Sequence[Cell]]]) -> Rows:
        """Records and their cells, with the columns to pass through."""
        kept: dict[str, Sequence[str]] = {name: [record[at] for record, _ in pairs] for name, at in self.kept}
        return Rows([cells for _, cells in pairs], kept)


class CsvReader:
    """Reads tables of one schema."""

    def __init__(self, schema: Schema, block_bytes: int = BLOCK_BYTES) -> None:
        self._schema = schema
        self._converters = [(feature.name, csv_converter(feature)) for feature in schema.features]
        self._block_bytes = block_bytes
        self._layout_of_small = lru_cache(maxsize=8)(self._layout)  # clients rarely change their header

    def rows(self, body: Body, keep: Keep = (), encoding: str = "utf-8") -> Rows:
        """See `read_csv_rows`."""
        text = text_of(body, encoding)
        _refuse_nul(text)
        records = _records(io.StringIO(text, newline=""))
        layout = self._layout_of_small(tuple(_header(records)), keep)
        if not layout.kept:
            rows = Rows([cells for _, cells in self._cells(records, layout)])
        else:
            pairs = list(self._cells(records, layout))
            rows = layout.rows(pairs)
        if not rows.values:
            raise _no_rows()
        return rows

    def tables(self, body: Body, keep: Keep = (), encoding: str = "utf-8") -> Iterator[Table]:
        """See `read_csv_tables`."""
        # Here and not above: most servers never read a large body, and pyarrow takes 150 ms to import.
        from model_repository.arrow_csv import Doubt, arrow_tables

        data = utf8_of(body, encoding)
        _refuse_nul_bytes(data)
        header, start = _header_and_size(data)
        layout = self._layout(header, keep)
        kept = [name for name, _ in layout.kept]
        rows_done = 0
        try:
            for table in arrow_tables(data[start:], header, self._schema, kept, self._block_bytes):
                rows_done += table.n_rows
                yield table
        except Doubt:
            yield from self._strict_tables(data, layout, rows_done)

    def _strict_tables(self, data: memoryview, layout: _Layout, skip: int) -> Iterator[Table]:
        """The rest of a table, read by the authority."""
        records = _records(_lines(data))
        next(records)
        cells = self._cells(records, layout, skip)
        n_rows = skip
        while pairs := list(islice(cells, BLOCK_ROWS)):
            n_rows += len(pairs)
            yield Table.from_rows(layout.rows(pairs), self._schema)
        if not n_rows:
            raise _no_rows()

    def _layout(self, header: Sequence[str], keep: Keep) -> _Layout:
        if len(header) > MAX_COLUMNS:
            raise MalformedBody(f"{len(header)} columns, at most {MAX_COLUMNS} are read")
        places = {name: place for place, name in enumerate(header)}
        if len(places) != len(header):
            twice = Counter(header).most_common(1)[0][0]
            raise MalformedBody(f"column {shown(twice)} stands more than once in the header")
        if missing := [name for name, _ in self._converters if name not in places]:
            raise MissingColumns(missing)
        names = header if keep == "all" else dict.fromkeys(keep)
        if unknown := [name for name in names if name not in places]:
            raise UnknownPassthroughColumns(unknown)
        cells = tuple((convert, places[name]) for name, convert in self._converters)
        return _Layout(len(header), cells, tuple((name, places[name]) for name in names))

    def _cells(
        self, records: Iterator[tuple[int, Record]], layout: _Layout, skip: int = 0
    ) -> Iterator[tuple[Record, Sequence[Cell]]]:
        """Each record with its cells in the schema's order, but for the first *skip*."""
        for row, (line, record) in enumerate(records):
            if len(record) != layout.width:
                raise MalformedBody(f"line {line}: {len(record)} fields, expected {layout.width}")
            if row < skip:
                continue
            try:
                cells = [convert(record[place]) for convert, place in layout.cells]
            except ValueError:
                raise self._unscorable(record, row, layout) from None
            yield record, cells

    def _unscorable(self, record: Record, row: int, layout: _Layout) -> UnscorableValue:
        """Which of the cells it was: looked for only now, so that good rows cost nothing more."""
        for (name, _), (convert, place) in zip(self._converters, layout.cells, strict=True):
            try:
                convert(record[place])
            except ValueError as exc:
                return UnscorableValue(name, row, str(exc))
        raise AssertionError("no cell of this record is wrong")


def _records(lines: Iterable[str]) -> Iterator[tuple[int, Record]]:
    """Every record with the number of the physical line that it begins on; blank lines are none."""
    reader = csv.reader(chain(lines, _END_LINE))
    line = 1
    try:
        for record in reader:
            if record:
                if record[-1][-1:] == "\0":
                    if record == _END:
                        return
                    raise MalformedBody(f"line {line}: a quote is opened and never closed")
                yield line, record
            line = reader.line_num + 1
    except csv.Error as exc:
        raise MalformedBody(f"line {line}: {exc}") from exc


def _header(records: Iterator[tuple[int, Record]]) -> Record:
    for _, header in records:
        return header
    raise MalformedBody("the body is empty: expected a CSV with a header")


def _header_and_size(data: memoryview) -> tuple[Record, int]:
    """The header and how many bytes it takes."""
    taken: list[str] = []

    def noted() -> Iterator[str]:
        for line in _lines(data):
            taken.append(line)
            yield line

    header = _header(_records(noted()))
    return header, sum(len(line.encode()) for line in taken)


def _lines(data: memoryview) -> Iterator[str]:
    return io.TextIOWrapper(io.BufferedReader(ByteStream(data)), "utf-8", newline="")


def _refuse_nul(text: str) -> None:
    place = text.find("\0")
    if place >= 0:
        raise MalformedBody(f"line {line_after(text[:place])}: a NUL character")


def _refuse_nul_bytes(data: memoryview) -> None:
    body = data.obj
    assert isinstance(body, bytes | bytearray)
    if b"\0" in body:
        _refuse_nul(str(data, "utf-8"))


def _no_rows() -> MalformedBody:
    return MalformedBody("the table has a header but no rows")

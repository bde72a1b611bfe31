"""
Parquet in and out, a row group at a time.

A Parquet file cannot be continued: its footer knows every byte before it. So scored rows are kept as Arrow blocks, and
the file is written from them; rows are gathered to groups of `GROUP_ROWS`, so that the file is the same however its
rows came in chunks and however often the job was interrupted.
"""

import io
import struct
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from anyio import to_thread

from batch.dialect import WIRE, Dialect
from batch.errors import IntakeError, OutputError
from batch.formats.jsonl import json_text
from batch.formats.parquet_pages import page_sizes
from batch.formats.streams import is_gzip
from batch.layout import Layout
from batch.ports import Intake, SourceFile
from batch.records import Chunk, Position, Records

GROUP_ROWS: Final = 65_536
FOOTER_GUESS: Final = 64 * 1024
MAX_FOOTER_BYTES: Final = 64 * 1024**2
MAX_GROUP_BYTES: Final = 1024**3
"""A compressed row group is held in memory as a whole."""
MAX_PAGE_BYTES: Final = 64 * 1024**2
"""A page is unpacked as a whole; writers make them of about 1 MiB."""
_LENGTH: Final = struct.Struct("<Q")


class _Pieces(io.RawIOBase):
    """A file of which only some ranges are there."""

    def __init__(self, size: int, pieces: Mapping[int, bytes]) -> None:
        self._size = size
        self._pieces = pieces
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        size = self._size - self._place if size is None or size < 0 else size
        for start, piece in self._pieces.items():
            offset = self._place - start
            if 0 <= offset < len(piece) and offset + size <= len(piece):
                self._place += size
                return piece[offset : offset + size]
        raise OSError(f"bytes {self._place} to {self._place + size} were not fetched")


async def read_chunks(
    intake: Intake, number: int, start: Position, rows: int, output: Dialect, features: Sequence[str] | None
) -> AsyncGenerator[Chunk, None]:
    """
    The rows of file *number* from *start* on, about *rows* at a time.

    Raises:
        IntakeError: it is no Parquet file, or a row group is too large to be read.
    """
    file = intake.files[number]
    try:
        async with aclosing(_batches(intake, file, start.rows, rows)) as batches:
            async for batch in batches:
                end = Position(0, start.rows + batch.num_rows, 0)
                yield Chunk(number, start, end, ParquetRecords(batch, output, features), batch.nbytes)
                start = end
    except (pa.ArrowException, OSError) as exc:
        raise IntakeError(f"{file.name}: not a Parquet file that can be read: {exc}") from exc


async def _batches(intake: Intake, file: SourceFile, skip: int, rows: int) -> AsyncGenerator[pa.RecordBatch, None]:
    size, footer = await _footer(intake, file)
    at_end = {size - len(footer): footer}
    metadata = pq.read_metadata(_Pieces(size, at_end))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows <= skip:
            skip -= group.num_rows
            continue
        start, length = _extent(group)
        if length > MAX_GROUP_BYTES:
            raise IntakeError(f"{file.name}: row group {number} has {length} bytes, at most {MAX_GROUP_BYTES} are read")
        data = await intake.read_range(file, start, length)
        await to_thread.run_sync(_check_pages, file, number, group, memoryview(data), start)
        pieces = {start: data, **at_end}
        reader = pq.ParquetFile(_Pieces(size, pieces), metadata=metadata)
        for batch in reader.iter_batches(batch_size=rows, row_groups=[number]):
            wanted = batch.slice(skip)
            skip = max(0, skip - batch.num_rows)
            if wanted.num_rows:
                yield wanted


async def schema_of(intake: Intake, file: SourceFile) -> pa.Schema:
    """Names and types of the file's columns."""
    size, footer = await _footer(intake, file)
    try:
        return pq.read_schema(_Pieces(size, {size - len(footer): footer}))
    except (pa.ArrowException, OSError) as exc:
        raise IntakeError(f"{file.name}: not a Parquet file that can be read: {exc}") from exc


async def _footer(intake: Intake, file: SourceFile) -> tuple[int, bytes]:
    if is_gzip(file.name):
        raise IntakeError(f"{file.name}: a Parquet file is compressed inside, and is not read within .gz")
    size = file.size or 0
    if size < 12:
        raise IntakeError(f"{file.name}: not a Parquet file: it has {size} bytes")
    guess = min(size, FOOTER_GUESS)
    tail = await intake.read_range(file, size - guess, guess)
    if tail[-4:] != b"PAR1":
        raise IntakeError(f"{file.name}: not a Parquet file: it does not end in PAR1")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > min(size, MAX_FOOTER_BYTES):
        what = "longer than the file" if length > size else f"of {length} bytes, at most {MAX_FOOTER_BYTES} are read"
        raise IntakeError(f"{file.name}: not a Parquet file: its footer is {what}")
    return size, tail if length <= guess else await intake.read_range(file, size - length, length)


def _check_pages(file: SourceFile, number: int, group: Any, data: memoryview, start: int) -> None:
    """No page of the row group takes too much memory; *data* are its bytes from *start* of the file on."""
    for place in range(group.num_columns):
        column = group.column(place)
        begin = _begin(column) - start
        pages = page_sizes(data[begin : begin + column.total_compressed_size])
        try:
            largest = max(pages, default=0)
        except ValueError as exc:
            raise IntakeError(f"{file.name}: not a Parquet file that can be read: {exc}") from exc
        if largest > MAX_PAGE_BYTES:
            where = f"{file.name}: row group {number}, column {column.path_in_schema!r}"
            raise IntakeError(f"{where}: a page unpacks to {largest} bytes, at most {MAX_PAGE_BYTES} are read")


def _begin(column: Any) -> int:
    begin: int = column.dictionary_page_offset or column.data_page_offset
    return begin


def _extent(group: Any) -> tuple[int, int]:
    """Where a row group's bytes begin and how many they are."""
    columns = [group.column(number) for number in range(group.num_columns)]
    starts = [_begin(column) for column in columns]
    ends = [start + column.total_compressed_size for start, column in zip(starts, columns, strict=True)]
    return min(starts), max(ends) - min(starts)


@dataclass(frozen=True)
class ParquetRecords:
    """Rows of a Parquet file, or of a database."""

    batch: pa.RecordBatch
    output: Dialect
    features: Sequence[str] | None = None
    """The only columns that a request needs; None: not known."""

    @classmethod
    def none(cls, schema: pa.Schema, names: Sequence[str], output: Dialect) -> "ParquetRecords":
        """No rows, under other names."""
        return cls(pa.RecordBatch.from_pylist([], schema).rename_columns(list(names)), output)

    @property
    def names(self) -> Sequence[str]:
        """The schema's names."""
        names: list[str] = self.batch.schema.names
        return names

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def part(self, start: int, stop: int) -> "ParquetRecords":
        """Rows *start* to *stop*."""
        return ParquetRecords(self.batch.slice(start, stop - start), self.output, self.features)

    def take(self, rows: Sequence[int]) -> "ParquetRecords":
        """These rows."""
        return ParquetRecords(self.batch.take(pa.array(rows, pa.int64())), self.output, self.features)

    def followed_by(self, other: "ParquetRecords") -> "ParquetRecords":
        """These rows, then others."""
        batch = pa.Table.from_batches([self.batch, other.batch]).combine_chunks().to_batches()[0]
        return ParquetRecords(batch, self.output, self.features)

    def texts(self, names: Sequence[str]) -> list[list[str]]:
        """As text; null as nothing."""
        columns = [[text or "" for text in self._texts(name)] for name in names]
        return [list(row) for row in zip(*columns, strict=True)]

    def request(self) -> tuple[bytes, str]:
        """As CSV; missing values are empty."""
        wanted = [name for name in self.names if self.features is None or name in self.features]
        sink = pa.BufferOutputStream()
        columns = [_plain(self.batch.column(name)) for name in wanted]
        arrow_csv.write_csv(pa.table(columns, names=wanted), sink)
        body: bytes = sink.getvalue().to_pybytes()
        return body, "text/csv; charset=utf-8"

    def line_of(self, row: int) -> int | None:
        """A Parquet file has no lines."""
        return None

    def shown(self, row: int) -> dict[str, Any]:
        """Values as JSON has them, those it does not have as text."""
        values: dict[str, Any] = self.batch.slice(row, 1).to_pylist()[0]
        return {
            name: value if value is None or isinstance(value, bool | int | float | str) else str(value)
            for name, value in values.items()
        }

    def kept_fields(self, names: Sequence[str], *, ragged: bool = False) -> list[bytes]:
        """As text; null as nothing."""
        texts = [[self.output.field(text or "") for text in self._texts(name)] for name in names]
        return [self.output.separator.join(row) for row in zip(*texts, strict=True)]

    def kept_members(self, names: Sequence[str], keys: Sequence[bytes]) -> list[bytes]:
        """Numbers and booleans as such, anything else as text."""
        columns = [self._json(name) for name in names]
        return [
            b",".join(key + value for key, value in zip(keys, row, strict=True)) for row in zip(*columns, strict=True)
        ]

    def kept_columns(self, names: Sequence[str]) -> pa.Table:
        """As they are."""
        return pa.table([self.batch.column(name) for name in names], names=list(names))

    def _texts(self, name: str) -> list[str | None]:
        texts: list[str | None] = texts_of(self.batch.column(name)).to_pylist()
        return texts

    def _json(self, name: str) -> list[bytes]:
        texts = self._texts(name)
        kind = self.batch.schema.field(name).type
        bare = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
        return [_json_value(text, bare=bare) for text in texts]


def _json_value(text: str | None, *, bare: bool) -> bytes:
    if text is None or (bare and text in ("nan", "inf", "-inf")):
        return b"null"
    return text.encode() if bare else json_text(text)


def texts_of(column: pa.Array) -> pa.Array:
    """Values as text, null as null."""
    return pc.cast(_plain(column), pa.string())


def _plain(column: pa.Array) -> pa.Array:
    """A column that can be written as text: dictionaries decoded, nested values as Python shows them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column


@dataclass(frozen=True)
class ParquetWriter:
    """Scored rows as Arrow blocks, each led by its length."""

    texts: frozenset[int]

    def opening(self, layout: Layout) -> bytes:
        """Nothing: every block has its schema."""
        return b""

    def rows(
        self,
        layout: Layout,
        records: Records,
        answers: Sequence[bytes | None],
        problems: Mapping[int, str],
        first_row: int,
    ) -> bytes:
        """One block; arguments as `CsvWriter.rows` has them."""
        n_rows = len(answers)
        columns: list[Any] = []
        if layout.row_id:
            columns.append(pa.array(range(first_row, first_row + n_rows), pa.int64()))
        if layout.first:
            columns += records.kept_columns(layout.first).columns
        cells = [None if answer is None else WIRE.raw_cells(answer) for answer in answers]
        for place in layout.predictions:
            raw = [None if row is None or not row[place] else row[place] for row in cells]
            columns.append(self._predictions(place, raw))
        if layout.status:
            columns.append(pa.array([problems.get(row, "OK") for row in range(n_rows)], pa.string()))
        if layout.kept:
            columns += records.kept_columns(layout.kept).columns
        table = pa.table(columns, names=list(layout.names))
        if problems and not layout.status:
            table = table.filter(pa.array([row not in problems for row in range(n_rows)]))
        return block_of(table.combine_chunks())

    def _predictions(self, place: int, raw: Sequence[bytes | None]) -> pa.Array:
        if place in self.texts:
            return pa.array([None if text is None else WIRE.cells(text)[0] for text in raw], pa.string())
        return pa.array([None if text is None else float(text) for text in raw], pa.float64())


def block_of(table: pa.Table) -> bytes:
    """Rows as `Blocks` takes them; of none, their types."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return _LENGTH.pack(len(data)) + data


class _Sink(io.RawIOBase):
    """Takes bytes in order; they leave it in between."""

    def __init__(self) -> None:
        self._taken: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._taken.append(taken)
        self._place += len(taken)
        return len(taken)

    def drained(self) -> bytes:
        data = b"".join(self._taken)
        self._taken.clear()
        return data


class Blocks:
    """Gathers the blocks of `ParquetWriter`, in whatever pieces they come, to groups of `GROUP_ROWS` rows."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._tables: list[pa.Table] = []
        self._rows = 0

    def feed(self, data: bytes) -> None:
        """Take more."""
        for table in self.tables(data):
            self._tables.append(table)
            self._rows += table.num_rows

    def tables(self, data: bytes) -> Iterator[pa.Table]:
        """Take more; what is whole now as it came, instead of gathering it."""
        self._held += data
        yield from self._whole()

    def group(self) -> pa.Table | None:
        """The next whole group; None: not yet."""
        return self._taken(GROUP_ROWS) if self._rows >= GROUP_ROWS else None

    def rest(self, *, types: bool = False) -> pa.Table | None:
        """What makes no whole group; None: nothing. *types*: even if it has no rows."""
        return self._taken(self._rows) if self._rows or (types and self._tables) else None

    def _whole(self) -> Iterator[pa.Table]:
        while len(self._held) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._held)[0]
            if len(self._held) < end:
                return
            data = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield pa.ipc.open_stream(data).read_all()

    def _taken(self, n_rows: int) -> pa.Table:
        try:
            table = pa.concat_tables(self._tables)
        except (pa.ArrowException, ValueError) as exc:
            raise _differing(exc) from exc
        self._tables = [table.slice(n_rows)]
        self._rows -= n_rows
        return table.slice(0, n_rows).combine_chunks()


def _differing(exc: Exception) -> OutputError:
    return OutputError(f"rows of different types cannot stand in one Parquet file: {exc}")


class ParquetFile:
    """Turns the blocks of `ParquetWriter` into a Parquet file."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._sink = _Sink()
        self._writer: pq.ParquetWriter | None = None

    def feed(self, data: bytes) -> bytes:
        """Take blocks; what the file has more for them."""
        self._blocks.feed(data)
        while (table := self._blocks.group()) is not None:
            self._write_group(table)
        return self._sink.drained()

    def close(self) -> bytes:
        """The rest of the file."""
        if (table := self._blocks.rest(types=self._writer is None)) is not None:
            self._write_group(table)
        if self._writer is not None:
            self._writer.close()
        return self._sink.drained()

    def _write_group(self, table: pa.Table) -> None:
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._sink, table.schema)
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        except (pa.ArrowException, ValueError) as exc:
            raise _differing(exc) from exc

"""Files of an intake as chunks of rows, from any place in them."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from batch.chunk_size import ChunkSize
from batch.chunking import Boundaries, Cutter, RecordTooLong
from batch.dialect import Dialect
from batch.errors import IntakeError
from batch.formats import jsonl
from batch.formats.csv import CsvHeader, CsvRecords
from batch.formats.streams import text_from
from batch.ports import Intake, SourceFile, TableIntake
from batch.records import START, Chunk, Position, Records

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Reading:
    """How the files are to be read."""

    format: Literal["csv", "jsonl", "parquet"]
    dialect: Dialect
    encoding: str
    header: bool
    output: Dialect
    """The dialect of what is written."""
    features: Sequence[str] | None
    """The model's inputs in order, where the server tells them."""
    wanted: Sequence[str] = ()
    """Other columns that the job names."""


@dataclass(frozen=True)
class Source:
    """One file, opened: its columns are known."""

    names: Sequence[str]
    """Empty: the file is."""
    chunks: Callable[[Position], AsyncGenerator[Chunk, None]]
    no_rows: Records | None = None
    """What says its types where it has no row; None: nothing does."""


async def open_source(intake: Intake | TableIntake, number: int, reading: Reading, size: ChunkSize) -> Source:
    """
    File *number* of the intake.

    Raises:
        IntakeError: it cannot be read, or is not of its format.
    """
    file = intake.files[number]
    if isinstance(intake, TableIntake):
        from batch.formats.cursor import read_rows  # not before: pyarrow takes its time
        from batch.formats.parquet import ParquetRecords

        table = intake
        names = spelled(table.schema.names, (*(reading.features or ()), *reading.wanted))
        return Source(
            names,
            lambda start: read_rows(table, names, start, size, reading.output, reading.features),
            ParquetRecords.none(table.schema, names, reading.output),
        )
    if reading.format == "parquet":
        from batch.formats import parquet  # not before: pyarrow takes its time

        schema = await parquet.schema_of(intake, file)
        names = schema.names
        rows = size.rows_of(len(names))
        return Source(
            names,
            lambda start: parquet.read_chunks(intake, number, start, rows, reading.output, reading.features),
            parquet.ParquetRecords.none(schema, names, reading.output),
        )
    encoding = reading.encoding if reading.format == "csv" else "utf-8"
    text = _Text(intake, number, file, encoding, size)
    first, after = await text.first_record(reading)
    if reading.format == "jsonl":
        members = jsonl.members_of(first.strip()) or {}
        names = list(members)
        return Source(
            names or ["?"] if first else [],
            lambda start: text.chunks(
                start, jsonl.LINE_ENDS, lambda data: jsonl.JsonRecords.read(names, data, reading.output)
            ),
        )
    header = _header(reading, first, file)
    begin = after if reading.header else Position()
    return Source(
        header.names if first else [],
        lambda start: text.chunks(
            begin if start == START else start,
            reading.dialect,
            lambda data: CsvRecords.read(header, data, reading.output),
        ),
        CsvRecords.read(header, b"", reading.output)[0],
    )


def spelled(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """*columns* of a database, which may have changed the case of their letters, as somebody wants them."""
    taken = {*columns}
    lower = Counter(name.lower() for name in columns)
    meant = {name.lower(): name for name in reversed(wanted) if name not in taken}
    return [meant.get(name.lower(), name) if lower[name.lower()] == 1 else name for name in columns]


def _header(reading: Reading, first: bytes, file: SourceFile) -> CsvHeader:
    if reading.header:
        return CsvHeader.read(reading.dialect, first)
    if reading.features is None:
        raise IntakeError(
            f"{file.name}: csv_settings.header is false, so its columns are the model's features in order, "
            "but the server does not tell them on /info"
        )
    return CsvHeader.made(reading.dialect, reading.features)


@dataclass(frozen=True)
class _Text:
    """A file of records that end with their lines."""

    intake: Intake
    number: int
    file: SourceFile
    encoding: str
    size: ChunkSize

    async def first_record(self, reading: Reading) -> tuple[bytes, Position]:
        """The first record and the place after it; empty if there is none."""
        boundaries: Boundaries = reading.dialect if reading.format == "csv" else jsonl.LINE_ENDS
        async with aclosing(self._cut(START, boundaries, one=True)) as cut:
            async for data in cut:
                plain = data.removeprefix(BOM)
                records = reading.dialect.records(plain) if reading.format == "csv" else [plain]
                if records and records[0].strip():
                    return records[0], Position(len(data), 0, len(data.splitlines()))
        return b"", START

    async def chunks(
        self, start: Position, boundaries: Boundaries, records_of: Callable[[bytes], tuple[Records, int]]
    ) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._cut(start, boundaries)) as cut:
            async for data in cut:
                records, n_lines = records_of(data.removeprefix(BOM) if start.offset == 0 else data)
                end = Position(start.offset + len(data), start.rows + len(records), start.lines + n_lines)
                if len(records):
                    yield Chunk(self.number, start, end, records, len(data))
                start = end

    async def _cut(self, start: Position, boundaries: Boundaries, *, one: bool = False) -> AsyncGenerator[bytes, None]:
        cutter = Cutter(boundaries)
        count = 1 if one else None
        try:
            async with aclosing(text_from(self.intake, self.file, start.offset, self.encoding)) as text:
                async for block in text:
                    cutter.feed(block)
                    while (data := cutter.take(self.size.bytes, count or self.size.rows)) is not None:
                        yield data
            cutter.end()
            while (data := cutter.take(self.size.bytes, count or self.size.rows)) is not None:
                yield data
        except RecordTooLong as exc:
            raise IntakeError(f"{self.file.name}: after line {start.lines}: {exc}") from exc

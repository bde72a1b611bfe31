"""
A Parquet output in directories, one for each value of some columns: ``country=NO/part-00000.parquet``.

Rows are parted as they come into files on local disk, which become Parquet files one after the other in the end: so
only one of them is ever in memory, however many there are. A continued run parts its spool anew.
"""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from anyio import to_thread

from batch.errors import OutputError
from batch.formats.parquet import Blocks, ParquetFile, block_of, texts_of
from batch.ports import Output, Write
from batch.spool import BLOCK

MOST: Final = 1000
"""More directories than that are hardly meant: a column of numbers or names was chosen by mistake."""
LONGEST_NAME: Final = 255
"""Bytes in the name of a directory that any store takes."""
MISSING: Final = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null and, as no name can be empty, for an empty text."""


@asynccontextmanager
async def open_partitions(output: Output, place: Path, columns: Sequence[str]) -> AsyncIterator[Write]:
    """
    Takes blocks of `ParquetWriter`; on leaving, their rows are handed to *output*, without the *columns*.

    Args:
        place: a directory for this alone; it is emptied, and gone in the end.

    Raises:
        OutputError: too many different values, values too long for a name, or a file cannot be written.
    """
    parts = await to_thread.run_sync(Partitions, place, columns)

    async def write(data: bytes) -> None:
        await to_thread.run_sync(parts.feed, data)

    try:
        yield write
        await to_thread.run_sync(parts.close)
        for name, path in parts.files.items():
            async with output.open_file(f"{name}/part-00000.parquet") as to_file:
                await _convert(path, to_file)
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _convert(path: Path, write: Write) -> None:
    finish, start = ParquetFile(), 0
    while data := await to_thread.run_sync(_read, path, start):
        start += len(data)
        if made := await to_thread.run_sync(finish.feed, data):
            await write(made)
    await write(await to_thread.run_sync(finish.close))


def _read(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(BLOCK)


class Partitions:
    """Rows by the values of some columns, in files of blocks. Blocking: to be used on a worker thread."""

    def __init__(self, place: Path, columns: Sequence[str]) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._place = place
        self._columns = list(columns)
        self._blocks = Blocks()
        self.files: dict[str, Path] = {}
        """Directory in the output -> its rows."""

    def feed(self, data: bytes) -> None:
        """Part these blocks, many rows at a time."""
        self._blocks.feed(data)
        while (table := self._blocks.group()) is not None:
            self._part(table)

    def close(self) -> None:
        """Part what is left."""
        if (table := self._blocks.rest()) is not None:
            self._part(table)

    def _part(self, table: pa.Table) -> None:
        """Append each row to the file of its directory; rows of one directory keep their order."""
        names = directories(table, self._columns).dictionary_encode()
        numbers = names.indices.to_numpy()
        ordered = table.drop_columns(self._columns).take(pa.array(np.argsort(numbers, kind="stable")))
        start = 0
        for name, count in zip(names.dictionary.to_pylist(), np.bincount(numbers).tolist(), strict=True):
            path = self._file(name)
            try:
                with path.open("ab") as file:
                    file.write(block_of(ordered.slice(start, count)))
            except OSError as exc:
                raise OutputError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
            start += count

    def _file(self, name: str) -> Path:
        if name not in self.files:
            if len(self.files) == MOST:
                raise OutputError(f"partition_columns {', '.join(self._columns)}: more than {MOST} different values")
            if too_long := [part for part in name.split("/") if len(part) > LONGEST_NAME]:
                raise OutputError(f"partition_columns: the value is too long for a directory: {too_long[0][:60]}...")
            self.files[name] = self._place / f"{len(self.files):05d}"
        return self.files[name]


def directories(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """By row, where it belongs: ``<column>=<value>`` for each of *columns*, percent-encoded."""
    levels = [_level(name, table.column(name).combine_chunks()) for name in columns]
    return pc.binary_join_element_wise(*levels, "/")


def _level(name: str, column: pa.Array) -> pa.Array:
    values = pc.fill_null(texts_of(column), "").dictionary_encode()
    named = [f"{quote(name, safe='')}={quote(value, safe='') or MISSING}" for value in values.dictionary.to_pylist()]
    return pa.array(named, pa.string()).take(values.indices)

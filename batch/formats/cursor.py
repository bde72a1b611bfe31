"""
Rows of a database as chunks.

A cursor has no place to go back to. A continued run reads all rows again and passes over those that are done; a check
sum over their text shows that they are the same rows in the same order, without which some would be scored twice and
others never.
"""

import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as arrow_csv
from anyio import to_thread

from batch.chunk_size import ChunkSize
from batch.dialect import Dialect
from batch.errors import IntakeError, StateMismatch
from batch.formats.parquet import ParquetRecords
from batch.ports import TableIntake
from batch.records import Chunk, Position

SKIPPED_AT_ONCE = 10_000
_NO_HEADER = arrow_csv.WriteOptions(include_header=False)


async def read_rows(
    intake: TableIntake,
    names: Sequence[str],
    start: Position,
    size: ChunkSize,
    output: Dialect,
    features: Sequence[str] | None,
) -> AsyncGenerator[Chunk, None]:
    """
    The rows of *intake* behind *start*, its columns called *names*.

    Raises:
        IntakeError: they cannot be read.
        StateMismatch: the rows before *start* are others than when *start* was noted, or come in another order.
    """
    async with aclosing(intake.batches()) as batches:
        held = _Held(intake.files[0].name, batches)
        await _pass_over(held, start)
        place = start
        while (batch := await held.take(size.rows_of(len(intake.schema)))) is not None:
            check = await to_thread.run_sync(check_of, batch, place.check)
            end = Position(0, place.rows + batch.num_rows, 0, check)
            yield Chunk(
                0, place, end, ParquetRecords(batch.rename_columns(list(names)), output, features), batch.nbytes
            )
            place = end


async def _pass_over(held: "_Held", start: Position) -> None:
    passed = check = 0
    while passed < start.rows:
        batch = await held.take(min(SKIPPED_AT_ONCE, start.rows - passed))
        if batch is None:
            break
        check = await to_thread.run_sync(check_of, batch, check)
        passed += batch.num_rows
    if (passed, check) != (start.rows, start.check):
        raise StateMismatch(
            f"{held.name}: the {start.rows} rows that are done are not the first ones any more: they changed or come "
            "in another order; a query with ORDER BY over a unique key keeps it. --restart starts over"
        )


def check_of(batch: pa.RecordBatch, before: int) -> int:
    """The check sum of all rows up to the end of *batch*; the same however they came in batches."""
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(batch, sink, _NO_HEADER)
    return zlib.crc32(sink.getvalue(), before)


@dataclass
class _Held:
    """Batches of a cursor, cut anew."""

    name: str
    batches: AsyncGenerator[pa.RecordBatch, None]
    rest: pa.RecordBatch | None = None

    async def take(self, n_rows: int) -> pa.RecordBatch | None:
        """So many rows, fewer at the end; None: there are none left."""
        taken: list[pa.RecordBatch] = []
        wanted = n_rows
        while wanted:
            batch = self.rest if self.rest is not None else await anext(self.batches, None)
            if batch is None:
                break
            taken.append(batch.slice(0, wanted))
            self.rest = batch.slice(wanted) if batch.num_rows > wanted else None
            wanted -= taken[-1].num_rows
        if not taken:
            return None
        try:
            return taken[0] if len(taken) == 1 else pa.concat_batches(taken)
        except pa.ArrowException as exc:
            raise IntakeError(f"{self.name}: rows of different types: {exc}") from exc

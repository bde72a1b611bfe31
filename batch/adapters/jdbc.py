"""Any database, through its own JDBC driver and a JVM in this process."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pyarrow as pa
from anyio import to_thread

from batch.adapters._blocking import Threads
from batch.databases import JdbcIntake, JdbcOutput
from batch.jdbc.connections import Database
from batch.jdbc.reading import Reading
from batch.jdbc.writing import Writing
from batch.job import JdbcSettings
from batch.logs import LOG
from batch.ports import NOTHING_LEFT, Leftovers, SourceFile, TableIntake, TableOutput, WriteRows
from batch.settings import Credentials


@asynccontextmanager
async def open_intake(
    settings: JdbcIntake, connection: JdbcSettings, credentials: Credentials
) -> AsyncIterator[TableIntake]:
    """The query begun, and its columns known."""
    database = await to_thread.run_sync(Database.found, connection, credentials)
    reading = await to_thread.run_sync(Reading, database, settings)
    try:
        yield _Rows(reading)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(reading.close)


@dataclass(frozen=True)
class _Rows:
    """What `open_intake` gives."""

    reading: Reading

    @property
    def files(self) -> Sequence[SourceFile]:
        """One, for messages."""
        return (SourceFile(self.reading.what, None, None),)

    @property
    def schema(self) -> pa.Schema:
        """Of the result."""
        return self.reading.schema

    async def batches(self) -> AsyncGenerator[Any, None]:
        """Blocks, one read ahead; a cancellation does not wait for the database."""
        blocks = self.reading.blocks()
        while (block := await to_thread.run_sync(next, blocks, None)) is not None:
            batch: pa.RecordBatch | None = await to_thread.run_sync(block.result, abandon_on_cancel=True)
            if batch is not None:
                yield batch


@asynccontextmanager
async def open_output(
    settings: JdbcOutput, connection: JdbcSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[TableOutput]:
    """The table found, or seen to be makeable."""
    database = await to_thread.run_sync(Database.found, connection, credentials)
    writing = await to_thread.run_sync(Writing, database, settings, leftovers)
    try:
        yield _Target(writing)
        await to_thread.run_sync(writing.forget)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(writing.close)


@dataclass(frozen=True)
class _Target:
    """What `open_output` gives."""

    writing: Writing

    @asynccontextmanager
    async def open_table(self, run: str) -> AsyncIterator[WriteRows]:
        """One transaction, unless the job wants commits in between."""
        threads, writing = Threads(1), self.writing
        done = False
        try:
            await threads.do(writing.begin, run)

            async def write(rows: Any) -> None:
                await threads.do(writing.write, rows)

            yield write
            await threads.do(writing.commit)
            done = True
        finally:
            if not done:
                with anyio.CancelScope(shield=True):
                    await threads.do(writing.undo)
        if writing.missed:
            LOG.warning("%s: %d rows were not there to be updated", writing.what, writing.missed)

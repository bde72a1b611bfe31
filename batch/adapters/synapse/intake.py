"""Rows out of Synapse."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

from batch.adapters._staging import Marked, NoRows, Unload
from batch.adapters.synapse import statements
from batch.adapters.synapse.session import Rows, Session, connected
from batch.adapters.synapse.statements import TableName
from batch.adapters.synapse.storage import Storage, storage_of
from batch.databases import SynapseIntake
from batch.errors import IntakeError
from batch.job import JdbcSettings
from batch.ports import Intake, Leftovers, SourceFile, TableIntake
from batch.settings import Credentials


@dataclass(frozen=True)
class _Source:
    """What `open_intake` gives."""

    name: str
    rows: Rows

    @property
    def files(self) -> Sequence[SourceFile]:
        """The result."""
        return [SourceFile(self.name, None, None)]

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self.rows.schema

    def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows as they come."""
        return self.rows.batches()


def _name(settings: SynapseIntake) -> tuple[str, TableName]:
    table = TableName.of(settings.table or "", settings.schema)
    return ("query" if settings.query is not None else str(table)), table


@asynccontextmanager
async def open_intake(
    settings: SynapseIntake, connection: JdbcSettings, credentials: Credentials
) -> AsyncIterator[TableIntake]:
    """The rows of a table or query, straight; a data source that is named is looked at, and not used."""
    async with connected(connection.url, credentials, IntakeError) as session:
        await storage_of(session, settings, credentials, IntakeError)
        yield await _straight(session, settings)


async def _straight(session: Session, settings: SynapseIntake) -> _Source:
    shown, table = _name(settings)
    query = f"SELECT * FROM {table}" if settings.query is None else statements.bare_query(settings.query)
    rows = await session.rows(query)
    statements.check_columns(rows.schema, shown)
    return _Source(shown, rows)


@asynccontextmanager
async def open_unload(
    settings: SynapseIntake,
    connection: JdbcSettings,
    credentials: Credentials,
    leftovers: Leftovers,
    *,
    continues: bool,
) -> AsyncIterator[Intake | TableIntake]:
    """
    The files that the rows of a table or query were unloaded to; they are removed in the end.

    A query with an order is read straight, as the files of an unload have none.

    Args:
        continues: read what a killed run left, if it is the whole of the same rows.
    """
    async with connected(connection.url, credentials, IntakeError) as session:
        storage = await storage_of(session, settings, credentials, IntakeError)
        if storage is None or statements.is_ordered(settings.query):
            yield await _straight(session, settings)
            return
        for token in Marked(leftovers, "unload").found:
            await _drop(session, _External.of(token.split()[1], settings))
        source = statements.source(settings.query, _name(settings)[1])
        schema = (await session.rows(f"SELECT TOP 0 * FROM {source}")).schema
        statements.check_columns(schema, _name(settings)[0])
        unload = Unload(storage.depot, leftovers, f"{source} {schema}")
        async with unload.files(continues=continues) as place:

            async def copy() -> int:
                await _unloaded(session, storage, source, schema, _External.of(place, settings))
                return len(await storage.depot.names(place))

            async with unload.read(place, copy, NoRows(_name(settings)[0], schema)) as intake:
                yield intake


@dataclass(frozen=True)
class _External:
    """What the database needs for an unload: a table that leads to the files, and their format."""

    place: str
    run: str
    table: TableName

    @classmethod
    def of(cls, place: str, settings: SynapseIntake) -> "_External":
        """For files at *place*."""
        run = place.split("/")[1]
        return cls(place, run, TableName.of("", settings.schema).beside(run))


async def _unloaded(session: Session, storage: Storage, source: str, schema: pa.Schema, external: _External) -> None:
    try:
        await session.run(statements.create_format(external.run))
        await session.run(statements.unload(source, schema, external.table, storage.name, external.place, external.run))
    finally:
        await _drop(session, external)


async def _drop(session: Session, external: _External) -> None:
    """The files stay."""
    for sql in statements.drop_external(external.table, external.run):
        with suppress(IntakeError):
            await session.run(sql)

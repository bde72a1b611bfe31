"""Rows out of Snowflake."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pyarrow as pa

from batch.adapters._staging import NoRows, Unload
from batch.adapters.snowflake import by_driver, statements
from batch.adapters.snowflake.session import Session, connected, schema_of
from batch.adapters.snowflake.stage import stage_of
from batch.adapters.snowflake.statements import Column
from batch.databases import SnowflakeIntake
from batch.errors import IntakeError
from batch.job import JdbcSettings
from batch.ports import Intake, Leftovers, SourceFile, TableIntake
from batch.settings import Credentials


@dataclass(frozen=True)
class _Source:
    """A table or a query."""

    name: str
    """For messages."""
    sql: str
    """As it stands behind FROM."""
    query: str
    columns: Sequence[Column]


async def _source(session: Session, settings: SnowflakeIntake) -> _Source:
    if settings.query is not None:
        name, query = "query", statements.bare_query(settings.query)
        sql = statements.source(query, "")
    else:
        name = str(statements.TableName(settings.table or "", settings.schema, settings.catalog))
        sql, query = name, statements.rows(name)
    columns = await session.describe(query)
    statements.check_columns(columns, name)
    return _Source(name, sql, query, columns)


@dataclass(frozen=True)
class _Rows:
    """What `open_intake` gives."""

    session: Session
    source: _Source

    @property
    def files(self) -> Sequence[SourceFile]:
        """The result."""
        return [SourceFile(self.source.name, None, None)]

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return schema_of(self.source.columns)

    def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows as they come."""
        return self.session.batches(self.source.query, self.source.columns)


@asynccontextmanager
async def open_intake(
    settings: SnowflakeIntake, connection: JdbcSettings, credentials: Credentials
) -> AsyncIterator[Intake | TableIntake]:
    """The rows of a table or query, straight; a stage that is named is looked at, and not used."""
    if settings.external_stage is None and by_driver.is_brought(connection):
        async with by_driver.open_intake(settings, connection, credentials) as rows:
            yield rows
        return
    async with connected(connection.url, credentials, IntakeError) as session:
        await stage_of(session, settings, credentials, IntakeError)
        yield _Rows(session, await _source(session, settings))


@asynccontextmanager
async def open_unload(
    settings: SnowflakeIntake,
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
        stage = await stage_of(session, settings, credentials, IntakeError)
        source = await _source(session, settings)
        if stage is None or statements.is_ordered(settings.query):
            yield _Rows(session, source)
            return
        unload = Unload(stage.depot, leftovers, statements.unload(source.sql, source.columns, ""))
        async with unload.files(continues=continues) as place:

            async def copy() -> int:
                to = stage.path.at(f"{place}part")
                rows = await session.run(statements.unload(source.sql, source.columns, to))
                return int(rows[0][0])

            async with unload.read(place, copy, NoRows(source.name, schema_of(source.columns))) as intake:
                yield intake

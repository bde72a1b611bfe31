"""Rows into a table of Snowflake: files in a stage, loaded by one COPY INTO."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import pyarrow as pa
from anyio import TemporaryDirectory

from batch.adapters._staging import Marked, OpenFile, Parts, fresh_place, matched
from batch.adapters.snowflake import by_driver, statements
from batch.adapters.snowflake.session import Session, connected
from batch.adapters.snowflake.stage import Stage, stage_of
from batch.adapters.snowflake.statements import TableName
from batch.databases import STATEMENT_TYPES, SnowflakeOutput
from batch.errors import OutputError
from batch.job import JdbcSettings
from batch.ports import NOTHING_LEFT, Leftovers, TableOutput, Write, WriteRows
from batch.settings import Credentials

COMMENT: Final = "made by prediction-api batch, run"


@asynccontextmanager
async def open_output(
    settings: SnowflakeOutput, connection: JdbcSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[TableOutput]:
    """The table, seen to be one that takes rows in the way that *settings* say; and the stage, if they name one."""
    if settings.external_stage is None and by_driver.is_brought(connection):
        async with by_driver.open_output(settings, connection, credentials, leftovers) as output:
            yield output
        return
    async with connected(connection.url, credentials, OutputError) as session:
        stage = await stage_of(session, settings, credentials, OutputError)
        if stage is not None:
            for place in Marked(leftovers, "files").found:
                await stage.depot.remove(place)
            async with stage.depot.output(fresh_place(), Marked(leftovers, "upload")):
                pass  # it can be written
        name = TableName(settings.table, settings.schema, settings.catalog)
        table = _Table(session, settings, name, stage, leftovers)
        await table.look()
        yield table


@dataclass
class _Table:
    """What `open_output` gives."""

    session: Session
    settings: SnowflakeOutput
    name: TableName
    stage: Stage | None
    leftovers: Leftovers
    columns: Sequence[str] | None = None
    """Of the table; None: there is none yet."""
    done: str | None = None
    """A run whose rows are all in it."""

    async def look(self) -> None:
        """Find the table, or that there is none, and whether that is as it should be."""
        described = await self.session.find(f"DESCRIBE TABLE {self.name}")
        runs = Marked(self.leftovers, "load").found
        for run in runs:
            await self.session.run(f"DROP TABLE IF EXISTS {self.name.beside(run)}")
        if described is not None:
            self.columns = [str(row[0]) for row in described]
            loaded = [run for run in runs if await self._has_rows_of(run)]
            self.done = loaded[-1] if loaded else None
        if self.done is None:
            self._check()

    def _check(self) -> None:
        kind = STATEMENT_TYPES.get(self.settings.statement_type, self.settings.statement_type)
        makes = self.settings.create_table_if_not_exists
        if self.columns is None and kind == "insert" and not makes:
            raise OutputError(f'{self.name}: there is no such table; "create_table_if_not_exists": true would make it')
        if self.columns is not None and kind == "create_table" and not makes:
            raise OutputError(f"{self.name}: exists; statement_type insert would add to it")

    async def _has_rows_of(self, run: str) -> bool:
        """Whether a killed run loaded its files, but could not note it any more."""
        comments = await self.session.run(self.name.comments())
        if comments == [(f"{COMMENT} {run}",)]:
            return True
        return bool(await self.session.run(self.name.loaded_files(run)))

    @asynccontextmanager
    async def open_table(self, run: str) -> AsyncIterator[WriteRows]:
        """Rows into files; leaving normally loads them."""
        if run and run == self.done:
            yield _passed_over
            return
        run = run or secrets.token_hex(16)
        place = fresh_place(run)
        try:
            async with self._files(run, place) as open_file, Parts(open_file) as parts:
                yield lambda table: self._add(parts, table)
            if parts.schema is not None:
                with anyio.CancelScope(shield=True):  # of what is loaded, this machine must know
                    await self._load(parts, run, self._at(run, place))
        finally:
            if self.stage is not None:
                await self.stage.depot.remove(place)

    async def _add(self, parts: Parts, table: pa.Table) -> None:
        if parts.schema is None and self.columns is not None:
            parts.columns = matched(table.column_names, self.columns, str(self.name))
        await parts.add(table)

    async def _load(self, parts: Parts, run: str, place: str) -> None:
        """All rows or none; a table that is made has them when it appears."""
        Marked(self.leftovers, "load").note(run)
        if self.columns is not None:
            await self._copy(parts, f"{self.name}", place)
            return
        beside = self.name.beside(run)
        try:
            await self.session.run(statements.create(beside, parts.schema, f"{COMMENT} {run}"))
            await self._copy(parts, beside, place)
            await self.session.run(f"ALTER TABLE {beside} RENAME TO {self.name}")
        except BaseException:
            with suppress(OutputError):
                await self.session.run(f"DROP TABLE IF EXISTS {beside}")
            raise

    async def _copy(self, parts: Parts, table: str, place: str) -> None:
        if not parts.rows:
            return
        await self.session.run("BEGIN")
        try:
            rows = await self.session.run(statements.load(table, parts.columns, place))
            loaded = sum(int(row[3]) for row in rows if len(row) > 3)
            if loaded != parts.rows:
                raise OutputError(f"{self.name}: {parts.rows} rows were written, but {loaded} were loaded")
            await self.session.run("COMMIT")
        except BaseException:
            with suppress(OutputError):
                await self.session.run("ROLLBACK")
            raise

    @asynccontextmanager
    async def _files(self, run: str, place: str) -> AsyncIterator[OpenFile]:
        """Takes the files of a run; all of them are in the stage when it is left."""
        if self.stage is not None:
            Marked(self.leftovers, "files").note(place)
            async with self.stage.depot.output(place, Marked(self.leftovers, "upload")) as output:
                yield output.open_file
            return
        await self.session.run(f"CREATE OR REPLACE TEMPORARY STAGE {self.name.beside(run)}")  # it goes with the session
        async with TemporaryDirectory(prefix="prediction-api-") as home:
            yield _Sent(self.session, Path(home), self._at(run, place)).open_file

    def _at(self, run: str, place: str) -> str:
        return self.stage.path.at(place) if self.stage is not None else f"@{self.name.beside(run)}/{place}"


@dataclass(frozen=True)
class _Sent:
    """Files of this machine that are sent into an internal stage, one after the other."""

    session: Session
    home: Path
    place: str

    @asynccontextmanager
    async def open_file(self, name: str) -> AsyncIterator[Write]:
        """Bytes for a file; leaving normally sends it."""
        path = anyio.Path(self.home / name)
        async with await path.open("wb") as file:

            async def write(data: bytes) -> None:
                await file.write(data)

            yield write
        await self.session.put(Path(path), self.place)
        await path.unlink()


async def _passed_over(table: pa.Table) -> None:
    """It is there already."""

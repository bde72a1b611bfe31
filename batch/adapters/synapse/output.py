"""
Rows into a table of Synapse.

They are collected in a table beside it. Then that one gets the table's name, or its rows move into the table in one
transaction, in which it becomes empty: so whoever continues a killed run can see whether they moved.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import pyarrow as pa
import pyarrow.compute as pc

from batch.adapters._staging import Marked, Parts, fresh_place, matched
from batch.adapters.synapse import statements
from batch.adapters.synapse.session import Session, connected
from batch.adapters.synapse.statements import TableName
from batch.adapters.synapse.storage import Storage, access, storage_of
from batch.databases import STATEMENT_TYPES, SynapseOutput
from batch.errors import OutputError
from batch.job import JdbcSettings
from batch.ports import NOTHING_LEFT, Leftovers, TableOutput, WriteRows
from batch.settings import Credentials


@asynccontextmanager
async def open_output(
    settings: SynapseOutput, connection: JdbcSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[TableOutput]:
    """The table, seen to be one that takes rows as *settings* say; and the data source, if they name one."""
    async with connected(connection.url, credentials, OutputError) as session:
        storage = await storage_of(session, settings, credentials, OutputError)
        if storage is not None:
            if access(credentials) is None:
                raise OutputError("AZURE_CONNECTION_STRING: expected an AccountKey or a SharedAccessSignature in it")
            for place in Marked(leftovers, "files").found:
                await storage.depot.remove(place)
            async with storage.depot.output(fresh_place(), Marked(leftovers, "upload")):
                pass  # it can be written
        table = _Table(session, settings, storage, credentials, leftovers)
        await table.look()
        yield table


@dataclass
class _Table:
    """What `open_output` gives."""

    session: Session
    settings: SynapseOutput
    storage: Storage | None
    credentials: Credentials
    leftovers: Leftovers
    columns: Sequence[str] = ()
    """Of the table; none: there is none yet."""
    done: str | None = None
    """A run whose rows are all in it."""
    name: TableName = field(init=False)

    def __post_init__(self) -> None:
        self.name = TableName.of(self.settings.table, self.settings.schema)

    async def look(self) -> None:
        """Find the table, or that there is none, and whether that is as it should be."""
        self.columns = await self._columns_of(self.name)
        for run in dict.fromkeys(Marked(self.leftovers, "run").found):
            beside = self.name.beside(run)
            is_there = bool(await self._columns_of(beside))
            if self.columns and self._had_all(run) and (not is_there or not await self._count(beside)):
                self.done = run
            elif is_there:
                self._rows.note(f"none {run}")
            if is_there:
                await self.session.run(f"DROP TABLE {beside}")
        if self.done is None:
            self._check()

    @property
    def _rows(self) -> Marked:
        """Which runs had all rows beside the table, and which took that back; the last word counts."""
        return Marked(self.leftovers, "rows")

    def _had_all(self, run: str) -> bool:
        words = [token.split()[0] for token in self._rows.found if token.split()[1] == run]
        return words[-1:] == ["all"]

    async def _columns_of(self, table: TableName) -> list[str]:
        return [str(row[0]) for row in await self.session.run(table.columns())]

    async def _count(self, table: TableName) -> int:
        return int((await self.session.run(f"SELECT COUNT_BIG(*) FROM {table}"))[0][0])

    def _check(self) -> None:
        kind = STATEMENT_TYPES.get(self.settings.statement_type, self.settings.statement_type)
        makes = self.settings.create_table_if_not_exists
        if not self.columns and kind == "insert" and not makes:
            raise OutputError(f'{self.name}: there is no such table; "create_table_if_not_exists": true would make it')
        if self.columns and kind == "create_table" and not makes:
            raise OutputError(f"{self.name}: exists; statement_type insert would add to it")

    @asynccontextmanager
    async def open_table(self, run: str) -> AsyncIterator[WriteRows]:
        """Rows into a table beside; leaving normally moves them."""
        if run and run == self.done:
            yield _passed_over
            return
        run = run or secrets.token_hex(16)
        beside = _Beside(self, run)
        Marked(self.leftovers, "run").note(run)
        try:
            async with beside.filled() as add:
                yield add
            if beside.schema is not None:
                with anyio.CancelScope(shield=True):  # of what is loaded, this machine must know
                    await beside.load()
                    await self._finish(beside)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._undo(beside)
            raise
        finally:
            if self.storage is not None:
                await self.storage.depot.remove(beside.place)

    async def _finish(self, beside: "_Beside") -> None:
        count = await self._count(beside.name)
        if count != beside.rows:
            raise OutputError(f"{self.name}: {beside.rows} rows were written, but {count} were loaded")
        self._rows.note(f"all {beside.run}")
        if not self.columns:
            await self.session.run(f"RENAME OBJECT {beside.name} TO {statements.name(self.name.table)}")
            return
        await self.session.run("BEGIN TRANSACTION")
        await self.session.run(statements.move(self.name, beside.into, beside.name, beside.names), has_values=True)
        await self.session.run(f"DELETE FROM {beside.name}")
        await self.session.run("COMMIT TRANSACTION")
        with suppress(OutputError):  # the rows are there
            await self.session.run(f"DROP TABLE {beside.name}")

    async def _undo(self, beside: "_Beside") -> None:
        self._rows.note(f"none {beside.run}")
        for sql in ("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION", f"DROP TABLE {beside.name}"):
            with suppress(OutputError):
                await self.session.run(sql)


@dataclass
class _Beside:
    """A table that collects the rows of one run."""

    target: _Table
    run: str
    rows: int = 0
    schema: pa.Schema | None = None
    into: Sequence[str] = ()
    """Columns of the target."""

    @property
    def name(self) -> TableName:
        """Beside the target."""
        return self.target.name.beside(self.run)

    @property
    def names(self) -> list[str]:
        """Of its columns."""
        return list(self.schema.names) if self.schema is not None else []

    @property
    def place(self) -> str:
        """Of its files."""
        return fresh_place(self.run)

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[WriteRows]:
        """Takes rows: into files, or at once into the table."""
        storage, leftovers = self.target.storage, self.target.leftovers
        if storage is None:
            yield self._insert
            return
        Marked(leftovers, "files").note(self.place)
        async with (
            storage.depot.output(self.place, Marked(leftovers, "upload")) as output,
            Parts(output.open_file) as parts,
        ):

            async def add(table: pa.Table) -> None:
                self._know(table)
                await parts.add(as_loaded(table))
                self.rows += table.num_rows

            yield add

    def _know(self, table: pa.Table) -> bool:
        """The first rows say which columns there are."""
        if self.schema is not None:
            return False
        self.schema = table.schema
        if self.target.columns:
            self.into = matched(table.column_names, self.target.columns, str(self.target.name))
        return True

    async def _insert(self, table: pa.Table) -> None:
        if self._know(table):
            await self._create()
        for sql in statements.inserts(self.name, table):
            await self.target.session.run(sql, has_values=True)
        self.rows += table.num_rows

    async def _create(self) -> None:
        assert self.schema is not None
        await self.target.session.run(statements.create(self.name, self.schema))

    async def load(self) -> None:
        """The files into the table."""
        storage = self.target.storage
        if storage is None:
            return
        identity, secret = access(self.target.credentials) or ("", "")
        await self._create()
        if not self.rows:
            return
        sql = statements.load(self.name, self.names, f"{storage.depot.url}{self.place}", identity, secret)
        await self.target.session.run(sql, has_values=True)


def as_loaded(table: pa.Table) -> pa.Table:
    """Values as COPY reads them where Arrow writes them in another way: 1 and 0, and offsets of times."""
    columns = [_as_loaded(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _as_loaded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(column.type):
        return pc.cast(column, pa.int8())
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return pc.strftime(pc.cast(column, pa.timestamp("us", "UTC")), format="%Y-%m-%d %H:%M:%S+00:00")
    return column


async def _passed_over(table: pa.Table) -> None:
    """It is there already."""

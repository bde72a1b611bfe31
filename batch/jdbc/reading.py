"""Rows of a query, block by block; several queries side by side where a read is split."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from threading import Timer
from typing import Any, Final

import jpype
import pyarrow as pa

from batch.databases import JdbcIntake
from batch.errors import IntakeError
from batch.jdbc import jvm
from batch.jdbc.columns import Column, batch_from, columns_of
from batch.jdbc.connections import Connection, Database
from batch.jdbc.copying import copy_of, end_copy
from batch.jdbc.statements import bound_from, partitions

ROWS: Final = 8192
BUDGET: Final = 4 * 1024 * 1024
"""Rows, or about so many bytes, of a block."""
AT_ONCE: Final = 8
"""Connections that read one table."""


@dataclass
class Cursor:
    """One query that is being read. Blocking."""

    connection: Connection
    what: str
    columns: Sequence[Column]
    cancel: Callable[[], None]
    reader: Any

    @classmethod
    def opened(cls, connection: Connection, sql: str, what: str, seconds: int) -> "Cursor":
        """Run *sql* where it cannot write; raises `IntakeError`."""
        template, java = connection.template, connection.java
        with jvm.translated(IntakeError, what, connection.database.settings.url):
            java.setReadOnly(True)
            for setting in template.before_reading:
                connection.run(setting)
            java.setAutoCommit(False)  # some drivers stream only inside of a transaction
            if template.copies and hasattr(java, "getCopyAPI"):
                patience = _alarm(java.cancelQuery, seconds)
                try:
                    copy = copy_of(connection, sql)
                    if copy is not None:
                        columns, stream = copy
                        reader = jvm.bridge().CopyReader(stream, *_kinds_and_names(columns), ROWS, BUDGET)
                        reader.skipHeader()
                        return cls(connection, what, columns, lambda: end_copy(connection), reader)
                finally:
                    patience.cancel()
            statement = java.prepareStatement(sql)
            statement.setFetchSize(template.fetch_size)
            if seconds:
                statement.setQueryTimeout(seconds)
            rows = statement.executeQuery()
            columns = columns_of(jvm.bridge(), rows.getMetaData())
            reader = jvm.bridge().Reader(rows, *_kinds_and_names(columns), ROWS, BUDGET, template.adapts)
        return cls(connection, what, columns, statement.cancel, reader)

    def block(self) -> pa.RecordBatch | None:
        """The next rows; None: there are no more. Raises `IntakeError`."""
        names = tuple(column.name for column in self.columns)
        with jvm.translated(IntakeError, self.what, self.connection.database.settings.url, names):
            count = int(self.reader.next())
            return batch_from(self.reader, self.columns, count) if count else None

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.connection.cancel_and_close(self.cancel)


def _alarm(cancel: Callable[[], None], seconds: int) -> Timer:
    timer = Timer(seconds, cancel)
    timer.daemon = True
    if seconds:
        timer.start()
    return timer


def _kinds_and_names(columns: Sequence[Column]) -> tuple[Any, Any]:
    kinds = jpype.JArray(jpype.JInt)([column.kind for column in columns])
    return kinds, jpype.JArray(jpype.JString)([column.name for column in columns])


class Reading:
    """A table or a query. Blocking, but for the blocks that are read ahead, one for each part."""

    def __init__(self, database: Database, settings: JdbcIntake) -> None:
        """Begin; raises `IntakeError`."""
        self._database = database
        self._seconds = settings.query_timeout
        self.what = f"table {settings.table!r}" if settings.table else "query"
        self._open: list[Cursor] = []
        self._pool = ThreadPoolExecutor(AT_ONCE, "jdbc")
        first = database.connect(IntakeError, database.template.for_reading)
        try:
            with jvm.translated(IntakeError, self.what, database.settings.url):
                self._queries = iter(_queries(first, settings))
            self._first: Cursor | None = self._cursor(next(self._queries), first)
        except BaseException:
            first.cancel_and_close()
            raise
        self.schema = pa.schema([(column.name, column.type) for column in self._first.columns])

    def blocks(self) -> Iterator["Future[pa.RecordBatch | None]"]:
        """In an order that is the same every time: one block of each part in turn."""
        parts = [self._pool.submit(self._started, self._first)]
        parts += [self._pool.submit(self._cursor, sql) for sql in islice(self._queries, AT_ONCE - 1)]
        cursors = [part.result() for part in parts]
        ahead = [(cursor, self._pool.submit(cursor.block)) for cursor in cursors]
        while ahead:
            cursor, block = ahead.pop(0)
            yield block
            if block.result() is not None:
                ahead.append((cursor, self._pool.submit(cursor.block)))
                continue
            cursor.close()
            for sql in islice(self._queries, 1):
                following = self._cursor(sql)
                ahead.append((following, self._pool.submit(following.block)))

    def _started(self, cursor: Cursor | None) -> Cursor:
        if cursor is None:
            raise IntakeError(f"{self.what}: a cursor is read once")
        return cursor

    def _cursor(self, sql: str, connection: Connection | None = None) -> Cursor:
        connection = connection or self._database.connect(IntakeError, self._database.template.for_reading)
        try:
            cursor = Cursor.opened(connection, sql, self.what, self._seconds)
        except BaseException:
            connection.cancel_and_close()
            raise
        self._open.append(cursor)
        return cursor

    def close(self) -> None:
        """End all of it."""
        for cursor in self._open:
            with suppress(Exception):
                cursor.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _queries(connection: Connection, settings: JdbcIntake) -> list[str]:
    if settings.query is not None:
        whole = settings.query.strip().rstrip(";") + "\n"  # its last line may be a comment
        source = f"({whole}) parted"
    else:
        table = connection.find(settings.catalog, settings.schema, settings.table or "")
        if table is None:
            raise IntakeError(f"table {settings.table!r}: there is no such table{_hint(settings.table or '')}")
        source = table.qualified
        whole = f"SELECT * FROM {source}"  # noqa: S608
    if settings.partition_column is None or settings.lower_bound is None or settings.upper_bound is None:
        return [whole]
    column = connection.names.quoted(_column(connection, f"SELECT * FROM {source} WHERE 1 = 0", settings))  # noqa: S608
    low, high = bound_from(settings.lower_bound), bound_from(settings.upper_bound)
    conditions = partitions(column, low, high, settings.num_partitions or 1, connection.template.moment)
    return [f"SELECT * FROM {source} WHERE {condition}" if condition else whole for condition in conditions]  # noqa: S608


def _column(connection: Connection, sql: str, settings: JdbcIntake) -> str:
    wanted = settings.partition_column or ""
    with connection.java.prepareStatement(sql) as statement, statement.executeQuery() as rows:
        names = [str(name) for name, _ in jvm.bridge().namesOf(rows.getMetaData())]
    found = [name for name in names if name == wanted] or [name for name in names if name.lower() == wanted.lower()]
    if not found:
        raise IntakeError(f"partition_column: there is no column {wanted!r}; there are {', '.join(names)}")
    return found[0]


def _hint(table: str) -> str:
    return "; schema and catalog are keys of their own" if "." in table else ""

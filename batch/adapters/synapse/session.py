"""
A connection to a SQL pool, through Microsoft's own driver.

The driver blocks, so every call runs on a thread, one at a time. Its errors become ours here, without secrets
or values of rows in them.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import mssql_python
import pyarrow as pa
from mssql_python.exceptions import Error

from batch.adapters._blocking import Threads
from batch.adapters.synapse.address import Address
from batch.errors import AdapterUnavailable, BatchError
from batch.settings import Credentials

_ROWS: Final = 20_000
_LOGIN_SECONDS: Final = 30
_VALUES: Final = re.compile(r"'.*'|(?<=value is )\(.*\)|(?<=Value: ).*", re.DOTALL)
_PLACE: Final = re.compile(r"^(?:\[[^\]]*\])+")


class Session:
    """A connection; *error* is what its failures are."""

    def __init__(self, connection: Any, where: str, error: type[BatchError]) -> None:
        self._connection = connection
        self._threads = Threads(1)
        self._where = where
        self._error = error

    async def run(self, sql: str, *, has_values: bool = False) -> list[tuple[Any, ...]]:
        """
        The rows that a statement answers with; a cancellation waits for its end.

        Args:
            has_values: errors may quote values of rows, or a secret: they are told without what is quoted.
        """
        return await self._threads.do(self._run, sql, has_values)

    def _run(self, sql: str, has_values: bool) -> list[tuple[Any, ...]]:
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute(sql)
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            finally:
                cursor.close()
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc, has_values=has_values)}") from None

    async def rows(self, sql: str) -> "Rows":
        """A query that is carried out, its rows not fetched yet."""
        return await self._threads.do(self._rows, sql)

    def _rows(self, sql: str) -> "Rows":
        try:
            cursor = self._connection.cursor()
            cursor.execute(sql)
            return Rows(self, cursor, cursor.arrow_reader(_ROWS))
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None
        except RuntimeError:
            raise self._error(f"{self._where}: the query has no result") from None

    async def next_of(self, reader: Any) -> pa.RecordBatch | None:
        """The next rows of a query."""
        return await self._threads.look(self._next, reader)

    def _next(self, reader: Any) -> pa.RecordBatch | None:
        try:
            return next(iter(reader), None)
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None


class Rows:
    """The result of a query."""

    def __init__(self, session: Session, cursor: Any, reader: Any) -> None:
        self._session = session
        self._cursor = cursor
        self._reader = reader

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        schema: pa.Schema = self._reader.schema
        return schema

    @property
    def columns(self) -> Sequence[str]:
        """Names, in order."""
        names: list[str] = self.schema.names
        return names

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows as they come."""
        while (batch := await self._session.next_of(self._reader)) is not None:
            if batch.num_rows:
                yield batch


@asynccontextmanager
async def connected(url: str, credentials: Credentials, error: type[BatchError]) -> AsyncIterator[Session]:
    """
    A session at *url*, closed in the end.

    Raises:
        BatchError: an *error*: the pool cannot be reached, or does not let this user in.
        JobError: the URL is none for SQL Server.
        AdapterUnavailable: libraries that the driver needs are not installed.
    """
    address = Address.of(url)
    if not credentials.synapse_username or not credentials.synapse_password:
        raise error(f"{address.host}: no credentials; set SYNAPSE_USERNAME and SYNAPSE_PASSWORD")
    threads = Threads(1)
    said = address.connection_string(credentials.synapse_username, credentials.synapse_password)
    connection = await threads.do(_connection, address, said, error)
    try:
        yield Session(connection, address.host, error)
    finally:
        with anyio.CancelScope(shield=True):
            await threads.do(_close, connection)


def _connection(address: Address, said: str, error: type[BatchError]) -> Any:
    try:
        return mssql_python.connect(said, autocommit=True, timeout=_LOGIN_SECONDS)
    except (Error, RuntimeError) as exc:
        text = str(exc)
        if "load the driver" in text:
            raise AdapterUnavailable(
                "the driver for Synapse cannot be loaded; on Debian it needs the packages "
                "libltdl7, libkrb5-3 and libgssapi-krb5-2"
            ) from None
        raise error(f"{address.host}: {in_words(exc)}") from None


def _close(connection: Any) -> None:
    try:
        connection.close()
    except Error:  # the server ends it by itself
        return


def in_words(exc: Exception, *, has_values: bool = False) -> str:
    """What the server says, on one line."""
    said = _PLACE.sub("", str(getattr(exc, "ddbc_error", None) or exc))
    said = re.sub(r"(?i)\bsecret\s*=\s*N?'(?:[^']|'')*'?", "SECRET = ***", said)
    return " ".join((_VALUES.sub("***", said) if has_values else said).split())

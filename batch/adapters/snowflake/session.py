"""
A connection to Snowflake, through its own connector.

The connector blocks, so every call runs on a thread, one at a time. Its errors become ours here, without values of rows
in them.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pyarrow as pa
import pyarrow.compute as pc
import snowflake.connector
from snowflake.connector.constants import FIELD_ID_TO_NAME
from snowflake.connector.errors import Error

from batch.adapters._blocking import Threads
from batch.adapters.snowflake.address import Address
from batch.adapters.snowflake.statements import Column, text
from batch.errors import BatchError
from batch.settings import Credentials

NO_SUCH_OBJECT: Final = 2003
"""Or none that the role may see."""
_VALUES: Final = range(100_000, 101_000)
"""Numbers of errors about values; their texts quote them."""
_QUOTED_VALUE: Final = re.compile(r"'.*'|(?<=\bvalue )[^'*\s]\S*", re.DOTALL)
_LOGIN_SECONDS: Final = 30
_ANSWER_SECONDS: Final = 300
"""For one answer, however often it is asked for; a statement may run longer."""
_SESSION: Final = {
    "TIMEZONE": "UTC",
    "DATE_INPUT_FORMAT": "AUTO",
    "TIME_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "BINARY_INPUT_FORMAT": "HEX",
    "QUERY_TAG": "prediction-api batch",
    "CLIENT_TELEMETRY_ENABLED": False,
}
_INT64_DIGITS: Final = 18


class Session:
    """A connection; *error* is what its failures are."""

    def __init__(self, connection: Any, where: str, error: type[BatchError]) -> None:
        self._connection = connection
        self._threads = Threads(1)
        self._where = where
        self._error = error

    async def run(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a statement answers with; a cancellation waits for its end."""
        return await self._threads.do(self._run, sql)

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            with self._connection.cursor() as cursor:
                return list(cursor.execute(sql).fetchall())
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None

    async def find(self, sql: str) -> list[tuple[Any, ...]] | None:
        """The same of a statement about something that may not be there; None: it is not."""
        return await self._threads.do(self._find, sql)

    def _find(self, sql: str) -> list[tuple[Any, ...]] | None:
        try:
            with self._connection.cursor() as cursor:
                return list(cursor.execute(sql).fetchall())
        except Error as exc:
            if exc.errno == NO_SUCH_OBJECT:
                return None
            raise self._error(f"{self._where}: {in_words(exc)}") from None

    async def describe(self, sql: str) -> list[Column]:
        """The columns of a query, which is not run."""
        return await self._threads.look(self._describe, sql)

    def _describe(self, sql: str) -> list[Column]:
        try:
            with self._connection.cursor() as cursor:
                described = cursor.describe(sql)
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None
        return [Column(row.name, FIELD_ID_TO_NAME[row.type_code], row.precision, row.scale) for row in described]

    async def batches(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of a query as they come, with the types that *columns* say."""
        schema = schema_of(columns)
        with self._connection.cursor() as cursor:
            parts = await self._threads.look(self._parts, cursor, sql)
            while (part := await self._threads.look(self._next, parts, schema)) is not None:
                for batch in part.to_batches():
                    if batch.num_rows:
                        yield batch

    def _parts(self, cursor: Any, sql: str) -> Any:
        try:
            return iter(cursor.execute(sql).fetch_arrow_batches(force_microsecond_precision=True))
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None

    def _next(self, parts: Any, schema: pa.Schema) -> pa.Table | None:
        try:
            part = next(parts, None)
        except Error as exc:
            raise self._error(f"{self._where}: {in_words(exc)}") from None
        return None if part is None else _typed(part, schema)

    async def put(self, file: Path, place: str) -> None:
        """A file of this machine into an internal stage, as it is."""
        source = text(f"file://{file}")
        await self.run(f"PUT {source} {place} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP OVERWRITE = TRUE")


@asynccontextmanager
async def connected(url: str, credentials: Credentials, error: type[BatchError]) -> AsyncIterator[Session]:
    """
    A session at *url*, closed in the end.

    Raises:
        BatchError: an *error*: the account cannot be reached, or does not let this user in.
        JobError: the URL is none for Snowflake.
    """
    address = Address.of(url)
    if not credentials.snowflake_username or not credentials.snowflake_password:
        raise error(f"{address.host}: no credentials; set SNOWFLAKE_USERNAME and SNOWFLAKE_PASSWORD")
    threads = Threads(1)
    connection = await threads.do(_connection, address, credentials, error)
    try:
        yield Session(connection, address.host, error)
    finally:
        with anyio.CancelScope(shield=True):
            await threads.do(_close, connection)


def _connection(address: Address, credentials: Credentials, error: type[BatchError]) -> Any:
    try:
        return snowflake.connector.connect(
            user=credentials.snowflake_username,
            password=credentials.snowflake_password,
            account=address.account,
            host=address.host,
            port=address.port,
            protocol="https" if address.secure else "http",
            login_timeout=_LOGIN_SECONDS,
            network_timeout=_ANSWER_SECONDS,
            session_parameters=_SESSION,
            application="prediction_api_batch",
            arrow_number_to_decimal=True,
            platform_detection_timeout_seconds=0.0,  # asks no metadata service who this machine is
            **address.session,
        )
    except Error as exc:
        raise error(f"{address.host}: {in_words(exc)}") from None


def _close(connection: Any) -> None:
    try:
        connection.close()
    except Error:  # the service ends it by itself
        return


def in_words(exc: Error) -> str:
    """What the service says, on one line, without the values that it says it about."""
    said = str(getattr(exc, "raw_msg", None) or exc.msg or type(exc).__name__)
    if exc.errno in _VALUES:
        head, place, rest = said.rpartition("\n  File '")
        said = _QUOTED_VALUE.sub("***", head if place else rest)
        where = re.match(r"([^']*)', line (\d+)", rest) if place else None
        said += f" (file {where[1].rpartition('/')[2]}, line {where[2]})" if where else ""
    return " ".join(said.split())


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """Names and types of rows."""
    return pa.schema([(column.name, arrow_type(column)) for column in columns])


def arrow_type(column: Column) -> pa.DataType:
    """What a column's values become."""
    if column.kind == "FIXED":
        whole = not column.scale and (column.precision or 38) <= _INT64_DIGITS
        return pa.int64() if whole else pa.decimal128(column.precision or 38, column.scale or 0)
    types = {
        "REAL": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "DATE": pa.date32(),
        "TIMESTAMP_NTZ": pa.timestamp("us"),
        "TIMESTAMP_LTZ": pa.timestamp("us", "UTC"),
        "TIMESTAMP_TZ": pa.timestamp("us", "UTC"),
    }
    return types.get(column.kind, pa.string())


def _typed(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Numbers come in the smallest type that holds those of a part; here all parts get the same one."""
    columns = [pc.cast(part.column(place), field.type) for place, field in enumerate(schema)]
    return pa.table(columns, schema=schema)

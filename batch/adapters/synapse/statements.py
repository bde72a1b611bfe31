"""
The T-SQL that is sent to Synapse, as text. Pure.

Names are sent in brackets, as they are: how Synapse compares them is a matter of the database's collation.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa

from batch.adapters._staging import ColumnTypes
from batch.errors import IntakeError

DEFAULT_SCHEMA: Final = "dbo"
_ORDERED: Final = re.compile(r"\border\s+by\b", re.IGNORECASE)
_ROWS_AT_ONCE: Final = 200
FILE_FORMAT: Final = "FORMAT_TYPE = PARQUET, DATA_COMPRESSION = 'org.apache.hadoop.io.compress.SnappyCodec'"
LOAD: Final = (
    "COMPRESSION = 'GZIP', FIELDQUOTE = '\"', FIELDTERMINATOR = ',', ROWTERMINATOR = '0x0A', ENCODING = 'UTF8', "
    "MAXERRORS = 0"
)
TYPES: Final = ColumnTypes(
    boolean="BIT",
    integer="BIGINT",
    floating="FLOAT",
    decimal="DECIMAL",
    timestamp="DATETIME2(6)",
    zoned="DATETIMEOFFSET(6)",
    time="TIME(6)",
    text="NVARCHAR(4000)",
)


def name(text: str) -> str:
    """A name in brackets."""
    return "[" + text.replace("]", "]]") + "]"


def text(value: str) -> str:
    """A literal."""
    return "N'" + value.replace("'", "''") + "'"


@dataclass(frozen=True)
class TableName:
    """A table and its schema; as text, in brackets."""

    table: str
    schema: str

    @classmethod
    def of(cls, table: str, schema: str | None) -> "TableName":
        """In the default schema, if none is named."""
        return cls(table, schema or DEFAULT_SCHEMA)

    def __str__(self) -> str:
        return f"{name(self.schema)}.{name(self.table)}"

    def beside(self, run: str) -> "TableName":
        """What a run makes for itself."""
        return TableName(f"prediction_api_{run}", self.schema)

    def columns(self) -> str:
        """SELECT for the names of its columns."""
        return (
            "SELECT COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS "
            f"WHERE TABLE_NAME = {text(self.table)} AND TABLE_SCHEMA = {text(self.schema)} ORDER BY ORDINAL_POSITION"
        )


def bare_query(query: str) -> str:
    """Without what ends a statement."""
    return query.strip().rstrip(";").rstrip()


def source(query: str | None, table: TableName) -> str:
    """What stands behind FROM for either of them."""
    return str(table) if query is None else f"({bare_query(query)}\n) AS source"


def is_ordered(query: str | None) -> bool:
    """Whether its rows have an order, which files of an unload would lose."""
    return query is not None and _ORDERED.search(query) is not None


def check_columns(schema: pa.Schema, of: str) -> None:
    """Raise `IntakeError` naming the columns that cannot be read, and those that have no name or stand there twice."""
    strange = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    if strange:
        raise IntakeError(f"{of}: columns of bytes cannot be scored: {', '.join(strange)}")
    if "" in schema.names:
        raise IntakeError(f"{of}: a column has no name")
    if twice := sorted({each for each in schema.names if schema.names.count(each) > 1}):
        raise IntakeError(f"{of}: columns that stand there twice: {', '.join(map(repr, twice))}")


def location_of(data_source: str) -> str:
    """SELECT for where an external data source is."""
    return f"SELECT location FROM sys.external_data_sources WHERE name = {text(data_source)}"


def blob_address(location: str) -> str | None:
    """``https://account.../container/path/`` of an external data source; None: it is no Blob storage."""
    parts = urlsplit(location)
    container, _, host = parts.netloc.rpartition("@")
    if parts.scheme in ("wasb", "wasbs", "abfs", "abfss") and container:
        account = host.replace(".dfs.", ".blob.", 1)
        path = f"{container}{parts.path}"
    elif parts.scheme == "https" and ".blob." in parts.netloc:
        account, path = parts.netloc, parts.path.strip("/")
    else:
        return None
    return f"https://{account}/{path.rstrip('/')}/"


def create_format(run: str) -> str:
    """CREATE EXTERNAL FILE FORMAT for the files of an unload."""
    return f"CREATE EXTERNAL FILE FORMAT {name(f'prediction_api_{run}')} WITH ({FILE_FORMAT})"


def unload(of: str, schema: pa.Schema, table: TableName, data_source: str, place: str, run: str) -> str:
    """CREATE EXTERNAL TABLE AS SELECT into a place below the data source."""
    shown = ", ".join(_unloaded(field) for field in schema)
    return (
        f"CREATE EXTERNAL TABLE {table} WITH (LOCATION = {_plain(f'/{place}')}, DATA_SOURCE = {name(data_source)}, "
        f"FILE_FORMAT = {name(f'prediction_api_{run}')}) AS SELECT {shown} FROM {of}"
    )


def drop_external(table: TableName, run: str) -> tuple[str, str]:
    """What `unload` and `create_format` made."""
    return f"DROP EXTERNAL TABLE {table}", f"DROP EXTERNAL FILE FORMAT {name(f'prediction_api_{run}')}"


def _unloaded(field: pa.Field) -> str:
    """Times as text: Parquet files have no exact type for all of them."""
    quoted = name(field.name)
    if pa.types.is_timestamp(field.type):
        return f"CONVERT(NVARCHAR(40), {quoted}, 126) AS {quoted}"
    return f"CONVERT(NVARCHAR(16), {quoted}) AS {quoted}" if pa.types.is_time(field.type) else quoted


def _plain(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def create(table: TableName, schema: pa.Schema) -> str:
    """CREATE TABLE with a column for each field."""
    columns = ", ".join(f"{name(field.name)} {TYPES.of(field.type)} NULL" for field in schema)
    return f"CREATE TABLE {table} ({columns})"


def load(table: TableName, columns: Sequence[str], address: str, identity: str, secret: str) -> str:
    """COPY INTO a table; all files at an address, or none."""
    shown = ", ".join(map(name, columns))
    credential = f"CREDENTIAL = (IDENTITY = {_plain(identity)}, SECRET = {_plain(secret)})"
    files = _plain(f"{address}*.csv.gz")
    return f"COPY INTO {table} ({shown}) FROM {files} WITH (FILE_TYPE = 'CSV', {credential}, {LOAD})"


def inserts(table: TableName, rows: pa.Table) -> Iterator[str]:
    """INSERT statements for rows, in the form that Synapse has for many; the first row says the types."""
    shown = ", ".join(map(name, rows.column_names))
    types = [TYPES.of(field.type) for field in rows.schema]
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        columns = rows.slice(start, _ROWS_AT_ONCE).columns
        first, *rest = zip(*(map(literal, column.to_pylist()) for column in columns), strict=True)
        typed = [f"CAST({value} AS {kind})" for value, kind in zip(first, types, strict=True)]
        selects = " UNION ALL ".join(f"SELECT {', '.join(row)}" for row in (typed, *rest))
        yield f"INSERT INTO {table} ({shown}) {selects}"


def literal(value: Any) -> str:
    """A value as T-SQL has it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value) if "e" in repr(value) else f"{value!r}e0"
    if isinstance(value, int | Decimal):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    return text(value.isoformat() if hasattr(value, "isoformat") else str(value))


def move(target: TableName, columns: Sequence[str], beside: TableName, names: Sequence[str]) -> str:
    """INSERT of all that lies beside, column by column."""
    into, taken = ", ".join(map(name, columns)), ", ".join(map(name, names))
    return f"INSERT INTO {target} ({into}) SELECT {taken} FROM {beside}"

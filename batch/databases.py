"""
The databases' keys of ``intake_settings`` and ``output_settings``.

They are checked like all others, before anything that reaches a database is loaded.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from batch.declared import key, refuse

StatementType = Literal["insert", "update", "insert_update", "insertUpdate", "upsert", "create_table", "createTable"]
STATEMENT_TYPES: Final[Mapping[str, str]] = {
    "insertUpdate": "insert_update",
    "upsert": "insert_update",
    "createTable": "create_table",
}
"""Other words for them."""
CloudStorage = Literal["s3", "azure", "gcp"]
PARTITION_KEYS: Final = ("partition_column", "lower_bound", "upper_bound", "num_partitions")

Table = Annotated[str | None, key("Table to read, instead of `query`.")]
Query = Annotated[str | None, key("SQL whose rows are read, instead of `table`.")]
Schema = Annotated[str | None, key("Schema of the table.")]
Catalog = Annotated[str | None, key("Catalog of the table.")]
Target = Annotated[str, key("Table to write.")]
Statement = Annotated[
    StatementType, key("How rows are written: appended, matched, either, or into a table that is made for them.")
]
CreateTable = Annotated[bool, key("Make the table if there is none.")]
Stage = Annotated[str | None, key("External stage that the rows take their way through. Not set: they go straight.")]
Source = Annotated[
    str | None, key("External data source that the rows take their way through. Not set: they go straight.")
]
Cloud = Annotated[CloudStorage, key("Store behind the stage.")]


class JdbcIntake(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table or a query."""

    query: Query = None
    table: Table = None
    schema: Schema = None
    catalog: Catalog = None
    partition_column: Annotated[
        str | None, key("Numeric, date or time column by which the read is split; with the other three.")
    ] = None
    lower_bound: Annotated[int | str | None, key("Where the stride begins; filters nothing.")] = None
    upper_bound: Annotated[int | str | None, key("Where the stride ends; filters nothing.")] = None
    num_partitions: Annotated[int | None, key("Parallel reads.", least=1, most=1000)] = None
    query_timeout: Annotated[
        int, key("Seconds until the first rows must come; 0 is no limit.", least=0, most=10**6, resumable=True)
    ] = 86_400
    fetch_size: Annotated[int | None, key("The size is found by itself.", ignored=True)] = None

    def __post_init__(self) -> None:
        refuse(*_either_or(self.query, self.table), *_partition(self))


class JdbcOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Rows into a table."""

    table: Target
    schema: Schema = None
    catalog: Catalog = None
    statement_type: Statement
    create_table_if_not_exists: CreateTable = False
    update_columns: Annotated[
        tuple[str, ...], key("Columns that an update sets.", wanted="a list of column names")
    ] = ()
    where_columns: Annotated[
        tuple[str, ...], key("Columns that find the row to update.", wanted="a list of column names")
    ] = ()
    commit_interval: Annotated[float, key("Seconds between commits; 0 is one at the end.", least=0, most=86_400)] = 0.0
    commit: Annotated[Literal["job", "batch"], key("All rows or none, or batch by batch.")] = "job"

    def __post_init__(self) -> None:
        refuse(*_blank(table=self.table), *_update(self.statement_type, self.where_columns, self.update_columns))


class SnowflakeIntake(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table or a query, by way of a stage."""

    query: Query = None
    table: Table = None
    schema: Schema = None
    catalog: Catalog = None
    external_stage: Stage = None
    cloud_storage_type: Cloud = "s3"

    def __post_init__(self) -> None:
        refuse(*_either_or(self.query, self.table))


class SnowflakeOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Rows into a table, by way of a stage."""

    table: Target
    schema: Schema = None
    catalog: Catalog = None
    statement_type: Statement
    create_table_if_not_exists: CreateTable = False
    external_stage: Stage = None
    cloud_storage_type: Cloud = "s3"

    def __post_init__(self) -> None:
        refuse(*_blank(table=self.table), *_no_update(self.statement_type))


class SynapseIntake(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table or a query, by way of an external data source."""

    query: Query = None
    table: Table = None
    schema: Schema = None
    external_data_source: Source = None

    def __post_init__(self) -> None:
        refuse(*_either_or(self.query, self.table))


class SynapseOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Rows into a table, by way of an external data source."""

    table: Target
    schema: Schema = None
    statement_type: Statement
    create_table_if_not_exists: CreateTable = False
    external_data_source: Source = None

    def __post_init__(self) -> None:
        refuse(*_blank(table=self.table), *_no_update(self.statement_type))


DATABASES: Final[Mapping[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]]] = {
    "jdbc": (JdbcIntake, JdbcOutput),
    "snowflake": (SnowflakeIntake, SnowflakeOutput),
    "synapse": (SynapseIntake, SynapseOutput),
}
"""Type -> keys of the intake, keys of the output."""


def _either_or(query: str | None, table: str | None) -> Iterator[str]:
    if query is not None and table is not None:
        yield "query: excludes table, keep one of them"
    if query is None and table is None:
        yield "table: required, unless query is given"
    yield from _blank(query=query, table=table)


def _blank(**texts: str | None) -> Iterator[str]:
    """A blank name is a pattern for all names to some drivers."""
    for name, text in texts.items():
        if text is not None and not text.strip():
            yield f"{name}: is blank"


def _partition(settings: JdbcIntake) -> Iterator[str]:
    given = [name for name in PARTITION_KEYS if getattr(settings, name) is not None]
    if given and len(given) < len(PARTITION_KEYS):
        missing = ", ".join(name for name in PARTITION_KEYS if name not in given)
        yield f"{given[0]}: {', '.join(PARTITION_KEYS)} are given all four or not at all, missing: {missing}"
    if given and not _ascends(settings.lower_bound, settings.upper_bound):
        yield "lower_bound: must be less than upper_bound, and of the same type"


def _ascends(low: Any, high: Any) -> bool:
    if low is None or high is None:
        return True
    return type(low) is type(high) and low < high


def _update(statement_type: str, where: Sequence[str], update: Sequence[str]) -> Iterator[str]:
    wanted = STATEMENT_TYPES.get(statement_type, statement_type) in ("update", "insert_update")
    for name, columns in (("where_columns", where), ("update_columns", update)):
        if wanted and not columns:
            yield f"{name}: required with statement_type {statement_type}, expected a list of column names"
        if not wanted and columns:
            yield f"{name}: only with statement_type update or insert_update"
    both = sorted(set(where) & set(update))
    if both:
        yield f"update_columns: also in where_columns: {', '.join(both)}"


def _no_update(statement_type: str) -> Iterator[str]:
    if STATEMENT_TYPES.get(statement_type, statement_type) in ("update", "insert_update"):
        yield f"statement_type: {statement_type} needs type jdbc, expected insert or create_table"

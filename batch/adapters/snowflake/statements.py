"""
The SQL that is sent to Snowflake, as text. Pure.

Names follow SQL: one that could stand bare means what it would mean bare, that is, in upper case; one in double quotes
and one that could not stand bare are taken as they are. All of them are sent in quotes. Names of columns come from data
and not from people, and are always taken as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from batch.adapters._staging import ColumnTypes
from batch.errors import IntakeError, JobError

_BARE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_QUOTED: Final = re.compile(r'"(?:[^"]|"")+"')
_STAGE: Final = re.compile(
    r'@?((?:"(?:[^"]|"")+"|[^".@/\s]+)(?:\.(?:"(?:[^"]|"")+"|[^".@/\s]+)){0,2})((?:/[\w.=-]+)*)/?'
)
_PART: Final = re.compile(r'"(?:[^"]|"")+"|[^".]+')
_ORDERED: Final = re.compile(r"\border\s+by\b", re.IGNORECASE)
_TIME: Final = "HH24:MI:SS.FF9"
_LOCAL: Final = f'YYYY-MM-DD"T"{_TIME}'
_AS_TEXT: Final[Mapping[str, str]] = {
    "TIMESTAMP_NTZ": f"TO_VARCHAR({{}}, '{_LOCAL}')",
    "TIMESTAMP_LTZ": f"TO_VARCHAR({{}}, '{_LOCAL}TZH:TZM')",
    "TIMESTAMP_TZ": f"TO_VARCHAR({{}}, '{_LOCAL}TZH:TZM')",
    "TIME": f"TO_VARCHAR({{}}, '{_TIME}')",
    "VARIANT": "TO_JSON({})",
    "OBJECT": "TO_JSON({})",
    "ARRAY": "TO_JSON({})",
    "MAP": "TO_JSON({})",
}
"""What Parquet files of an unload have no exact type for."""
_AS_THEY_ARE: Final = frozenset({"FIXED", "REAL", "TEXT", "BOOLEAN", "DATE"})
UNLOAD_FORMAT: Final = "TYPE = PARQUET COMPRESSION = SNAPPY"
LOAD_FORMAT: Final = (
    "TYPE = CSV COMPRESSION = GZIP FIELD_OPTIONALLY_ENCLOSED_BY = '\"' ESCAPE_UNENCLOSED_FIELD = NONE "
    "NULL_IF = () EMPTY_FIELD_AS_NULL = TRUE"
)
"""Values in quotes, nothing for null: an empty text stays one."""
FILE_BYTES: Final = 256 * 1024 * 1024
"""About how large the files of an unload are, at most."""
TYPES: Final = ColumnTypes(
    boolean="BOOLEAN",
    integer="NUMBER(38, 0)",
    floating="FLOAT",
    decimal="NUMBER",
    timestamp="TIMESTAMP_NTZ",
    zoned="TIMESTAMP_TZ",
    time="TIME",
    text="VARCHAR",
)


@dataclass(frozen=True)
class Column:
    """One of a result."""

    name: str
    kind: str
    """As the service calls it: FIXED, REAL, TEXT, ..."""
    precision: int | None = None
    scale: int | None = None


@dataclass(frozen=True)
class StagePath:
    """A stage, and the directory in it that jobs use."""

    stage: str
    """Quoted."""
    directory: str = ""
    """Ends in ``/``, or is empty."""

    @classmethod
    def of(cls, text: str, key: str) -> "StagePath":
        """From ``stage``, ``@schema.stage/directory`` and the like; raises `JobError` about *key*."""
        found = _STAGE.fullmatch(text.strip())
        if found is None:
            raise JobError(f"{key}: expected the name of a stage, such as MY_STAGE or MY_DB.MY_SCHEMA.MY_STAGE/path")
        stage = ".".join(map(identifier, _PART.findall(found[1])))
        return cls(stage, f"{found[2][1:]}/" if found[2] else "")

    def at(self, place: str) -> str:
        """A place below the directory, as it stands in COPY."""
        return f"@{self.stage}/{self.directory}{place}"


def identifier(name: str) -> str:
    """What a person calls something, in quotes."""
    if _QUOTED.fullmatch(name):
        return name
    return exactly(name.upper() if _BARE.fullmatch(name) else name)


def exactly(name: str) -> str:
    """*name* in quotes, as it is."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def plain(name: str) -> str:
    """What the database itself calls it."""
    return identifier(name)[1:-1].replace('""', '"')


@dataclass(frozen=True)
class TableName:
    """A table by the names that a job has for it; as text, in quotes."""

    table: str
    schema: str | None = None
    catalog: str | None = None

    def __str__(self) -> str:
        return self._with(identifier(self.table))

    def _with(self, quoted: str) -> str:
        """Something in the same schema; a catalog without a schema means its public one."""
        if self.catalog and not self.schema:
            return f"{identifier(self.catalog)}..{quoted}"
        return ".".join([identifier(name) for name in (self.catalog, self.schema) if name] + [quoted])

    def beside(self, run: str) -> str:
        """What a run makes for itself."""
        return self._with(exactly(f"PREDICTION_API_{run.upper()}"))

    def comments(self) -> str:
        """SELECT for the table's comment."""
        return f"SELECT COMMENT FROM {self._information}.TABLES WHERE {self._is('TABLE_SCHEMA')}"

    def loaded_files(self, run: str) -> str:
        """SELECT for files of a run that were loaded into it; the service knows them for 14 days."""
        return (
            f"SELECT FILE_NAME FROM {self._information}.LOAD_HISTORY WHERE {self._is('SCHEMA_NAME')} "
            f"AND STATUS = 'LOADED' AND FILE_NAME LIKE {text(f'%/{run}/%')}"
        )

    @property
    def _information(self) -> str:
        return f"{identifier(self.catalog)}.INFORMATION_SCHEMA" if self.catalog else "INFORMATION_SCHEMA"

    def _is(self, schema_column: str) -> str:
        schema = plain(self.schema) if self.schema else "PUBLIC" if self.catalog else None
        wanted = "CURRENT_SCHEMA()" if schema is None else text(schema)
        return f"TABLE_NAME = {text(plain(self.table))} AND {schema_column} = {wanted}"


def source(query: str | None, table: str) -> str:
    """What stands behind FROM for either of them."""
    return table if query is None else f"({bare_query(query)}\n)"


def bare_query(query: str) -> str:
    """Without what ends a statement."""
    return query.strip().rstrip(";").rstrip()


def is_ordered(query: str | None) -> bool:
    """Whether its rows have an order, which files of an unload would lose."""
    return query is not None and _ORDERED.search(query) is not None


def rows(of: str) -> str:
    """All rows of a `source`."""
    return f"SELECT * FROM {of}"


def check_columns(columns: Sequence[Column], name: str) -> None:
    """Raise `IntakeError` naming the columns that cannot be read, and those that stand there twice."""
    strange = [f"{column.name} ({column.kind})" for column in columns if not _is_readable(column)]
    if strange:
        raise IntakeError(f"{name}: columns of types that cannot be scored: {', '.join(strange)}")
    names = [column.name for column in columns]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise IntakeError(f"{name}: columns that stand there twice: {', '.join(map(repr, twice))}")


def _is_readable(column: Column) -> bool:
    return column.kind in _AS_THEY_ARE or column.kind in _AS_TEXT


def unload(of: str, columns: Sequence[Column], to: str) -> str:
    """COPY INTO a place of a stage; a file holds up to `FILE_BYTES`."""
    shown = ", ".join(map(_unloaded, columns))
    return (
        f"COPY INTO {to} FROM (SELECT {shown} FROM {of}) FILE_FORMAT = ({UNLOAD_FORMAT}) "
        f"HEADER = TRUE OVERWRITE = FALSE SINGLE = FALSE MAX_FILE_SIZE = {FILE_BYTES}"
    )


def _unloaded(column: Column) -> str:
    name = exactly(column.name)
    return f"{_AS_TEXT[column.kind].format(name)} AS {name}" if column.kind in _AS_TEXT else name


def load(table: str, columns: Sequence[str], place: str) -> str:
    """COPY INTO a table; all files below a place, or none."""
    into = f"{table} ({', '.join(map(exactly, columns))})"
    return f"COPY INTO {into} FROM {place} FILE_FORMAT = ({LOAD_FORMAT}) ON_ERROR = ABORT_STATEMENT"


def create(table: str, schema: pa.Schema, comment: str) -> str:
    """CREATE TABLE with a column for each field."""
    columns = ", ".join(f"{exactly(field.name)} {TYPES.of(field.type)}" for field in schema)
    return f"CREATE TABLE {table} ({columns}) COMMENT = {text(comment)}"

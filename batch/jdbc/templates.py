"""
What differs between databases: types of columns that are created, and how drivers are asked to behave.

All else comes from the database's own metadata or is plain SQL. Chosen by ``template_name``, else by the URL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from batch.errors import JobError
from batch.jdbc.url import scheme_of

Kind = Literal["boolean", "integer", "bigint", "float", "double", "date", "timestamp", "instant", "text"]


@dataclass(frozen=True)
class Template:
    """One kind of database."""

    name: str
    boolean: str = "BOOLEAN"
    integer: str = "INTEGER"
    bigint: str = "BIGINT"
    float: str = "REAL"
    double: str = "DOUBLE PRECISION"
    date: str = "DATE"
    timestamp: str = "TIMESTAMP(6)"
    instant: str = "TIMESTAMP(6) WITH TIME ZONE"
    text: str = "VARCHAR(4000)"
    decimal: str = "DECIMAL({precision},{scale})"
    most_digits: int = 38
    moment: str = "TIMESTAMP '{}'"
    """How a date with a time stands in a statement."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """For the driver, where the URL does not say otherwise."""
    for_updates: Mapping[str, str] = field(default_factory=dict)
    """The same, where the count of changed rows matters."""
    for_reading: Mapping[str, str] = field(default_factory=dict)
    """The same, where rows are read."""
    before_reading: tuple[str, ...] = ()
    """Statements on the connection of a query: nothing may be written, no whole result may be held."""
    fetch_size: int = 500
    """Rows at a time, to begin with."""
    adapts: bool = True
    """Whether the fetch size may change while rows are read."""
    copies: bool = False
    """Whether the driver takes rows as text by COPY, which is much faster."""
    takes_back_tables: bool = False
    """Whether a rollback takes back a table that was made, and others can look at the catalog meanwhile."""

    def type_of(self, kind: Kind) -> str:
        """SQL type of a column."""
        found: str = getattr(self, kind)
        return found

    def decimal_of(self, precision: int, scale: int) -> str:
        """SQL type of exact numbers; text where the database has no such."""
        if precision > self.most_digits:
            return self.text
        return self.decimal.format(precision=precision, scale=scale)


ANSI: Final = Template("ansi")
_SHOWN_OTHERWISE: Final = ",".join(
    [f"{name}_ARRAY" for name in ("INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "TEXT", "VARCHAR")]
    + ["TIME", "TIMETZ", "POINT", "BOX"]
)
"""Types whose text PostgreSQL's driver would make itself from their binary form, and not as the database does."""
POSTGRESQL: Final = Template(
    "postgresql",
    text="TEXT",
    most_digits=1000,
    properties={
        "prepareThreshold": "-1",  # numbers come as they are, not as text: several times faster
        "stringtype": "unspecified",  # text may go into columns of any type, if it can be read as one
        "binaryTransferDisable": _SHOWN_OTHERWISE,
        "readOnlyMode": "always",
        "connectTimeout": "10",
        "tcpKeepAlive": "true",
    },
    # Rows come in the same order every time, for a job that is continued: no scan begins where a killed one
    # was, and no workers race, as they do for COPY and not for a cursor.
    before_reading=("SET synchronize_seqscans = off", "SET max_parallel_workers_per_gather = 0"),
    copies=True,
    takes_back_tables=True,
)
MARIADB: Final = Template(
    "mariadb",
    float="FLOAT",
    double="DOUBLE",
    timestamp="DATETIME(6)",
    instant="DATETIME(6)",
    text="LONGTEXT",
    most_digits=65,
    properties={"connectTimeout": "10000", "tcpKeepAlive": "true", "allowLocalInfile": "false"},
    for_updates={"useBulkStmts": "false"},
    for_reading={
        "useServerPrepStmts": "true",  # numbers come as they are, not as text: several times faster
        "yearIsDateType": "false",  # its driver reads no YEAR as a date then
    },
    before_reading=("SET SESSION TRANSACTION READ ONLY",),
)
MYSQL: Final = replace(
    MARIADB,
    name="mysql",
    properties={"connectTimeout": "10000", "rewriteBatchedStatements": "true", "allowLoadLocalInfile": "false"},
    for_updates={"rewriteBatchedStatements": "false"},
    for_reading={},
    fetch_size=-(2**31),  # its driver's sign for a cursor
    adapts=False,
)
TEMPLATES: Final[Mapping[str, Template]] = {
    template.name: template
    for template in (
        ANSI,
        POSTGRESQL,
        MARIADB,
        MYSQL,
        Template(
            "oracle",
            boolean="NUMBER(1)",
            integer="NUMBER(10)",
            bigint="NUMBER(19)",
            float="BINARY_FLOAT",
            double="BINARY_DOUBLE",
            text="VARCHAR2(4000 CHAR)",
            decimal="NUMBER({precision},{scale})",
            before_reading=("SET TRANSACTION READ ONLY",),
        ),
        Template(
            "sqlserver",
            boolean="BIT",
            double="FLOAT(53)",
            timestamp="DATETIME2(6)",
            instant="DATETIMEOFFSET(6)",
            text="NVARCHAR(MAX)",
            moment="CAST('{}' AS DATETIME2(6))",
        ),
        Template("snowflake", float="FLOAT", timestamp="TIMESTAMP_NTZ(6)", instant="TIMESTAMP_TZ(6)", text="VARCHAR"),
        Template("h2", text="CHARACTER VARYING", before_reading=("SET LAZY_QUERY_EXECUTION 1",), most_digits=100_000),
        Template(
            "hsqldb",
            double="DOUBLE",
            float="DOUBLE",
            text="LONGVARCHAR",
            before_reading=("SET SESSION RESULT MEMORY ROWS 10000",),
        ),
        Template(
            "derby",
            timestamp="TIMESTAMP",
            instant="TIMESTAMP",
            text="VARCHAR(32672)",
            most_digits=31,
            moment="TIMESTAMP('{}')",
        ),
    )
}
OTHER_NAMES: Final = {"postgres": "postgresql", "mssql": "sqlserver", "synapse": "sqlserver", "generic": "ansi"}


def template_for(name: str | None, url: str) -> Template:
    """
    The template of that name; without one, of the kind of database in *url*, or plain ANSI.

    Raises:
        JobError: there is none of that name.
    """
    if name is None:
        scheme = scheme_of(url)
        return TEMPLATES.get(OTHER_NAMES.get(scheme, scheme), ANSI)
    asked_for = OTHER_NAMES.get(name.strip().lower(), name.strip().lower())
    if asked_for not in TEMPLATES:
        raise JobError(
            f"jdbc_settings.template_name: there is no template {name[:60]!r}; there are {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[asked_for]

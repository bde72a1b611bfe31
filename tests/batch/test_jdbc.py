"""Jobs from and to databases: embedded ones, and real servers."""

import csv
import io
import json
import re
from typing import Any

import anyio
import pytest

from batch.definition import definition_from
from batch.errors import BatchError, IntakeError, OutputError
from batch.runner import run_job
from tests.batch.jobs import QUICK, ROOT, free_port, gold
from tests.databases import Sql

EVERYWHERE = ("hsqldb", "h2", "derby", "postgresql", "mariadb")
PEOPLE = "id INTEGER PRIMARY KEY, age INTEGER, income DOUBLE PRECISION, city VARCHAR(40), member BOOLEAN"
AGE = "RTRIM(CAST(age AS CHAR(9)))"
"""As text, in any of them."""
CITIES = ("Oslo", "São Paulo", "a,b", '"quoted"', None)


@pytest.fixture(params=EVERYWHERE)
def sql(request: pytest.FixtureRequest) -> Sql:
    found: Sql = request.getfixturevalue(request.param)
    return found


def filled(sql: Sql, n_rows: int) -> tuple[str, list[tuple[Any, ...]]]:
    """A table with people."""
    name = sql.fresh()
    rows = [
        (i, 20 + i % 50, None if i % 9 == 4 else 30_000.25 + i, CITIES[i % len(CITIES)], i % 3 > 0)
        for i in range(n_rows)
    ]

    def literal(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        return "'" + value + "'" if isinstance(value, str) else repr(value)

    values = [f"({', '.join(map(literal, row))})" for row in rows]
    sql.run(f"CREATE TABLE {name} ({PEOPLE})", f"INSERT INTO {name} VALUES {', '.join(values)}")
    return name, rows


def job(server: str, sql: Sql, table: Any, output: dict[str, Any], **keys: Any) -> Any:
    intake = table if isinstance(table, dict) else {"table": table}
    return definition_from(
        {
            "prediction_endpoint": server,
            "intake_settings": {"type": "jdbc", **intake},
            "output_settings": {"type": "jdbc", **output},
            "jdbc_settings": sql.settings,
            "passthrough_columns": ["id"],
            "mini_batch_size": 40,
            **keys,
        }
    ).job


def run(sql: Sql, made: Any, tmp_path: Any, **options: Any) -> Any:
    credentials = options.pop("credentials", sql.credentials)
    settings = QUICK.__class__(**{**vars(QUICK), "state_dir": tmp_path / "state", **options})
    return anyio.run(lambda: run_job(made, credentials, options=settings))


def expected(server: str, rows: list[tuple[Any, ...]]) -> dict[str, list[str]]:
    """By id, what the server says."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "age", "income", "city", "member"])
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    header, *answers = gold(server, text.getvalue())
    return {str(row[0]): answer for row, answer in zip(rows, answers, strict=True)} | {"": header}


def scores(sql: Sql, table: str, q: str | None = None) -> list[list[str | None]]:
    quote = "`" if sql.name == "mariadb" else '"'
    names = ", ".join(f"{quote}{name}{quote}" for name in ("id", "bought_yes_PREDICTION", "bought_PREDICTION"))
    return sql.run(f"SELECT {names} FROM {quote}{table}{quote} ORDER BY 1")


def agrees(found: list[list[str | None]], gold_rows: dict[str, list[str]]) -> None:
    place = gold_rows[""].index
    for key, score, label in found:
        answer = gold_rows[str(key)]
        assert float(score or "nan") == pytest.approx(float(answer[place("bought_yes_PREDICTION")]), abs=1e-9)
        assert label == answer[place("bought_PREDICTION")]


def test_a_table_becomes_a_scored_table(server: str, sql: Sql, tmp_path: Any) -> None:
    table, rows = filled(sql, 100)
    target = sql.fresh()
    report = run(sql, job(server, sql, table, {"table": target, "statement_type": "create_table"}), tmp_path)
    assert (report.rows_read, report.rows_scored) == (100, 100)
    found = scores(sql, target)
    assert len(found) == 100
    agrees(found, expected(server, rows))
    assert not (tmp_path / "state").exists() or not any((tmp_path / "state").iterdir())


@pytest.mark.parametrize(
    "output",
    [{"statement_type": "create_table"}, {"statement_type": "insert", "create_table_if_not_exists": True}],
    ids=["create_table", "insert"],
)
def test_no_rows_make_an_empty_table(server: str, sql: Sql, tmp_path: Any, output: dict[str, Any]) -> None:
    """It has the right types, so the next job can write into it."""
    table, rows = filled(sql, 50)
    target = {"table": sql.fresh(), **output}
    report = run(sql, job(server, sql, {"query": f"SELECT * FROM {table} WHERE id < 0"}, target), tmp_path)
    assert report.rows_read == 0
    assert scores(sql, target["table"]) == []
    run(sql, job(server, sql, table, {**target, "statement_type": "insert"}), tmp_path)
    agrees(found := scores(sql, target["table"]), expected(server, rows))
    assert [int(row[0] or -1) for row in found] == list(range(50))


def test_the_job_of_the_documentation(server: str, postgresql: Sql, tmp_path: Any) -> None:
    page = (ROOT / "docs" / "batch" / "jdbc.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    table, rows = filled(postgresql, 20)
    postgresql.run(f"ALTER TABLE {table} RENAME TO customers")
    said = json.loads(block)
    said |= {"prediction_endpoint": server, "jdbc_settings": said["jdbc_settings"] | {"url": postgresql.url}}
    assert said["jdbc_settings"] == postgresql.settings
    run(postgresql, definition_from(said).job, tmp_path)
    agrees(scores(postgresql, "scored"), expected(server, rows))


def test_update_or_insert(server: str, sql: Sql, tmp_path: Any) -> None:
    table, rows = filled(sql, 100)
    target = sql.fresh()
    output = {
        "table": target,
        "statement_type": "insert_update",
        "create_table_if_not_exists": True,
        "where_columns": ["id"],
        "update_columns": ["bought_yes_PREDICTION", "bought_PREDICTION"],
    }
    query = {"query": f"SELECT * FROM {table} WHERE id < 60 ORDER BY id"}
    run(sql, job(server, sql, query, output), tmp_path)
    quote = "`" if sql.name == "mariadb" else '"'
    sql.run(f"UPDATE {quote}{target}{quote} SET {quote}bought_PREDICTION{quote} = 'other'")
    run(sql, job(server, sql, table, output), tmp_path)
    found = scores(sql, target)
    assert [int(row[0] or -1) for row in found] == list(range(100))
    agrees(found, expected(server, rows))


def test_update_in_place(server: str, sql: Sql, tmp_path: Any) -> None:
    table, rows = filled(sql, 50)
    sql.run(f"CREATE TABLE {table}_p (id INTEGER PRIMARY KEY, score DOUBLE PRECISION)")
    sql.run(f"INSERT INTO {table}_p SELECT id, 0 FROM {table} WHERE id < 30")
    output = {
        "table": f"{table}_p",
        "statement_type": "update",
        "where_columns": ["id"],
        "update_columns": ["score"],
    }
    names = {"bought_yes_PREDICTION": "score"}
    run(sql, job(server, sql, table, output, column_names_remapping=names), tmp_path)
    found = sql.run(f"SELECT id, score FROM {table}_p ORDER BY id")
    gold_rows = expected(server, rows)
    assert len(found) == 30
    for key, score in found:
        answer = gold_rows[str(key)][gold_rows[""].index("bought_yes_PREDICTION")]
        assert float(score or "nan") == pytest.approx(float(answer), abs=1e-9)


@pytest.mark.parametrize("source", ["table", "query"])
def test_a_split_read_loses_no_row(server: str, sql: Sql, tmp_path: Any, source: str) -> None:
    table, _ = filled(sql, 100)
    sql.run(f"ALTER TABLE {table} ADD COLUMN part INTEGER", f"UPDATE {table} SET part = id - 10 WHERE id <> 50")
    target = sql.fresh()
    keys = {"partition_column": "part", "lower_bound": 0, "upper_bound": 40, "num_partitions": 4}
    output = {"table": target, "statement_type": "create_table"}
    intake = {"table": table} if source == "table" else {"query": f"SELECT * FROM {table} -- of all ages"}
    run(sql, job(server, sql, {**intake, **keys}, output), tmp_path)
    assert [int(row[0] or -1) for row in scores(sql, target)] == list(range(100))


@pytest.mark.parametrize("make_table", [True, False], ids=["new table", "table that is there"])
def test_a_failed_job_leaves_the_table_as_it_was(server: str, sql: Sql, tmp_path: Any, make_table: bool) -> None:
    table, _ = filled(sql, 100)
    sql.run(
        f"CREATE TABLE {table}_bad (id INTEGER, age VARCHAR(10), income VARCHAR(20), city VARCHAR(9), member BOOLEAN)"
    )
    sql.run(f"INSERT INTO {table}_bad (id, age, member) SELECT id, {AGE}, member FROM {table} WHERE id <> 99")
    sql.run(f"INSERT INTO {table}_bad VALUES (99, 'old', NULL, NULL, TRUE)")
    target = sql.fresh()
    output = {"table": target, "statement_type": "create_table"}
    if not make_table:
        run(sql, job(server, sql, table, output), tmp_path)
        output["statement_type"] = "insert"
    query = {"query": f"SELECT * FROM {table}_bad ORDER BY id"}
    with pytest.raises(BatchError, match="row"):
        run(sql, job(server, sql, query, output, errors={"mode": "abort"}), tmp_path)
    if make_table:
        with pytest.raises(Exception, match=r"(?i)not found|exist"):
            scores(sql, target)
    else:
        assert len(scores(sql, target)) == 100


def text_free(message: str, sql: Sql) -> None:
    for secret in (sql.url, "hidden-value", *filter(None, [sql.password])):
        assert secret not in message


def test_rows_that_the_table_does_not_take(server: str, sql: Sql, tmp_path: Any) -> None:
    table, _ = filled(sql, 50)
    target = sql.fresh()
    quote = "`" if sql.name == "mariadb" else '"'
    wide = f"{quote}bought_PREDICTION{quote} VARCHAR(1), {quote}city{quote} VARCHAR(20)"
    sql.run(f"CREATE TABLE {target} (id INTEGER, {wide})")
    names = {"bought_yes_PREDICTION": None, "bought_no_PREDICTION": None, "THRESHOLD": None, "POSITIVE_CLASS": None}
    made = job(
        server,
        sql,
        {"query": f"SELECT id, age, income, member, 'hidden-value' AS city FROM {table} ORDER BY id"},
        {"table": target, "statement_type": "insert"},
        passthrough_columns=["id", "city"],
        column_names_remapping=names,
    )
    with pytest.raises(OutputError, match="too long") as caught:
        run(sql, made, tmp_path)
    text_free(str(caught.value), sql)
    assert sql.run(f"SELECT COUNT(*) FROM {target}") == [["0"]]


def test_a_key_that_is_there_already(server: str, sql: Sql, tmp_path: Any) -> None:
    table, _ = filled(sql, 90)
    target = sql.fresh()
    quote = "`" if sql.name == "mariadb" else '"'
    columns = f"id INTEGER PRIMARY KEY, {quote}bought_yes_PREDICTION{quote} DOUBLE PRECISION"
    sql.run(f"CREATE TABLE {target} ({columns})", f"INSERT INTO {target} VALUES (77, 0.5)")
    names = {"bought_PREDICTION": None, "bought_no_PREDICTION": None, "THRESHOLD": None, "POSITIVE_CLASS": None}
    query = {"query": f"SELECT * FROM {table} ORDER BY id"}
    made = job(server, sql, query, {"table": target, "statement_type": "insert"}, column_names_remapping=names)
    with pytest.raises(OutputError, match="unique") as caught:
        run(sql, made, tmp_path)
    text_free(str(caught.value), sql)
    assert "row" in str(caught.value)
    assert sql.run(f"SELECT COUNT(*) FROM {target}") == [["1"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intake": {"table": "nowhere"}}, "there is no such table"),
        ({"intake": {"query": "SELECT nothing FROM nowhere"}}, "query"),
        ({"output": {"table": "nowhere", "statement_type": "insert"}}, "create_table_if_not_exists"),
        ({"output": {"table": "taken", "statement_type": "create_table"}}, "exists"),
        ({"jdbc": {"class_name": "org.example.Driver"}}, "org.example.Driver"),
        ({"jdbc": {"driver_path": "/nowhere/driver.jar"}}, "no such file"),
        ({"jdbc": {"template_name": "dbase"}}, "dbase"),
        ({"jdbc": {"extra": "socketFactory=org.example.Attack"}}, "socketFactory"),
    ],
    ids=["no table", "bad query", "no target", "target there", "no class", "no jar", "no template", "bad parameter"],
)
def test_mistakes_are_told(server: str, sql: Sql, tmp_path: Any, changes: dict[str, Any], said: str) -> None:
    table, _ = filled(sql, 3)
    output = changes.get("output", {"table": sql.fresh(), "statement_type": "create_table"})
    output = {**output, "table": table if output["table"] == "taken" else output["table"]}
    settings = {**sql.settings, **changes.get("jdbc", {})}
    if extra := settings.pop("extra", None):
        settings["url"] += f"{';' if sql.name in ('h2', 'hsqldb') else '?'}{extra}"
    made = job(server, sql, changes.get("intake", {"table": table}), output, jdbc_settings=settings)
    with pytest.raises(BatchError, match=said) as caught:
        run(sql, made, tmp_path)
    text_free(str(caught.value), sql)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_wrong_password(server: str, request: pytest.FixtureRequest, tmp_path: Any, name: str) -> None:
    sql: Sql = request.getfixturevalue(name)
    wrong = sql.credentials.__class__(jdbc_username=sql.user, jdbc_password="wrong-password")
    made = job(server, sql, "t", {"table": "t", "statement_type": "insert"})
    with pytest.raises(OutputError, match="password") as caught:
        run(sql, made, tmp_path, credentials=wrong)
    assert "wrong-password" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("postgresql", "WITH gone AS (DELETE FROM {table} RETURNING *) SELECT * FROM gone"),
        ("postgresql", "WITH new AS (INSERT INTO {table} (id) VALUES (9) RETURNING 9 AS id) SELECT id FROM new"),
        ("postgresql", "SELECT * FROM {table}; DROP TABLE {table}"),
        ("postgresql", "DROP TABLE {table}"),
        ("mariadb", "DELETE FROM {table} RETURNING *"),
        ("mariadb", "SELECT * FROM {table}; DROP TABLE {table}"),
        ("hsqldb", "DELETE FROM {table}"),
        ("hsqldb", "SELECT * FROM {table}; DROP TABLE {table}"),
    ],
)
def test_a_query_cannot_write(
    server: str, request: pytest.FixtureRequest, tmp_path: Any, name: str, query: str
) -> None:
    sql: Sql = request.getfixturevalue(name)
    table, _ = filled(sql, 3)
    target = {"table": sql.fresh(), "statement_type": "create_table"}
    made = job(server, sql, {"query": query.format(table=table)}, target)
    with pytest.raises(IntakeError, match=r"^query: .*(read-only|READ ONLY|SQL syntax|unexpected token)"):
        run(sql, made, tmp_path)
    assert len(sql.run(f"SELECT * FROM {table}")) == 3


def test_a_query_that_takes_too_long(server: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    sql: Sql = request.getfixturevalue("postgresql")
    query = {
        "query": "SELECT 1 AS id, 30 AS age, 1.5 AS income, pg_sleep(600)::text AS city, TRUE AS member",
        "query_timeout": 1,
    }
    made = job(server, sql, query, {"table": sql.fresh(), "statement_type": "create_table"})
    with pytest.raises(IntakeError, match=r"query: .*cancel"):
        run(sql, made, tmp_path)


HOSTILE_NAMES = ("x; DROP TABLE {table}", '{table}"; DROP TABLE {table}; --', "`{table}`' OR '1'='1", "a.b.{table}")
HOSTILE_PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "intake table": ({"table": "{name}"}, {}),
    "intake schema": ({"schema": "{name}"}, {}),
    "intake column": ({"partition_column": "{name}", "lower_bound": 0, "upper_bound": 9, "num_partitions": 2}, {}),
    "output schema": ({}, {"schema": "{name}", "statement_type": "create_table"}),
    "output column": ({}, {"statement_type": "update", "where_columns": ["{name}"], "update_columns": ["age"]}),
}


@pytest.mark.parametrize("place", HOSTILE_PLACES)
def test_names_that_nothing_has(server: str, sql: Sql, tmp_path: Any, place: str) -> None:
    """They are looked for as they are."""
    table, _ = filled(sql, 3)
    for hostile in HOSTILE_NAMES:
        name = hostile.format(table=table)

        def named(keys: dict[str, Any], name: str = name) -> dict[str, Any]:
            return {
                key: name if value == "{name}" else [name] if value == ["{name}"] else value
                for key, value in keys.items()
            }

        read, written = map(named, HOSTILE_PLACES[place])
        into = {"table": table if place == "output column" else sql.fresh(), "statement_type": "create_table"}
        made = job(server, sql, {"table": table} | read, into | written)
        if sql.name == "derby" and place == "output schema":  # it makes a schema of that name
            run(sql, made, tmp_path)
        else:
            with pytest.raises((IntakeError, OutputError)) as caught:
                run(sql, made, tmp_path)
            text_free(str(caught.value), sql)
        assert len(sql.run(f"SELECT * FROM {table}")) == 3


def test_names_are_data(server: str, sql: Sql, tmp_path: Any) -> None:
    table, _ = filled(sql, 5)
    target = f'x"; DROP TABLE {table}; -- `é'
    run(sql, job(server, sql, table, {"table": target, "statement_type": "create_table"}), tmp_path)
    assert len(sql.run(f"SELECT * FROM {table}")) == 5
    quoted = f"`{target.replace('`', '``')}`" if sql.name == "mariadb" else '"' + target.replace('"', '""') + '"'
    assert sql.run(f"SELECT COUNT(*) FROM {quoted}") == [["5"]]


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_nobody_there(server: str, request: pytest.FixtureRequest, tmp_path: Any, name: str) -> None:
    sql: Sql = request.getfixturevalue(name)
    settings = {**sql.settings, "url": f"jdbc:{name}://127.0.0.1:{free_port()}/tests"}
    made = job(server, sql, "t", {"table": "t", "statement_type": "insert"}, jdbc_settings=settings)
    with pytest.raises(OutputError, match="cannot be reached") as caught:
        run(sql, made, tmp_path)
    text_free(str(caught.value), sql)


def test_a_user_who_may_only_read(server: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    sql: Sql = request.getfixturevalue("postgresql")
    table, _ = filled(sql, 3)
    sql.run(
        f"CREATE ROLE r{table} LOGIN PASSWORD 'reads-only'",
        f"GRANT SELECT ON {table} TO r{table}",
        f'CREATE TABLE {table}_out (id INTEGER, "bought_PREDICTION" TEXT)',
        f"GRANT SELECT ON {table}_out TO r{table}",
    )
    names = ("bought_yes_PREDICTION", "bought_no_PREDICTION", "THRESHOLD", "POSITIVE_CLASS")
    output = {"table": f"{table}_out", "statement_type": "insert"}
    made = job(server, sql, table, output, column_names_remapping=dict.fromkeys(names))
    reader = sql.credentials.__class__(jdbc_username=f"r{table}", jdbc_password="reads-only")
    with pytest.raises(OutputError, match=r"(?s)may not do that.*permission denied") as caught:
        run(sql, made, tmp_path, credentials=reader)
    assert "reads-only" not in str(caught.value)

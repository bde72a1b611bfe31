"""Snowflake, straight and by way of an external stage, on its stand-in: whole jobs, and what they leave."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from batch.errors import IntakeError, OutputError, ScoringServerError
from batch.job import Job
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.adapters.conftest import Case
from tests.batch.jobs import HEADER, NO_WAIT, ROOT, csv_text, gold, people_rows
from tests.snowflake_stand_in import PASSWORD, USER, Account, ExternalStage

ROWS = [row for row in people_rows(80) if "\n" not in row[3]]
"""Line ends inside of a text are more than the stand-in can load."""


def fill(account: Account, table: str = "PEOPLE", rows: list[list[str]] = ROWS) -> None:
    """A table with typed columns, some of them null."""
    values = ", ".join(
        "(" + ", ".join(f"'{cell.replace(chr(39), chr(39) * 2)}'" if cell else "NULL" for cell in row) + ")"
        for row in rows
    )
    account.sql(
        f'CREATE TABLE {table} ("ID" VARCHAR, "age" NUMBER(3,0), "income" FLOAT, "city" VARCHAR, "member" BOOLEAN, '
        '"note" VARCHAR)',
        f"INSERT INTO {table} VALUES {values}",
    )


@pytest.fixture
def stage(request: pytest.FixtureRequest, account: Account, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A store with a directory that is an external stage of the account."""
    case: Case = request.getfixturevalue(f"{request.param}_case")
    address = case.address("stage/")
    if case.type == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", case.options["endpoint_url"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", case.options["region"])
    url = {
        "s3": address,
        "gcp": address.replace("gs://", "gcs://"),
        "azure": f"azure://devstoreaccount1.blob.core.windows.net/{address.split('/devstoreaccount1/')[-1]}",
    }[case.type]
    account.stages["MY_STAGE"] = ExternalStage(url, "stage/", case.put, case.stored)
    return case


CLOUDS = pytest.mark.parametrize("stage", ["moto", "azure", "gcs"], indirect=True)
MOTO = pytest.mark.parametrize("stage", ["moto"], indirect=True)


def staged(case: Case) -> dict[str, Any]:
    return {"external_stage": "MY_STAGE", "cloud_storage_type": case.type}


@pytest.fixture
def snowflake_job(account: Account, job_for: Callable[..., Job]) -> Callable[..., Job]:
    def make(
        intake: dict[str, Any] | None = None, output: dict[str, Any] | None = None, table: str = "PEOPLE", **keys: Any
    ) -> Job:
        source = {} if "query" in (intake or {}) else {"table": table, "schema": "LOANS"}
        return job_for(
            intake_settings={"type": "snowflake", **source, **(intake or {})},
            output_settings={
                "type": "snowflake",
                "table": "scored",
                "schema": "LOANS",
                "statement_type": "create_table",
                **(output or {}),
            },
            jdbc_settings={"url": account.jdbc_url},
            **{"passthrough_columns": ["ID", "note", "income"], **keys},
        )

    return make


@pytest.fixture
def run(account: Account, tmp_path: Path) -> Any:
    async def run(job: Job, credentials: Credentials | None = None, **options: Any) -> Any:
        both = replace_credentials(credentials, account)
        return await run_job(job, both, options=RunOptions(retry=NO_WAIT, state_dir=tmp_path / "state", **options))

    return run


def replace_credentials(credentials: Credentials | None, account: Account) -> Credentials:
    values = {name: getattr(credentials or Credentials(), name) for name in Credentials.__struct_fields__}
    user = {"snowflake_username": account.credentials.snowflake_username}
    password = {"snowflake_password": account.credentials.snowflake_password}
    return Credentials(**{**user, **password, **{name: value for name, value in values.items() if value is not None}})


def scored(account: Account) -> dict[str, tuple[Any, ...]]:
    rows = account.sql('SELECT "ID", "bought_yes_PREDICTION", "bought_PREDICTION", "note", "income" FROM SCORED')
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


def expected(server: str) -> dict[str, tuple[Any, ...]]:
    """What the server says of the same rows."""
    answers = gold(server, csv_text(ROWS, HEADER))
    place, label = answers[0].index("bought_yes_PREDICTION"), answers[0].index("bought_PREDICTION")
    return {
        row[0]: (float(answer[place]), answer[label], row[5] or None, float(row[2]) if row[2] else None)
        for row, answer in zip(ROWS, answers[1:], strict=True)
    }


async def test_straight(account: Account, snowflake_job: Any, run: Any, server: str) -> None:
    """Rows by the connector, a table made for the result, nothing left behind."""
    fill(account)

    report = await run(snowflake_job())

    assert (report.rows_read, report.rows_scored) == (len(ROWS), len(ROWS))
    assert scored(account) == expected(server)
    assert account.sql("SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME LIKE 'PREDICTION%'") == []


@CLOUDS
async def test_by_way_of_a_stage(stage: Case, account: Account, snowflake_job: Any, run: Any, server: str) -> None:
    """Unloaded in some files, scored from there, loaded from there, and the stage as it was."""
    fill(account)
    account.rows_per_file = 30
    stage.put("stage/other.txt", b"not ours")
    account.statements.clear()

    await run(snowflake_job(intake=staged(stage), output=staged(stage)), stage.credentials)

    assert scored(account) == expected(server)
    assert stage.stored() == {"stage/other.txt": b"not ours"}
    assert not stage.unfinished()


async def test_an_existing_table(account: Account, snowflake_job: Any, run: Any) -> None:
    """Columns are found by name, whatever their case; those that nobody writes get their defaults."""
    fill(account)
    account.sql(
        'CREATE TABLE SCORED (LOADED VARCHAR, ID VARCHAR, INCOME NUMBER(12,2), "note" VARCHAR, '
        "BOUGHT_YES_PREDICTION FLOAT, BOUGHT_NO_PREDICTION FLOAT, BOUGHT_PREDICTION VARCHAR, "
        "THRESHOLD FLOAT, POSITIVE_CLASS VARCHAR)",
        "INSERT INTO SCORED (ID) VALUES ('before')",
    )

    await run(snowflake_job(output={"statement_type": "insert"}))
    await run(snowflake_job(output={"statement_type": "create_table", "create_table_if_not_exists": True}))

    assert account.sql("SELECT COUNT(*), COUNT(DISTINCT ID) FROM SCORED") == [(1 + 2 * len(ROWS), 1 + len(ROWS))]
    assert account.sql("SELECT MAX(LOADED), COUNT(INCOME) FROM SCORED")[0][0] is None


async def test_a_table_that_is_made_has_types(account: Account, snowflake_job: Any, run: Any) -> None:
    account.sql(
        'CREATE TABLE PEOPLE ("age" NUMBER(3,0), "income" FLOAT, "city" VARCHAR, "member" BOOLEAN, BIG NUMBER(38,0), '
        "PRICE NUMBER(10,2), DAY DATE, MOMENT TIMESTAMP_NTZ, ZONED TIMESTAMP_TZ, HOUR TIME, MORE VARIANT, EMPTY VARCHAR)",
        "INSERT INTO PEOPLE SELECT 40, 0.1, 'Oslo', TRUE, 1234567890123456, 1.20, '2024-02-29', "
        "'2024-01-02 03:04:05.123456', '2024-01-02 03:04:05', '03:04:05', PARSE_JSON('{\"a\": 1}'), NULL",
    )

    await run(snowflake_job(passthrough_columns=[], passthrough_columns_set="all"))

    described = {row[0]: row[1] for row in account.sql("DESCRIBE TABLE SCORED")}
    wanted = {
        "age": "NUMBER(38,0)", "income": "FLOAT", "city": "VARCHAR(16777216)", "member": "BOOLEAN", "BIG": "NUMBER(38,0)",
        "PRICE": "NUMBER(10,2)", "DAY": "DATE", "MOMENT": "TIMESTAMP_NTZ(9)", "ZONED": "TIMESTAMP_TZ(9)",
        "bought_yes_PREDICTION": "FLOAT", "bought_PREDICTION": "VARCHAR(16777216)",
    }  # fmt: skip
    assert {name: described[name] for name in wanted} == wanted
    values = account.sql('SELECT BIG, PRICE, DAY::VARCHAR, MOMENT::VARCHAR, EMPTY, "income" FROM SCORED')[0]
    assert values[0] == 1234567890123456
    assert str(values[1]) == "1.20"
    assert values[2:] == ("2024-02-29", "2024-01-02 03:04:05.123456", None, 0.1)


@MOTO
async def test_dates_on_their_way_through_a_stage(stage: Case, account: Account, snowflake_job: Any, run: Any) -> None:
    """What files have no exact type for is unloaded as text."""
    fill(account)
    query = (
        "SELECT *, '2024-01-02 03:04:05.123456'::TIMESTAMP_NTZ AS MOMENT, '2024-02-29'::DATE AS DAY FROM LOANS.PEOPLE;"
    )

    await run(
        snowflake_job(intake={"query": query, **staged(stage)}, passthrough_columns=["ID", "MOMENT", "DAY"]),
        stage.credentials,
    )

    assert account.sql("SELECT DISTINCT MOMENT, DAY::VARCHAR FROM SCORED") == [
        ("2024-01-02 03:04:05.123456", "2024-02-29")
    ]
    unload = next(sql for sql in account.statements if sql.startswith("COPY INTO @"))
    assert """TO_VARCHAR("MOMENT", 'YYYY-MM-DD"T"HH24:MI:SS.FF9') AS "MOMENT", "DAY" FROM (SELECT""" in unload


@MOTO
async def test_an_order_is_kept(stage: Case, account: Account, snowflake_job: Any, run: Any, tmp_path: Path) -> None:
    """The files of an unload have none, so a query with an order is read straight."""
    fill(account)
    job = snowflake_job(intake={"query": 'select * from LOANS.PEOPLE order by "ID" desc', **staged(stage)})

    await run(job, stage.credentials)

    assert not [sql for sql in account.statements if sql.startswith("COPY INTO @")]


@MOTO
@pytest.mark.parametrize("options", [{"limit": 7}, {"validate": True}], ids=str)
async def test_few_rows_are_not_unloaded(
    options: dict[str, Any], stage: Case, account: Account, snowflake_job: Any, run: Any
) -> None:
    fill(account)

    report = await run(snowflake_job(intake=staged(stage), output=staged(stage)), stage.credentials, **options)

    assert report.rows_read == options.get("limit", 0)
    assert not [sql for sql in account.statements if sql.startswith("COPY INTO @")]
    assert not stage.stored()


@MOTO
async def test_no_rows(stage: Case, account: Account, snowflake_job: Any, run: Any) -> None:
    """An unload of nothing leaves no file; the table is made all the same, with its types."""
    fill(account)
    intake = {"query": "select * from LOANS.PEOPLE where \"ID\" = 'nobody'", **staged(stage)}

    report = await run(snowflake_job(intake=intake, output=staged(stage)), stage.credentials)

    assert report.rows_read == 0
    made = "SELECT COLUMN_NAME, DATA_TYPE FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'SCORED'"
    types = dict(account.sql(made))
    assert (types["ID"], types["income"], types["bought_yes_PREDICTION"]) == ("TEXT", "FLOAT", "FLOAT")
    assert account.sql("SELECT COUNT(*) FROM LOANS.SCORED") == [(0,)]


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        pytest.param("orders", 'CREATE TABLE "ORDERS" {}', id="bare names mean upper case"),
        pytest.param('"orders"', 'CREATE TABLE "orders" {}', id="in quotes as it is"),
        pytest.param("New Orders", 'CREATE TABLE "New Orders" {}', id="not bare, so as it is"),
        pytest.param('a"b', 'CREATE TABLE "a""b" {}', id="a quote in it"),
    ],
)
async def test_names(name: str, sql: str, account: Account, snowflake_job: Any, run: Any) -> None:
    account.sql(sql.format('("age" NUMBER, "income" FLOAT, "city" VARCHAR, "member" BOOLEAN)'))
    job = snowflake_job(table=name, passthrough_columns=[])
    assert (await run(job, validate=True)).status == "VALIDATED"


@MOTO
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"intake": {"external_stage": "NOPE"}}, IntakeError, "external_stage: there is no stage NOPE", id="no stage"),
        pytest.param({"intake": {"external_stage": "MY_STAGE", "cloud_storage_type": "gcp"}}, IntakeError, "MY_STAGE is in s3, but cloud_storage_type is gcp", id="another cloud"),
        pytest.param({"table": "NOPE"}, IntakeError, "Table with name NOPE does not exist", id="no source"),
        pytest.param({"output": {"statement_type": "insert"}}, OutputError, '"LOANS"."SCORED": there is no such table; "create_table_if_not_exists": true would make it', id="no table"),
        pytest.param({"output": {"table": "PEOPLE"}}, OutputError, '"LOANS"."PEOPLE": exists; statement_type insert would add to it', id="a table"),
        pytest.param({"output": {"table": "PEOPLE", "statement_type": "insert"}}, OutputError, "\"LOANS\".\"PEOPLE\": has no column for 'bought_yes_PREDICTION', 'bought_no_PREDICTION', .*; rename or remove them", id="other columns"),
        pytest.param({"intake": {"query": "select X'00' as A, 1 as B"}}, IntakeError, r"query: columns of types that cannot be scored: A \(BINARY\)", id="bytes"),
        pytest.param({"intake": {"query": "select 1 as A, 2 as A"}}, IntakeError, "query: columns that stand there twice: 'A'", id="twice"),
    ],
)  # fmt: skip
async def test_refusals(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    stage: Case,
    account: Account,
    snowflake_job: Any,
    run: Any,
) -> None:
    """Each names the thing, and leaves nothing."""
    fill(account)
    with pytest.raises(error, match=message):
        await run(snowflake_job(**change), stage.credentials)
    assert not stage.stored()
    assert account.sql("SELECT COUNT(*) FROM PEOPLE") == [(len(ROWS),)]


async def test_wrong_password(account: Account, snowflake_job: Any, run: Any) -> None:
    wrong = Credentials(snowflake_username="SCORER", snowflake_password="hunter3")
    with pytest.raises(OutputError, match=r"127.0.0.1: .*Incorrect username or password was specified") as caught:
        await run(snowflake_job(), wrong)
    assert "hunter" not in str(caught.value)


async def test_no_password(account: Account, snowflake_job: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no credentials; set SNOWFLAKE_USERNAME and SNOWFLAKE_PASSWORD"):
        await run_job(snowflake_job(), Credentials(), options=RunOptions(state_dir=tmp_path))


@MOTO
@pytest.mark.parametrize("refused", ["COPY INTO @", 'COPY INTO "', "CREATE TABLE", "ALTER TABLE", "COMMIT"])
async def test_a_failure_leaves_nothing(
    refused: str, stage: Case, account: Account, snowflake_job: Any, run: Any
) -> None:
    """Neither files in the stage, nor a table, nor rows."""
    fill(account)
    account.refuse = refused

    with pytest.raises(IntakeError if refused == "COPY INTO @" else OutputError, match="Insufficient privileges"):
        await run(snowflake_job(intake=staged(stage), output=staged(stage)), stage.credentials)

    account.refuse = None
    assert not stage.stored()
    assert not stage.unfinished()
    assert account.sql("SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'LOANS'") == [("PEOPLE",)]


@MOTO
async def test_a_server_that_fails_leaves_nothing(
    stage: Case, account: Account, snowflake_job: Any, tmp_path: Path
) -> None:
    fill(account)
    job = snowflake_job(intake=staged(stage), output=staged(stage), prediction_endpoint="http://127.0.0.1:9")
    options = RunOptions(retry=RetryPolicy(tries=1), state_dir=tmp_path)

    with pytest.raises(ScoringServerError):
        await run_job(job, replace_credentials(stage.credentials, account), options=options)

    assert not stage.stored()


async def test_values_that_do_not_fit_are_not_told(account: Account, snowflake_job: Any, run: Any) -> None:
    fill(account)
    account.sql(
        'CREATE TABLE SCORED (ID NUMBER, "income" FLOAT, "note" NUMBER, "bought_yes_PREDICTION" FLOAT, '
        '"bought_no_PREDICTION" FLOAT, "bought_PREDICTION" VARCHAR, THRESHOLD FLOAT, POSITIVE_CLASS VARCHAR)'
    )

    with pytest.raises(OutputError) as caught:
        await run(snowflake_job(output={"statement_type": "insert"}))

    assert "***" in str(caught.value)
    assert not [row for row in ROWS if len(row[5]) > 3 and row[5] in str(caught.value)]
    assert account.sql("SELECT COUNT(*) FROM SCORED") == [(0,)]


PROCESS = """
import asyncio, json, os, sys
from pathlib import Path
from batch.definition import definition_from
from batch.runner import RunOptions, run_job
from batch.settings import credentials_from
job = definition_from(json.loads(sys.argv[1])).job
asyncio.run(run_job(job, credentials_from(os.environ), options=RunOptions(state_dir=Path(sys.argv[2]))))
"""


@MOTO
@pytest.mark.parametrize(
    ("way", "has_table", "statement"),
    [
        pytest.param("staged", False, "COPY INTO @", id="unloaded"),
        pytest.param("staged", False, "ALTER TABLE", id="new table in its place"),
        pytest.param("staged", True, "COMMIT", id="rows in an existing table"),
        pytest.param("straight", False, "CREATE TABLE", id="straight: new table made"),
    ],
)
async def test_killed(
    way: str,
    has_table: bool,
    statement: str,
    stage: Case,
    account: Account,
    snowflake_job: Any,
    run: Any,
    tmp_path: Path,
    server: str,
) -> None:
    """``kill -9`` after any statement: the same command ends it, without a row lost or doubled or a file left."""
    fill(account)
    through = staged(stage) if way == "staged" else {}
    query = "select * from LOANS.PEOPLE where {{ current_run_timestamp }} > 0"  # of the first run in the second, too
    keys: dict[str, Any] = {"intake": {"query": query, **through}, "output": through}
    if has_table:
        await run(snowflake_job(**keys), stage.credentials)
        account.sql("DELETE FROM SCORED")
        keys["output"] = {**through, "statement_type": "insert"}
    raw = {
        "prediction_endpoint": server,
        "intake_settings": {"type": "snowflake", **keys["intake"]},
        "output_settings": {"type": "snowflake", "table": "scored", "schema": "LOANS", "statement_type": "create_table", **keys["output"]},
        "jdbc_settings": {"url": account.jdbc_url},
        "passthrough_columns": ["ID", "note", "income"],
    }  # fmt: skip
    environ = {
        "SNOWFLAKE_USERNAME": USER,
        "SNOWFLAKE_PASSWORD": PASSWORD,
        "AWS_ACCESS_KEY_ID": stage.credentials.aws_access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": stage.credentials.aws_secret_access_key or "",
    }
    processes: list[subprocess.Popen[bytes]] = []
    account.after = lambda sql: processes[0].kill() if sql.startswith(statement) else None
    command = [sys.executable, "-c", PROCESS, json.dumps(raw), str(tmp_path / "state")]
    processes.append(
        subprocess.Popen(  # noqa: ASYNC220 - it is there before anything waits
            command, cwd=ROOT, env={**os.environ, **environ}, stderr=subprocess.PIPE
        )
    )
    _, said = await to_thread.run_sync(processes[0].communicate)
    assert processes[0].returncode == -signal.SIGKILL, said.decode()
    account.after = lambda sql: None
    account.statements.clear()

    await run(snowflake_job(**keys), stage.credentials)

    assert scored(account) == expected(server)
    unloads = [sql for sql in account.statements if sql.startswith("COPY INTO @")]
    assert bool(unloads) == (statement == "COPY INTO @")
    assert not stage.stored()
    assert not stage.unfinished()
    tables = account.sql("SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'LOANS'")
    assert sorted(tables) == [("PEOPLE",), ("SCORED",)]

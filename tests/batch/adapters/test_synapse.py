"""Synapse, straight and by way of Blob storage, on its stand-in and on Azurite: whole jobs, and what they leave."""

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

from batch.errors import IntakeError, OutputError
from batch.job import Job
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.adapters.conftest import Case
from tests.batch.jobs import HEADER, NO_WAIT, ROOT, csv_text, gold, people_rows
from tests.stores import AZURITE_KEY
from tests.tds_stand_in import PASSWORD, USER, DataSource, Pool, with_synapse

ROWS = people_rows(250)
STAGED = {"external_data_source": "my_source"}


def fill(pool: Pool) -> None:
    values = ", ".join(
        "(" + ", ".join(f"'{cell.replace(chr(39), chr(39) * 2)}'" if cell else "NULL" for cell in row) + ")"
        for row in ROWS
    )
    pool.sql(
        'CREATE TABLE dbo.people ("ID" VARCHAR, "age" BIGINT, "income" DOUBLE, "city" VARCHAR, "member" BOOLEAN, '
        '"note" VARCHAR)',
        f"INSERT INTO dbo.people VALUES {values}",
    )


@pytest.fixture
def blobs(azure_case: Case, pool: Pool) -> Case:
    """A container with a directory that is an external data source of the pool."""
    container = azure_case.address("").rstrip("/").rpartition("/")[2]
    host = "devstoreaccount1.blob.core.windows.net"
    pool.sources["my_source"] = DataSource(
        f"wasbs://{container}@{host}/stage/", f"https://{host}/{container}/stage/", "stage/",
        azure_case.put, azure_case.stored, AZURITE_KEY,
    )  # fmt: skip
    return azure_case


@pytest.fixture
def synapse_job(pool: Pool, job_for: Callable[..., Job]) -> Callable[..., Job]:
    def make(
        intake: dict[str, Any] | None = None, output: dict[str, Any] | None = None, table: str = "people", **keys: Any
    ) -> Job:
        source = {} if "query" in (intake or {}) else {"table": table, "schema": "dbo"}
        return job_for(
            intake_settings={"type": "synapse", **source, **(intake or {})},
            output_settings={"type": "synapse", "table": "scored", "statement_type": "create_table", **(output or {})},
            jdbc_settings={"url": pool.jdbc_url},
            **{"passthrough_columns": ["ID", "note", "income", "member"], **keys},
        )

    return make


@pytest.fixture
def run(tmp_path: Path) -> Any:
    async def run(job: Job, credentials: Credentials | None = None, **options: Any) -> Any:
        both = with_synapse(credentials or Credentials())
        return await run_job(job, both, options=RunOptions(retry=NO_WAIT, state_dir=tmp_path / "state", **options))

    return run


def scored(pool: Pool) -> dict[str, tuple[Any, ...]]:
    names = '"ID", "bought_yes_PREDICTION", "bought_PREDICTION", "note", "income", "member"'
    rows = pool.sql(f"SELECT {names} FROM dbo.scored")
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


def expected(server: str) -> dict[str, tuple[Any, ...]]:
    answers = gold(server, csv_text(ROWS, HEADER))
    place, label = answers[0].index("bought_yes_PREDICTION"), answers[0].index("bought_PREDICTION")
    return {
        row[0]: (float(answer[place]), answer[label], row[5], float(row[2]) if row[2] else None, row[4] == "true")
        for row, answer in zip(ROWS, answers[1:], strict=True)
    }


def tables(pool: Pool) -> list[str]:
    rows = pool.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'dbo'")
    return sorted(row[0] for row in rows)


async def test_straight(pool: Pool, synapse_job: Any, run: Any, server: str) -> None:
    fill(pool)

    report = await run(synapse_job())

    assert (report.rows_read, report.rows_scored) == (len(ROWS), len(ROWS))
    assert scored(pool) == expected(server)
    assert tables(pool) == ["people", "scored"]


async def test_by_way_of_blob_storage(blobs: Case, pool: Pool, synapse_job: Any, run: Any, server: str) -> None:
    """Unloaded in some files, scored from there, loaded from there, and the storage as it was."""
    fill(pool)
    blobs.put("stage/other.txt", b"not ours")

    await run(synapse_job(STAGED, STAGED), blobs.credentials)

    assert scored(pool) == expected(server)
    assert blobs.stored() == {"stage/other.txt": b"not ours"}
    assert not pool.external
    assert tables(pool) == ["people", "scored"]
    kinds = [" ".join(sql.split()[:3]) for sql in pool.statements if sql.startswith(("CREATE", "COPY", "RENAME"))]
    assert [kind.partition(" [")[0] for kind in kinds] == [
        "CREATE EXTERNAL FILE", "CREATE EXTERNAL TABLE", "CREATE TABLE", "COPY INTO", "RENAME OBJECT",
    ]  # fmt: skip


@pytest.mark.parametrize("way", [{}, STAGED], ids=["straight", "staged"])
async def test_an_existing_table(way: dict[str, str], blobs: Case, pool: Pool, synapse_job: Any, run: Any) -> None:
    """Columns are found by name, whatever their case; those that nobody writes get their defaults."""
    fill(pool)
    pool.sql(
        'CREATE TABLE dbo.scored (loaded VARCHAR, id VARCHAR, INCOME DECIMAL(12,2), "note" VARCHAR, member BOOLEAN, '
        "bought_YES_prediction DOUBLE, bought_NO_prediction DOUBLE, BOUGHT_PREDICTION VARCHAR, "
        "threshold DOUBLE, positive_class VARCHAR)",
        "INSERT INTO dbo.scored (id) VALUES ('before')",
    )

    await run(synapse_job(way, {**way, "statement_type": "insert"}), blobs.credentials)

    assert pool.sql("SELECT COUNT(*), COUNT(DISTINCT id), COUNT(loaded) FROM dbo.scored") == [(251, 251, 0)]
    assert tables(pool) == ["people", "scored"]
    assert not blobs.stored()


async def test_an_order_is_kept(blobs: Case, pool: Pool, synapse_job: Any, run: Any, tmp_path: Path) -> None:
    """The files of an unload have none, so a query with an order is read straight."""
    fill(pool)
    job = synapse_job({"query": 'select * from dbo.people order by "ID" desc;', **STAGED})

    await run(job, blobs.credentials)

    assert not [sql for sql in pool.statements if sql.startswith("CREATE EXTERNAL")]


@pytest.mark.parametrize("options", [{"limit": 7}, {"validate": True}], ids=str)
async def test_few_rows_are_not_unloaded(
    options: dict[str, Any], blobs: Case, pool: Pool, synapse_job: Any, run: Any
) -> None:
    fill(pool)

    report = await run(synapse_job(STAGED, STAGED), blobs.credentials, **options)

    assert report.rows_read == options.get("limit", 0)
    assert not [sql for sql in pool.statements if sql.startswith("CREATE EXTERNAL")]
    assert not blobs.stored()


async def test_no_rows(blobs: Case, pool: Pool, synapse_job: Any, run: Any) -> None:
    fill(pool)
    query = {"query": "select * from dbo.people where \"ID\" = 'nobody'"}

    report = await run(synapse_job({**query, **STAGED}, STAGED), blobs.credentials)

    assert report.rows_read == 0
    assert tables(pool) == ["people", "scored"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"intake": {"external_data_source": "nope"}}, IntakeError, "external_data_source: there is no external data source nope", id="no source"),
        pytest.param({"table": "nope"}, IntakeError, "Invalid object name: .* nope does not exist", id="no table to read"),
        pytest.param({"output": {"statement_type": "insert"}}, OutputError, r'\[dbo\].\[scored\]: there is no such table; "create_table_if_not_exists": true would make it', id="no table"),
        pytest.param({"output": {"table": "people"}}, OutputError, r"\[dbo\].\[people\]: exists; statement_type insert would add to it", id="a table"),
        pytest.param({"output": {"table": "people", "statement_type": "insert"}}, OutputError, r"\[dbo\].\[people\]: has no column for 'bought_yes_PREDICTION', .*; rename or remove them", id="other columns"),
    ],
)  # fmt: skip
async def test_refusals(
    change: dict[str, Any], error: type[Exception], message: str, blobs: Case, pool: Pool, synapse_job: Any, run: Any
) -> None:
    """Each names the thing, and leaves nothing."""
    fill(pool)
    with pytest.raises(error, match=message):
        await run(synapse_job(**change), blobs.credentials)
    assert not blobs.stored()
    assert tables(pool) == ["people"]


async def test_wrong_password(pool: Pool, synapse_job: Any, tmp_path: Path) -> None:
    wrong = Credentials(synapse_username=USER, synapse_password="hunter3")
    with pytest.raises(OutputError, match=r"127.0.0.1: Login failed for user 'sa'") as caught:
        await run_job(synapse_job(), wrong, options=RunOptions(state_dir=tmp_path))
    assert "hunter" not in str(caught.value)


async def test_no_password(synapse_job: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no credentials; set SYNAPSE_USERNAME and SYNAPSE_PASSWORD"):
        await run_job(synapse_job(), Credentials(), options=RunOptions(state_dir=tmp_path))


async def test_the_key_of_the_storage_is_not_told(blobs: Case, pool: Pool, synapse_job: Any, run: Any) -> None:
    """Neither in an error that the server makes of the statement that has it."""
    fill(pool)
    source = pool.sources["my_source"]
    pool.sources["my_source"] = DataSource(**{**vars(source), "secret": "another"})
    with pytest.raises(OutputError, match="cannot be listed") as caught:
        await run(synapse_job(output=STAGED), blobs.credentials)
    assert AZURITE_KEY[:10] not in str(caught.value)


@pytest.mark.parametrize("refused", ["CREATE EXTERNAL TABLE", "COPY INTO", "CREATE TABLE", "RENAME OBJECT"])
async def test_a_failure_leaves_nothing(refused: str, blobs: Case, pool: Pool, synapse_job: Any, run: Any) -> None:
    fill(pool)
    pool.refuse = refused

    with pytest.raises((IntakeError, OutputError), match="permission was denied"):
        await run(synapse_job(STAGED, STAGED), blobs.credentials)

    assert not blobs.stored()
    assert not pool.external
    assert tables(pool) == ["people"]


@pytest.mark.parametrize("way", [{}, STAGED], ids=["straight", "staged"])
async def test_values_that_do_not_fit_are_not_told(
    way: dict[str, str], blobs: Case, pool: Pool, synapse_job: Any, run: Any
) -> None:
    fill(pool)
    pool.sql(
        'CREATE TABLE dbo.scored (ID VARCHAR, income DOUBLE, "note" BIGINT, member BOOLEAN, bought_yes_PREDICTION DOUBLE, '
        "bought_no_PREDICTION DOUBLE, bought_PREDICTION VARCHAR, THRESHOLD DOUBLE, POSITIVE_CLASS VARCHAR)"
    )

    with pytest.raises(OutputError, match=r"Could not convert string \*\*\*") as caught:
        await run(synapse_job(way, {**way, "statement_type": "insert"}), blobs.credentials)

    assert 'a,"b"' not in str(caught.value)
    assert pool.sql("SELECT COUNT(*) FROM dbo.scored") == [(0,)]
    assert tables(pool) == ["people", "scored"]


PROCESS = """
import asyncio, json, os, sys
from pathlib import Path
from batch.definition import definition_from
from batch.runner import RunOptions, run_job
from batch.settings import credentials_from
job = definition_from(json.loads(sys.argv[1])).job
asyncio.run(run_job(job, credentials_from(os.environ), options=RunOptions(state_dir=Path(sys.argv[2]))))
"""


@pytest.mark.parametrize(
    ("has_table", "statement"),
    [
        pytest.param(False, "CREATE EXTERNAL TABLE", id="unloaded"),
        pytest.param(False, "COPY INTO", id="rows beside"),
        pytest.param(False, "RENAME OBJECT", id="new table in its place"),
        pytest.param(True, "DELETE FROM", id="rows moved, not committed"),
        pytest.param(True, "COMMIT", id="rows moved"),
    ],
)
async def test_killed(
    has_table: bool, statement: str, blobs: Case, pool: Pool, synapse_job: Any, run: Any, tmp_path: Path, server: str
) -> None:
    """``kill -9`` after a statement: the same command ends it, without a row lost or doubled or a file left."""
    fill(pool)
    output = {**STAGED, "statement_type": "create_table"}
    if has_table:
        await run(synapse_job(STAGED, output), blobs.credentials)
        pool.sql("DELETE FROM dbo.scored")
        output = {**STAGED, "statement_type": "insert"}
    raw = {
        "prediction_endpoint": server,
        "intake_settings": {"type": "synapse", "table": "people", "schema": "dbo", **STAGED},
        "output_settings": {"type": "synapse", "table": "scored", **output},
        "jdbc_settings": {"url": pool.jdbc_url},
        "passthrough_columns": ["ID", "note", "income", "member"],
    }
    secrets = {
        "SYNAPSE_USERNAME": USER,
        "SYNAPSE_PASSWORD": PASSWORD,
        "AZURE_CONNECTION_STRING": blobs.credentials.azure_connection_string or "",
    }
    processes: list[subprocess.Popen[bytes]] = []
    pool.after = lambda sql: processes[0].kill() if sql.startswith(statement) else None
    command = [sys.executable, "-c", PROCESS, json.dumps(raw), str(tmp_path / "state")]
    processes.append(  # it is there before anything waits
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **secrets}, stderr=subprocess.PIPE)  # noqa: ASYNC220
    )
    _, said = await to_thread.run_sync(processes[0].communicate)
    assert processes[0].returncode == -signal.SIGKILL, said.decode()
    pool.after = lambda sql: None

    await run(synapse_job(STAGED, output), blobs.credentials)

    assert scored(pool) == expected(server)
    assert not blobs.stored()
    assert not pool.external
    assert tables(pool) == ["people", "scored"]

"""A killed job between databases is continued: no row is there twice, none is missing."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from batch.adapters import jdbc
from batch.databases import JdbcOutput
from batch.definition import definition_from
from batch.errors import RowRefused, StateMismatch
from batch.jdbc.connections import Database
from batch.jdbc.writing import CHECKPOINTS, Writing
from batch.job import JdbcSettings
from batch.runner import RunOptions, run_job
from tests.batch.faults import proxy
from tests.batch.jobs import NO_WAIT, ROOT, read_csv
from tests.batch.test_jdbc import filled
from tests.databases import Sql

N_ROWS: Final = 400
PROCESS: Final = """
import asyncio, json, pathlib, sys
from batch.definition import definition_from
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
job = definition_from(json.loads(sys.argv[1])).job
credentials = Credentials(jdbc_username=sys.argv[2], jdbc_password=sys.argv[3])
asyncio.run(run_job(job, credentials, options=RunOptions(state_dir=pathlib.Path(sys.argv[4]))))
"""


def definition(url: str, sql: Sql, query: str, target: str, **output: Any) -> dict[str, Any]:
    return {
        "prediction_endpoint": url,
        "intake_settings": {"type": "jdbc", "query": query},
        "output_settings": {"type": "jdbc", "table": target, "statement_type": "create_table", **output},
        "jdbc_settings": sql.settings,
        "passthrough_columns": ["id"],
        "mini_batch_size": 20,
    }


def started(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PROCESS, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ids(sql: Sql, table: str) -> list[int]:
    quote = "`" if sql.name == "mariadb" else '"'
    return [int(row[0] or -1) for row in sql.run(f"SELECT {quote}id{quote} FROM {quote}{table}{quote} ORDER BY 1")]


def checkpoints(sql: Sql) -> int:
    quote = "`" if sql.name == "mariadb" else '"'
    return int(sql.run(f"SELECT COUNT(*) FROM {quote}{CHECKPOINTS}{quote}")[0][0] or -1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "commit"), [("postgresql", "job"), ("postgresql", "batch"), ("mariadb", "batch")])
async def test_killed_twice(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, name: str, commit: str
) -> None:
    sql: Sql = request.getfixturevalue(name)
    table, _ = filled(sql, N_ROWS)
    target, options = sql.fresh(), RunOptions(retry=NO_WAIT, state_dir=tmp_path)
    async with proxy(server) as between:
        made = definition(between.url, sql, f"SELECT * FROM {table} ORDER BY id", target, commit=commit)
        for after in (10, 5):
            last = len(between.seen) + after
            process = started(json.dumps(made), sql.user, sql.password, str(tmp_path))

            def kill(number: int, process: Any = process, last: int = last) -> None:
                if number >= last:
                    process.send_signal(signal.SIGKILL)

            between.arrived = kill
            _, errors = await asyncio.to_thread(process.communicate)
            assert process.returncode == -signal.SIGKILL, errors.decode()
            await asyncio.to_thread(_unlocked, sql, target)
        between.arrived = lambda _: None
        report = await run_job(definition_from(made).job, sql.credentials, options=options)
    assert report.rows_resumed > 0
    assert ids(sql, target) == list(range(N_ROWS))
    assert checkpoints(sql) == 0


def _unlocked(sql: Sql, target: str) -> None:
    """The server has noticed that the process is gone: an open transaction would keep us waiting."""
    quote = "`" if sql.name == "mariadb" else '"'
    sql.run(f"CREATE TABLE IF NOT EXISTS {quote}{target}_x{quote} (a INTEGER)")


@pytest.mark.parametrize("name", ["hsqldb", "h2", "postgresql", "mariadb"])
async def test_killed_just_after_the_commit(request: pytest.FixtureRequest, name: str) -> None:
    """What was committed is passed over, whatever the journal knew of it."""
    import pyarrow as pa

    sql: Sql = request.getfixturevalue(name)
    target = sql.fresh()
    settings, connection = JdbcOutput(table=target, statement_type="create_table"), JdbcSettings(**sql.settings)
    rows = pa.table({"id": pa.array(range(100), pa.int64())})

    class Notes:
        found: tuple[str, ...] = ()

        def note(self, token: str) -> None:
            self.found = (*self.found, token)

    notes = Notes()
    database = Database.found(connection, sql.credentials)
    killed = Writing(database, settings, notes)
    killed.begin("a run")
    killed.write(rows)
    killed.commit()
    killed.close()
    async with (
        jdbc.open_output(settings, connection, sql.credentials, notes) as output,
        output.open_table("a run") as write,
    ):
        await write(rows.slice(0, 70))
        await write(rows.slice(70))
    assert ids(sql, target) == list(range(100))
    assert checkpoints(sql) == 0


async def test_rows_that_changed_meanwhile_are_not_guessed_at(server: str, hsqldb: Sql, tmp_path: Path) -> None:
    table, _ = filled(hsqldb, 200)
    query = f"SELECT id, CASE WHEN id = 150 AND member THEN 'old' ELSE CAST(age AS VARCHAR(9)) END AS age, income, city, member FROM {table} ORDER BY id"
    made = definition(server, hsqldb, query, "") | {
        "output_settings": {"type": "filesystem", "path": str(tmp_path / "out.csv")},
        "errors": {"mode": "abort"},
    }
    job = definition_from(made).job
    hsqldb.run(f"UPDATE {table} SET member = TRUE WHERE id = 150")
    options = RunOptions(retry=NO_WAIT)
    with pytest.raises(RowRefused, match="150"):
        await run_job(job, hsqldb.credentials, options=options)
    hsqldb.run(f"UPDATE {table} SET member = FALSE WHERE id = 150", f"UPDATE {table} SET age = age + 1 WHERE id = 3")
    with pytest.raises(StateMismatch, match="ORDER BY"):
        await run_job(job, hsqldb.credentials, options=options)
    hsqldb.run(f"UPDATE {table} SET age = age - 1 WHERE id = 3")
    report = await run_job(job, hsqldb.credentials, options=options)
    assert report.rows_resumed > 0
    assert sorted(int(row[-1]) for row in read_csv(tmp_path / "out.csv")[1:]) == list(range(200))

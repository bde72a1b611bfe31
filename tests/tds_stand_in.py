"""
A stand-in for a Synapse SQL pool: enough of TDS 7.4 for Microsoft's driver, with DuckDB behind it.

Statements come as batches; sqlglot reads them as T-SQL. COPY INTO and CREATE EXTERNAL TABLE AS SELECT go to a real
store of `tests.stores`. It shows that the driver logs in, asks and understands, which statements come in which order, and
what becomes of the rows; not whether Synapse takes each option.
"""

import datetime as dt
import gzip
import io
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import sqlglot

from batch.settings import Credentials
from tests.stores import is_missing

USER, PASSWORD = "sa", "hunter2;{synapse}"
BATCH, ATTENTION, PRELOGIN, LOGIN, REPLY = 0x01, 0x06, 0x12, 0x10, 0x04
COLLATION = b"\x09\x04\xd0\x00\x34"
DAY_0 = dt.date(1, 1, 1).toordinal()


class Refused(Exception):
    """An answer of the server."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class DataSource:
    """An external data source, and a way into its store."""

    location: str
    address: str
    """By https, with the container."""
    prefix: str
    """Of its blobs' names."""
    put: Callable[[str, bytes], None]
    stored: Callable[[], dict[str, bytes]]
    secret: str


@dataclass
class Pool:
    """The stand-in, as a test sees it."""

    port: int = 0
    database: Any = field(default_factory=lambda: duckdb.connect(":memory:"))
    statements: list[str] = field(default_factory=list)
    sources: dict[str, DataSource] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    """External tables and file formats."""
    refuse: str | None = None
    after: Callable[[str], None] = lambda sql: None
    lock: Any = field(default_factory=threading.RLock)

    @property
    def jdbc_url(self) -> str:
        return f"jdbc:sqlserver://127.0.0.1:{self.port};database=pool;encrypt=false"

    @property
    def credentials(self) -> dict[str, str]:
        return {"synapse_username": USER, "synapse_password": PASSWORD}

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """In DuckDB's own dialect, behind the protocol; the rows of the last one."""
        with self.lock:
            cursor = self.database.cursor()
            for statement in statements:
                cursor.execute(statement)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows


@contextmanager
def synapse_pool() -> Iterator[Pool]:
    pool = Pool()
    pool.sql("CREATE SCHEMA dbo")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(EOFError, ConnectionError):
                Connection(pool, self.request).serve()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        pool.port = server.server_address[1]
        yield pool
        server.shutdown()
        thread.join(10)


@pytest.fixture
def pool() -> Iterator[Pool]:
    for library in ("ltdl", "krb5", "gssapi_krb5"):
        if find_library(library) is None:
            is_missing(f"lib{library}, which Microsoft's driver needs")
    with synapse_pool() as started:
        yield started


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("utf-16-le")


def _long(text: str) -> bytes:
    return struct.pack("<H", len(text)) + text.encode("utf-16-le")


def _change(kind: int, data: bytes) -> bytes:
    return b"\xe3" + struct.pack("<HB", len(data) + 1, kind) + data


def _done(status: int, rows: int = 0) -> bytes:
    return struct.pack("<BHHQ", 0xFD, status, 0xC1, rows)


def _error(error: Refused) -> bytes:
    data = struct.pack("<IBB", error.number, 1, 16) + _long(str(error)[:2000]) + _short("pool") + _short("")
    data += struct.pack("<I", 1)
    return b"\xaa" + struct.pack("<H", len(data)) + data


class Connection:
    """One client, from its login on."""

    def __init__(self, pool: Pool, stream: Any) -> None:
        self.pool = pool
        self.stream = stream
        self.packet = 4096
        self.cursor = pool.database.cursor()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.stream.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _message(self) -> tuple[int, bytes]:
        body = b""
        while True:
            head = self._read(8)
            body += self._read(struct.unpack(">H", head[2:4])[0] - 8)
            if head[1] & 1:
                return head[0], body

    def _send(self, body: bytes) -> None:
        size = self.packet - 8
        parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        for number, part in enumerate(parts):
            last = int(number == len(parts) - 1)
            head = struct.pack(">BBHHBB", REPLY, last, len(part) + 8, 0, (number + 1) & 255, 0)
            self.stream.sendall(head + part)

    def serve(self) -> None:
        """Until the client goes."""
        assert self._message()[0] == PRELOGIN
        fields = [(0, b"\x10\x00\x07\xd0\x00\x00"), (1, b"\x02"), (2, b"\x00"), (3, b""), (4, b"\x00")]
        head, data = b"", b""
        for token, value in fields:
            head += struct.pack(">BHH", token, 5 * len(fields) + 1 + len(data), len(value))
            data += value
        self._send(head + b"\xff" + data)
        kind, body = self._message()
        if kind != LOGIN or not self._login(body):
            return
        while True:
            kind, body = self._message()
            if kind == ATTENTION:
                self._send(_done(0x20))
                continue
            if kind != BATCH:
                self._send(_error(Refused(40000, f"packets of type {kind:#x} are not understood")) + _done(2))
                continue
            start = struct.unpack("<I", body[:4])[0]
            self._send(self._answer(body[start:].decode("utf-16-le")))

    def _login(self, body: bytes) -> bool:
        def text(place: int) -> str:
            start, count = struct.unpack("<HH", body[place : place + 4])
            return body[start : start + 2 * count].decode("utf-16-le")

        start, count = struct.unpack("<HH", body[44:48])
        scrambled = body[start : start + 2 * count]
        password = bytes(((byte ^ 0xA5) << 4 | (byte ^ 0xA5) >> 4) & 255 for byte in scrambled).decode("utf-16-le")
        if (text(40), password) != (USER, PASSWORD):
            self._send(_error(Refused(18456, f"Login failed for user '{text(40)}'.")) + _done(2))
            return False
        wanted = min(max(struct.unpack("<I", body[8:12])[0] or 4096, 512), 32767)
        acknowledged = b"\x01" + struct.pack(">I", 0x74000004) + _short("stand-in") + b"\x0c\x00\x07\xd0"
        self._send(
            _change(1, _short(text(68) or "master") + _short("master"))
            + _change(7, b"\x05" + COLLATION + b"\x00")
            + b"\xad"
            + struct.pack("<H", len(acknowledged))
            + acknowledged
            + _change(4, _short(str(wanted)) + _short("4096"))
            + _done(0)
        )
        self.packet = wanted
        return True

    def _answer(self, sql: str) -> bytes:
        sql = sql.strip()
        if re.match(r"set |use |select @@", sql, re.IGNORECASE):  # of the driver itself
            return _done(0)
        pool = self.pool
        pool.statements.append(sql)
        try:
            if pool.refuse is not None and pool.refuse in sql:
                raise Refused(229, "The permission was denied on the object.")
            with pool.lock:
                found = self._carried_out(sql)
            pool.after(sql)
        except Refused as error:
            return _error(error) + _done(2)
        except duckdb.CatalogException as error:
            return _error(Refused(208, f"Invalid object name: {error}")) + _done(2)
        except duckdb.Error as error:
            return _error(Refused(245, str(error))) + _done(2)
        if found is None:
            return _done(0)
        columns, rows = found
        return _described(columns) + b"".join(_row(columns, row) for row in rows) + _done(0x10, len(rows))

    def _carried_out(self, sql: str) -> tuple[Sequence[tuple[str, str]], Sequence[Sequence[Any]]] | None:
        for pattern, work in SPECIAL:
            if found := re.fullmatch(pattern, sql, re.DOTALL):
                return work(self, found)
        for statement in sqlglot.parse(sql, read="tsql"):
            assert statement is not None
            assert not isinstance(statement, sqlglot.exp.Command), sql
            self.cursor.execute(_in_duckdb(statement))
        if not sql.upper().startswith("SELECT"):
            return None
        described = [(column[0], str(column[1])) for column in self.cursor.description]
        return described, self.cursor.fetchall()


def _in_duckdb(statement: Any) -> str:
    text = re.sub(r"\bBIT\b", "BOOLEAN", statement.sql(dialect="duckdb"))
    return re.sub(r"\b(FLOAT|REAL)\b", "DOUBLE", text)


def _name(text: str) -> str:
    return ".".join(f'"{part}"' for part in re.findall(r"\[([^\]]*)\]", text))


def _location(connection: Connection, found: re.Match[str]) -> Any:
    source = connection.pool.sources.get(found[1])
    return [("location", "VARCHAR")], [[source.location]] if source else []


def _external(connection: Connection, found: re.Match[str]) -> None:
    if found[1] == "CREATE":
        assert "FORMAT_TYPE = PARQUET" in found[0]
        connection.pool.external.add(found[2])
    elif found[2] not in connection.pool.external:
        raise Refused(3701, f"Cannot drop {found[2]}, because it does not exist.")
    else:
        connection.pool.external.remove(found[2])


def _unloaded(connection: Connection, found: re.Match[str]) -> None:
    table, location, source_name, written, select = found.groups()
    source = connection.pool.sources[source_name]
    if f"[{written}]" not in connection.pool.external:
        raise Refused(46530, "External file format does not exist")
    connection.pool.external.add(table)
    rows = connection.cursor.execute(_in_duckdb(sqlglot.parse_one(select, read="tsql"))).to_arrow_table()
    for number, start in enumerate(range(0, rows.num_rows, 100)):
        sink = io.BytesIO()
        pyarrow.parquet.write_table(rows.slice(start, 100), sink, compression="snappy")
        source.put(f"{source.prefix}{location.strip('/')}/QID1_{number}.parq", sink.getvalue())


def _loaded(connection: Connection, found: re.Match[str]) -> None:
    table, columns, address, identity, secret, options = found.groups()
    source = next(source for source in connection.pool.sources.values() if address.startswith(source.address))
    if (identity, secret) != ("Storage Account Key", source.secret):
        raise Refused(13807, f"Content of directory on path '{address}' cannot be listed; SECRET = '{secret}'")
    assert "FIELDQUOTE = '\"'" in options
    place = source.prefix + address.removeprefix(source.address).removesuffix("*.csv.gz")
    for name, data in source.stored().items():
        if name.startswith(place) and name.endswith(".csv.gz"):
            rows = pyarrow.csv.read_csv(
                io.BytesIO(gzip.decompress(data)),
                pyarrow.csv.ReadOptions(autogenerate_column_names=True),
                pyarrow.csv.ParseOptions(newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types={f"f{place}": pa.string() for place in range(columns.count("[") + 1)},
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            connection.cursor.register("_loaded", rows)
            names = ", ".join(f'"{name}"' for name in re.findall(r"\[([^\]]*)\]", columns))
            connection.cursor.execute(f"INSERT INTO {_name(table)} ({names}) SELECT * FROM _loaded")
            connection.cursor.unregister("_loaded")


def _renamed(connection: Connection, found: re.Match[str]) -> None:
    connection.cursor.execute(f"ALTER TABLE {_name(found[1])} RENAME TO {_name(found[2])}")


def _transaction(connection: Connection, found: re.Match[str]) -> None:
    if found[0].startswith("IF"):
        with suppress(duckdb.Error):
            connection.cursor.execute("ROLLBACK")
    else:
        connection.cursor.execute(found[1])


SPECIAL: Sequence[tuple[str, Callable[[Connection, re.Match[str]], Any]]] = (
    (r"SELECT location FROM sys\.external_data_sources WHERE name = N'([^']*)'", _location),
    (r"(CREATE|DROP) EXTERNAL FILE FORMAT (\[\w+\])(?: WITH \(.*\))?", _external),
    (r"(DROP) EXTERNAL TABLE (\[\w+\]\.\[\w+\])", _external),
    (r"CREATE EXTERNAL TABLE (\[\w+\]\.\[\w+\]) WITH \(LOCATION = '([^']*)', DATA_SOURCE = \[([^\]]*)\], FILE_FORMAT = \[(\w+)\]\) AS (SELECT .*)", _unloaded),
    (r"COPY INTO (\S+) \((.*)\) FROM '([^']*)' WITH \(FILE_TYPE = 'CSV', CREDENTIAL = \(IDENTITY = '([^']*)', SECRET = '([^']*)'\), (.*)\)", _loaded),
    (r"RENAME OBJECT (\S+) TO (\S+)", _renamed),
    (r"(BEGIN|COMMIT|ROLLBACK) TRANSACTION|IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION", _transaction),
)  # fmt: skip
"""Statements that sqlglot does not know, or DuckDB does not have."""


def _kind(type_: str) -> str:
    """How values of a DuckDB type are sent."""
    if type_ in ("TINYINT", "SMALLINT", "INTEGER"):
        return "int"
    if type_ in ("BIGINT", "DOUBLE", "BOOLEAN", "DATE"):
        return type_.lower()
    if type_.startswith("DECIMAL") or type_ == "HUGEINT":
        return "decimal"
    return "timestamp" if type_ == "TIMESTAMP" else "blob" if type_ == "BLOB" else "text"


def _digits(type_: str) -> tuple[int, int]:
    found = re.match(r"DECIMAL\((\d+),\s*(\d+)\)", type_)
    return (int(found[1]), int(found[2])) if found else (38, 0)


def _described(columns: Sequence[tuple[str, str]]) -> bytes:
    data = b"\x81" + struct.pack("<H", len(columns))
    for name, type_ in columns:
        infos = {
            "int": b"\x26\x04",
            "bigint": b"\x26\x08",
            "double": b"\x6d\x08",
            "boolean": b"\x68\x01",
            "decimal": b"\x6a\x11" + bytes(_digits(type_)),
            "date": b"\x28",
            "timestamp": b"\x2a\x06",
            "blob": b"\xa5\x40\x1f",
            "text": b"\xe7\xff\xff" + COLLATION,
        }
        data += struct.pack("<IH", 0, 1) + infos[_kind(type_)] + _short(name)
    return data


def _row(columns: Sequence[tuple[str, str]], row: Sequence[Any]) -> bytes:
    return b"\xd1" + b"".join(_value(type_, value) for (_, type_), value in zip(columns, row, strict=True))


def _value(type_: str, value: Any) -> bytes:
    kind = _kind(type_)
    if kind == "text":
        if value is None:
            return b"\xff" * 8
        text = str(value).encode("utf-16-le")
        return struct.pack("<QI", len(text), len(text)) + text + (b"\0\0\0\0" if text else b"")
    if kind == "blob":
        return b"\xff\xff" if value is None else struct.pack("<H", len(value)) + value
    if value is None:
        return b"\0"
    if kind == "decimal":
        number = int(Decimal(value).scaleb(_digits(type_)[1]))
        return b"\x11" + bytes([number >= 0]) + abs(number).to_bytes(16, "little")
    if kind in ("date", "timestamp"):
        day = (value.toordinal() - DAY_0).to_bytes(3, "little")
        if kind == "date":
            return b"\x03" + day
        passed = ((value.hour * 60 + value.minute) * 60 + value.second) * 10**6 + value.microsecond
        return b"\x08" + passed.to_bytes(5, "little") + day
    packed = {"int": "<i", "bigint": "<q", "double": "<d", "boolean": "<?"}[kind]
    return bytes([struct.calcsize(packed)]) + struct.pack(packed, value)


def with_synapse(credentials: Credentials) -> Credentials:
    """Those of a store, and of the pool."""
    values = {name: getattr(credentials, name) for name in Credentials.__struct_fields__}
    return Credentials(**{**values, "synapse_username": USER, "synapse_password": PASSWORD})

"""
The T-SQL for Synapse, word by word, and parsed by sqlglot where it knows the statement.

A pool is not in reach of tests. Statements for external tables are ones that sqlglot misreads, so only their text is
compared.
"""

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from batch.adapters.synapse import statements
from batch.adapters.synapse.address import Address
from batch.adapters.synapse.output import as_loaded
from batch.adapters.synapse.session import in_words
from batch.adapters.synapse.statements import TableName
from batch.errors import IntakeError, JobError

TABLE = TableName.of("sco]red", "my schema")
BESIDE = TABLE.beside("ab")
SCHEMA = pa.schema(
    {"p": pa.float64(), "ID": pa.string(), "n": pa.int32(), "price": pa.decimal128(10, 2), "day": pa.date32(),
     "at": pa.timestamp("us"), "zoned": pa.timestamp("us", "UTC"), "ok": pa.bool_(), "hour": pa.time64("us")}
)  # fmt: skip
UNLOADED = """CREATE EXTERNAL TABLE [my schema].[prediction_api_ab] WITH (LOCATION = '/prediction-api/ab/', \
DATA_SOURCE = [my_source], FILE_FORMAT = [prediction_api_ab]) AS SELECT [p], [ID], [n], [price], [day], \
CONVERT(NVARCHAR(40), [at], 126) AS [at], CONVERT(NVARCHAR(40), [zoned], 126) AS [zoned], [ok], \
CONVERT(NVARCHAR(16), [hour]) AS [hour] FROM (select * from t -- all
) AS source"""
CREATED = """CREATE TABLE [my schema].[sco]]red] ([p] FLOAT NULL, [ID] NVARCHAR(4000) NULL, [n] BIGINT NULL, \
[price] DECIMAL(10, 2) NULL, [day] DATE NULL, [at] DATETIME2(6) NULL, [zoned] DATETIMEOFFSET(6) NULL, [ok] BIT NULL, \
[hour] TIME(6) NULL)"""
LOADED = """COPY INTO [my schema].[prediction_api_ab] ([p], [ID]) FROM \
'https://a.blob.core.windows.net/c/prediction-api/ab/*.csv.gz' WITH (FILE_TYPE = 'CSV', \
CREDENTIAL = (IDENTITY = 'Storage Account Key', SECRET = 'k''ey=='), COMPRESSION = 'GZIP', FIELDQUOTE = '"', \
FIELDTERMINATOR = ',', ROWTERMINATOR = '0x0A', ENCODING = 'UTF8', MAXERRORS = 0)"""
ROWS = pa.table({"a": pa.array([None, 2], pa.int64()), "b": ["it's", None], "c": [0.1, 1e-300]})
INSERTED = """INSERT INTO [my schema].[prediction_api_ab] ([a], [b], [c]) SELECT CAST(NULL AS BIGINT), \
CAST(N'it''s' AS NVARCHAR(4000)), CAST(0.1e0 AS FLOAT) UNION ALL SELECT 2, NULL, 1e-300"""
MOVED = "INSERT INTO [my schema].[sco]]red] ([A], [B]) SELECT [a], [b] FROM [my schema].[prediction_api_ab]"
COLUMNS = """SELECT COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = N'sco]red' \
AND TABLE_SCHEMA = N'my schema' ORDER BY ORDINAL_POSITION"""


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(statements.create(TABLE, SCHEMA), CREATED, id="create"),
        pytest.param(statements.load(BESIDE, ["p", "ID"], "https://a.blob.core.windows.net/c/prediction-api/ab/", "Storage Account Key", "k'ey=="), LOADED, id="load"),
        pytest.param(next(statements.inserts(BESIDE, ROWS)), INSERTED, id="insert"),
        pytest.param(statements.move(TABLE, ["A", "B"], BESIDE, ["a", "b"]), MOVED, id="move"),
        pytest.param(TABLE.columns(), COLUMNS, id="columns"),
    ],
)  # fmt: skip
def test_statements(made: str, expected: str) -> None:
    assert made == expected
    assert not isinstance(sqlglot.parse_one(made, read="tsql"), sqlglot.exp.Command)


def test_statements_for_files() -> None:
    source = statements.source("select * from t -- all\n;", TABLE)
    assert statements.unload(source, SCHEMA, BESIDE, "my_source", "prediction-api/ab/", "ab") == UNLOADED
    assert statements.create_format("ab") == (
        "CREATE EXTERNAL FILE FORMAT [prediction_api_ab] WITH (FORMAT_TYPE = PARQUET, "
        "DATA_COMPRESSION = 'org.apache.hadoop.io.compress.SnappyCodec')"
    )
    assert statements.drop_external(BESIDE, "ab") == (
        "DROP EXTERNAL TABLE [my schema].[prediction_api_ab]",
        "DROP EXTERNAL FILE FORMAT [prediction_api_ab]",
    )


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_name_stays_one_name(name: str) -> None:
    """Whatever somebody calls a table: it cannot end its brackets."""
    table = sqlglot.parse_one(f"SELECT * FROM {statements.name(name)}", read="tsql").find(sqlglot.exp.Table)
    assert table is not None
    assert (table.db, table.catalog) == ("", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "NULL"), (True, "1"), (7, "7"), (0.1, "0.1e0"), (1e300, "1e+300"), (Decimal("1.20"), "1.20"),
        ("x'; DROP TABLE t; --", "N'x''; DROP TABLE t; --'"), (dt.date(2024, 2, 29), "N'2024-02-29'"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), "N'2024-01-02T03:04:05.000006+00:00'"),
    ],
    ids=str,
)  # fmt: skip
def test_literals(value: Any, expected: str) -> None:
    assert statements.literal(value) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("wasbs://c@acct.blob.core.windows.net", "https://acct.blob.core.windows.net/c/"),
        ("wasbs://c@acct.blob.core.windows.net/a/b/", "https://acct.blob.core.windows.net/c/a/b/"),
        ("abfss://c@acct.dfs.core.windows.net/a", "https://acct.blob.core.windows.net/c/a/"),
        ("https://acct.blob.core.windows.net/c/a", "https://acct.blob.core.windows.net/c/a/"),
        ("hdfs://10.0.0.1:8020", None),
        ("wasbs://acct.blob.core.windows.net", None),
    ],
)
def test_locations(location: str, expected: str | None) -> None:
    assert statements.blob_address(location) == expected


def test_columns_that_cannot_be_read() -> None:
    with pytest.raises(IntakeError, match="query: columns of bytes cannot be scored: a, b"):
        statements.check_columns(pa.schema({"a": pa.binary(), "b": pa.large_binary()}), "query")


def test_values_in_files() -> None:
    times = pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), None], pa.timestamp("us", "UTC"))
    loaded = as_loaded(pa.table({"ok": [True, None], "at": times}))
    assert loaded.to_pydict() == {"ok": [1, None], "at": ["2024-01-02 03:04:05.000006+00:00", None]}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("jdbc:sqlserver://ws.sql.azuresynapse.net:1433;database=pool;encrypt=true;trustServerCertificate=false;hostNameInCertificate=*.sql.azuresynapse.net;loginTimeout=30;", "SERVER=ws.sql.azuresynapse.net,1433;DATABASE=pool;UID=u;PWD={p;w}}};Encrypt=yes;TrustServerCertificate=no", id="as the portal gives it"),
        pytest.param("jdbc:sqlserver://h;databaseName={my;db}", "SERVER=h,1433;DATABASE={my;db};UID=u;PWD={p;w}}};Encrypt=yes;TrustServerCertificate=no", id="braces"),
    ],
)  # fmt: skip
def test_addresses(url: str, expected: str) -> None:
    assert Address.of(url).connection_string("u", "p;w}") == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("jdbc:postgresql://h/d", "expected jdbc:sqlserver://"),
        ("jdbc:sqlserver://h", "expected jdbc:sqlserver://"),
        ("jdbc:sqlserver://h;database=d;encrypt=perhaps", "expected jdbc:sqlserver://"),
        ("jdbc:sqlserver://h;database=d;password=hunter2", "user and password belong in SYNAPSE_USERNAME"),
    ],
)
def test_no_addresses(url: str, message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        Address.of(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "has_values", "expected"),
    [
        pytest.param("[Microsoft][SQL Server]Invalid object name 'dbo.t'.", False, "Invalid object name 'dbo.t'.", id="no value"),
        pytest.param("[Microsoft][SQL Server]Conversion failed when converting the value 'hun'ter' to int.", True, "Conversion failed when converting the value *** to int.", id="value"),
        pytest.param("Violation of a key. The duplicate key value is (hunter).", True, "Violation of a key. The duplicate key value is ***.", id="key"),
        pytest.param("Incorrect syntax near SECRET = 'hunter2'", False, "Incorrect syntax near SECRET = ***", id="secret"),
    ],
)  # fmt: skip
def test_values_are_not_told(said: str, has_values: bool, expected: str) -> None:
    assert in_words(Exception(said), has_values=has_values) == expected

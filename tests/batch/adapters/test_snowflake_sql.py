"""
The SQL for Snowflake, word by word.

Snowflake itself is not in reach of tests, and its stand-in is wide: so each statement is compared as text, and parsed
by sqlglot in Snowflake's dialect.
"""

from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from snowflake.connector.errors import ProgrammingError

from batch.adapters.snowflake import statements
from batch.adapters.snowflake.address import Address
from batch.adapters.snowflake.session import in_words
from batch.adapters.snowflake.statements import Column, StagePath, TableName
from batch.errors import JobError

COLUMNS = [
    Column("ID", "FIXED", 38, 0),
    Column('a"b', "REAL"),
    Column("note", "TEXT"),
    Column("at", "TIMESTAMP_NTZ"),
    Column("zoned", "TIMESTAMP_TZ"),
    Column("more", "VARIANT"),
]
UNLOADED = """COPY INTO @"MY_STAGE"/prediction-api/ab/part FROM (SELECT "ID", "a""b", "note", \
TO_VARCHAR("at", 'YYYY-MM-DD"T"HH24:MI:SS.FF9') AS "at", \
TO_VARCHAR("zoned", 'YYYY-MM-DD"T"HH24:MI:SS.FF9TZH:TZM') AS "zoned", TO_JSON("more") AS "more" \
FROM (select * from t -- all
)) FILE_FORMAT = (TYPE = PARQUET COMPRESSION = SNAPPY) HEADER = TRUE OVERWRITE = FALSE SINGLE = FALSE \
MAX_FILE_SIZE = 268435456"""
LOADED = """COPY INTO "MAIN"."SCORED" ("ID", "p_PREDICTION") FROM @"DB"."MAIN"."S"/in/prediction-api/ab/ \
FILE_FORMAT = (TYPE = CSV COMPRESSION = GZIP FIELD_OPTIONALLY_ENCLOSED_BY = '"' ESCAPE_UNENCLOSED_FIELD = NONE \
NULL_IF = () EMPTY_FIELD_AS_NULL = TRUE) ON_ERROR = ABORT_STATEMENT"""
CREATED = """CREATE TABLE "MAIN"."SCORED" ("p_PREDICTION" FLOAT, "ID" VARCHAR, "n" NUMBER(38, 0), \
"price" NUMBER(10, 2), "day" DATE, "at" TIMESTAMP_NTZ, "zoned" TIMESTAMP_TZ, "ok" BOOLEAN, "hour" TIME) \
COMMENT = 'it''s'"""
SCHEMA = pa.schema(
    {
        "p_PREDICTION": pa.float64(),
        "ID": pa.string(),
        "n": pa.int16(),
        "price": pa.decimal128(10, 2),
        "day": pa.date32(),
        "at": pa.timestamp("us"),
        "zoned": pa.timestamp("us", "UTC"),
        "ok": pa.bool_(),
        "hour": pa.time64("us"),
    }
)
TABLE = TableName("scored", "main")


def place(stage: str) -> str:
    return StagePath.of(stage, "external_stage").at("prediction-api/ab/")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(statements.unload(statements.source("select * from t -- all\n;", ""), COLUMNS, '@"MY_STAGE"/prediction-api/ab/part'), UNLOADED, id="unload"),
        pytest.param(statements.load(str(TABLE), ["ID", "p_PREDICTION"], place("@db.main.s/in")), LOADED, id="load"),
        pytest.param(statements.create(str(TABLE), SCHEMA, "it's"), CREATED, id="create"),
        pytest.param(TABLE.comments(), "SELECT COMMENT FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 'SCORED' AND TABLE_SCHEMA = 'MAIN'", id="comments"),
        pytest.param(TableName("t").comments(), "SELECT COMMENT FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 'T' AND TABLE_SCHEMA = CURRENT_SCHEMA()", id="in the schema of the session"),
        pytest.param(TableName('"t"', "s", "db").loaded_files("ab"), "SELECT FILE_NAME FROM \"DB\".INFORMATION_SCHEMA.LOAD_HISTORY WHERE TABLE_NAME = 't' AND SCHEMA_NAME = 'S' AND STATUS = 'LOADED' AND FILE_NAME LIKE '%/ab/%'", id="loaded files"),
        pytest.param(statements.rows(str(TableName("t", None, "db"))), 'SELECT * FROM "DB".."T"', id="catalog without schema"),
        pytest.param(statements.rows(TABLE.beside("ab")), 'SELECT * FROM "MAIN"."PREDICTION_API_AB"', id="beside"),
    ],
)  # fmt: skip
def test_statements(made: str, expected: str) -> None:
    assert made == expected
    parsed = sqlglot.parse_one(made, read="snowflake")
    assert not isinstance(parsed, sqlglot.exp.Command)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders", '"ORDERS"'),
        ("Orders_2$", '"ORDERS_2$"'),
        ('"orders"', '"orders"'),
        ('"a""b"', '"a""b"'),
        ("New Orders", '"New Orders"'),
        ("2024", '"2024"'),
        ("schema.t", '"schema.t"'),
        ('x"; DROP TABLE t; --', '"x""; DROP TABLE t; --"'),
        ("größe", '"größe"'),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert statements.identifier(name) == expected


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_name_stays_one_name(name: str) -> None:
    """Whatever somebody calls a table or a column: it cannot end its quotes."""
    for quoted in (statements.identifier(name), statements.exactly(name)):
        table = sqlglot.parse_one(f"SELECT * FROM {quoted}", read="snowflake").find(sqlglot.exp.Table)
        assert table is not None
        assert (table.db, table.catalog) == ("", "")
        assert table.this.quoted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MY_STAGE", '@"MY_STAGE"/prediction-api/ab/'),
        ("@my_stage/", '@"MY_STAGE"/prediction-api/ab/'),
        ('main."My Stage"/a/b=1', '@"MAIN"."My Stage"/a/b=1/prediction-api/ab/'),
        ("db.main.s", '@"DB"."MAIN"."S"/prediction-api/ab/'),
    ],
)
def test_stages(text: str, expected: str) -> None:
    assert place(text) == expected


@pytest.mark.parametrize("text", ["", "@", "a.b.c.d", "s/a b", "s/'x'", "a b"])
def test_no_stages(text: str) -> None:
    with pytest.raises(JobError, match="external_stage: expected the name of a stage"):
        place(text)


@pytest.mark.parametrize(
    ("query", "ordered"),
    [("select 1", False), ("select * from t ORDER\n BY a", True), ("select reorder, by_a from border", False), (None, False)],
)  # fmt: skip
def test_orders(query: str | None, ordered: bool) -> None:
    assert statements.is_ordered(query) is ordered


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("jdbc:snowflake://your_account.snowflakecomputing.com/?warehouse=SOME_WH&db=MY_DB&schema=MY_SCHEMA", {"host": "your_account.snowflakecomputing.com", "account": "your_account", "port": 443, "secure": True, "session": {"warehouse": "SOME_WH", "database": "MY_DB", "schema": "MY_SCHEMA"}}, id="as in the documents"),
        pytest.param("jdbc:snowflake://ab12.eu-west-1.snowflakecomputing.com:443?ROLE=Reader&Database=%22my%20db%22", {"account": "ab12.eu-west-1", "session": {"role": "Reader", "database": '"my db"'}}, id="region, any case, encoded"),
        pytest.param("jdbc:snowflake://127.0.0.1:8080/?account=acme&ssl=off", {"account": "acme", "port": 8080, "secure": False, "session": {}}, id="a host of one's own"),
        pytest.param("jdbc:snowflake://ab.snowflakecomputing.cn", {"account": "ab", "session": {}}, id="China"),
    ],
)  # fmt: skip
def test_addresses(url: str, expected: dict[str, Any]) -> None:
    address = Address.of(url)
    assert {name: getattr(address, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("jdbc:postgresql://h/d", "expected jdbc:snowflake://"),
        ("jdbc:snowflake:", "expected jdbc:snowflake://"),
        ("jdbc:snowflake://u:hunter2@h/", "expected jdbc:snowflake://"),
        ("jdbc:snowflake://h:x/", "expected jdbc:snowflake://"),
        ("jdbc:snowflake://h/?password=hunter2", "user and password belong in SNOWFLAKE_USERNAME"),
    ],
)
def test_no_addresses(url: str, message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        Address.of(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "said", "expected"),
    [
        pytest.param(100038, "Numeric value 'hunter's,\nlast' is not recognized\n  File 'prediction-api/ab/part-00000.csv.gz', line 3, character 5\n  Row 3, column \"T\"[\"N\":1]", "Numeric value *** is not recognized (file part-00000.csv.gz, line 3)", id="a value of two lines"),
        pytest.param(100078, "String 'hunter' is too long and would be truncated", "String *** is too long and would be truncated", id="too long"),
        pytest.param(100132, "Number out of representable range: type FIXED[SB1](2,0), value 4711", "Number out of representable range: type FIXED[SB1](2,0), value ***", id="a bare value"),
        pytest.param(2003, "SQL compilation error:\nObject 'T' does not exist or not authorized.", "SQL compilation error: Object 'T' does not exist or not authorized.", id="no value"),
    ],
)  # fmt: skip
def test_values_are_not_told(number: int, said: str, expected: str) -> None:
    assert in_words(ProgrammingError(msg=said, errno=number, sqlstate="22000")) == expected

"""Both CSV readers: one meaning for every odd cell, in values or in the words of the error."""

import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_repository.cells import MAX_COLUMNS, NULL_TOKENS
from model_repository.csv_codec import BLOCK_ROWS, MAX_FIELD, SMALL_BODY, CsvReader, read_csv_rows, read_csv_tables
from model_repository.errors import MalformedBody, RequestError
from model_repository.kept import KeptColumns
from model_repository.predictions import Keep
from model_repository.tables import Feature, Rows, Schema, Table

SCHEMA = Schema(
    (
        Feature(name="n", type="numeric", dtype="float64"),
        Feature(name="b", type="boolean", dtype="bool"),
        Feature(name="s", type="categorical", dtype="str"),
    )
)
NUMBER = Schema((Feature(name="n", type="numeric", dtype="float64"),))
FLAG = Schema((Feature(name="b", type="boolean", dtype="bool"),))
TEXT = Schema((Feature(name="s", type="text", dtype="str"),))

Outcome = tuple[Any, ...]


def cell(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def columns_of(tables: Sequence[Table], schema: Schema) -> list[list[Any]]:
    found: list[list[Any]] = []
    for feature in schema.features:
        found.append([])
        for table in tables:
            name = feature.name
            column = table.numeric[name].tolist() if feature.is_numeric else table.strings[name].decoded()
            found[-1] += [cell(value) for value in column]
    return found


def by_rows(body: bytes, schema: Schema, keep: Keep, encoding: str = "utf-8") -> Outcome:
    """What the strict reader makes of a body."""
    try:
        rows = CsvReader(schema).rows(body, keep, encoding)
    except RequestError as exc:
        return type(exc), str(exc)
    return [list(column) for column in zip(*rows.values, strict=True)], {k: list(v) for k, v in rows.kept.items()}


def by_columns(body: bytes, schema: Schema, keep: Keep, encoding: str = "utf-8", block_bytes: int = 64) -> Outcome:
    """What the block reader makes of it, in tiny blocks."""
    kept = KeptColumns()
    tables = []
    try:
        for table in CsvReader(schema, block_bytes).tables(bytearray(body), keep, encoding):
            tables.append(table)
            kept.add(table.n_rows, table.kept)
    except RequestError as exc:
        return type(exc), str(exc)
    return columns_of(tables, schema), {name: list(column) for name, column in kept.columns().items()}


TRAPS = [
    ("1", 1.0), (" 1\t", 1.0), ("+3", 3.0), (".5", 0.5), ("5.", 5.0), ("1E5", 1e5), ("-0.0", -0.0), ("00012", 12.0),
    ("123456789012345678", 123456789012345678.0), ("0.1234567890123456789", 0.12345678901234568), ("5e-324", 5e-324),
    ("1e-400", 0.0), ("1.7976931348623157e308", 1.7976931348623157e308), ("inf", math.inf), ("-Infinity", -math.inf),
    ("NAN", None), (" nan ", None), ("1e400", "'1e400' is too large for a number"),
    *[(text, f"{text!r} is not a number") for text in (
        "abc", "1_000", "١٢", "５", "0x10", "True", "true", "1d5", "  ", " NA ", "nan(1)", "1e", "-", "1 2", "1.2.3",
    )],
    *[(token, None) for token in sorted(NULL_TOKENS)],
]  # fmt: skip


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(("text", "expected"), TRAPS)
def test_numbers(text, expected, quote, read):
    outcome = read(f"n,x\n{quote}{text}{quote},1\n".encode(), NUMBER, ())
    if isinstance(expected, str):
        assert outcome[1] == f"row 0, column 'n': {expected}"
    else:
        assert outcome[0] == [[expected]]


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(("text", "expected"), [
    *[(text, 1.0) for text in ("true", "TRUE", "True", "tRuE", "1", "1.0", "yes", "Y", "t", " true ")],
    *[(text, 0.0) for text in ("false", "FALSE", "0", "0.0", "no", "N", "f")],
    *[(text, None) for text in ("", "NA", "null")],
])  # fmt: skip
def test_flags(text, expected, read):
    assert read(f"b,x\n{text},\n".encode(), FLAG, ())[0] == [[expected]]


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize("text", ["2", "ja", "1.00", "truee", " NA "])
def test_what_is_no_flag(text, read):
    schema = Schema((Feature(name="b", type="boolean", dtype="bool"),))
    assert (
        read(f"b,x\n1,\n{text},\n".encode(), schema, ())[1] == f"row 1, column 'b': {text!r} is neither true nor false"
    )


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(("raw", "expected"), [
    pytest.param("00012", "00012", id="leading zeros"),
    pytest.param(" a ", " a ", id="blanks at the ends"),
    pytest.param("2.0", "2.0", id="a number's text"),
    pytest.param('"a,b"', "a,b", id="quoted comma"),
    pytest.param('"a\nb"', "a\nb", id="quoted newline"),
    pytest.param('"a\r\nb"', "a\r\nb", id="quoted CRLF"),
    pytest.param('"a""b"', 'a"b', id="doubled quote"),
    pytest.param('a"b', 'a"b', id="quote in a bare cell"),
    pytest.param('"ab"c', "abc", id="text after the closing quote"),
    pytest.param(' "a"', ' "a"', id="blank before a quote"),
    pytest.param("vert-é 日本 🐈", "vert-é 日本 🐈", id="unicode"),
    pytest.param("a\u2028b\x0bc\x1cd\x85e", "a\u2028b\x0bc\x1cd\x85e", id="what only unicode calls line ends"),
    pytest.param('""', None, id="quoted empty"),
    pytest.param('"NA"', None, id="quoted NA"),
    pytest.param("#N/A N/A", None, id="null token"),
    pytest.param("na", "na", id="not a null token"),
    pytest.param("nil", "nil", id="nor that"),
])  # fmt: skip
def test_texts(raw, expected, read):
    assert read(f"s,x\n{raw},1\n".encode(), TEXT, ())[0] == [[expected]]


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize("body", [
    pytest.param(b"n,b,s\n1,t,x\n2,f,y\n", id="plain"),
    pytest.param(b"n,b,s\n1,t,x\n2,f,y", id="no newline at the end"),
    pytest.param(b"n,b,s\r\n1,t,x\r\n2,f,y\r\n", id="CRLF"),
    pytest.param(b"n,b,s\r1,t,x\r2,f,y\r", id="CR"),
    pytest.param(b"n,b,s\n1,t,x\r\n2,f,y\r", id="mixed"),
    pytest.param(b"\xef\xbb\xbfn,b,s\n1,t,x\n2,f,y\n", id="BOM"),
    pytest.param(b'\xef\xbb\xbf"n","b","s"\n1,t,x\n2,f,y\n', id="BOM before a quote"),
    pytest.param(b"\n\nn,b,s\n\n1,t,x\n\r\n2,f,y\n\n\n", id="blank lines"),
    pytest.param(b"s,n,b\nx,1,t\ny,2,f\n", id="another order"),
    pytest.param(b"zz,n,b,,s\n,1,t,,x\n,2,f,,y\n", id="extra columns"),
    pytest.param(b'"n","b","s"\n"1","t","x"\n"2","f","y"\n', id="all quoted"),
])  # fmt: skip
def test_one_table_in_many_forms(body, read):
    assert read(body, SCHEMA, ())[0] == [[1.0, 2.0], [1.0, 0.0], ["x", "y"]]


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(
    ("categories", "cells", "expected"),
    [
        ([1, 2], ["2", "x"], ["2", "x"]),
        ([1.0, 2.0], ["2.0", "NAN", " 1"], ["2", "NAN", "1"]),
        ([1.0, 2.5], ["2.0", "2", "2.50", ""], ["2", "2", "2.5", None]),
        ([False, True], ["True", "FALSE", "x", "NA"], ["true", "false", "x", None]),
        ([False, True], ["True", "true", "1"], ["true", "true", "true"]),
        (["1", "2"], ["2.0", "True"], ["2.0", "True"]),
    ],
)
def test_categories_that_are_not_texts_have_one_form(categories, cells, expected, read):
    schema = Schema((Feature(name="c", type="categorical", dtype="category", categories=categories),))
    assert read("\n".join(["c,x", *(f"{text},1" for text in cells)]).encode(), schema, ())[0] == [expected]


@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_blank_lines_are_no_rows_of_a_one_column_table_but_quoted_empties_are(read):
    assert read(b's\na\n\n""\nb\n', TEXT, ())[0] == [["a", None, "b"]]


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(("body", "message"), [
    pytest.param(b"", "the body is empty: expected a CSV with a header", id="empty"),
    pytest.param(b"\n\r\n", "the body is empty: expected a CSV with a header", id="blank"),
    pytest.param(b"n,b,s\n", "the table has a header but no rows", id="header only"),
    pytest.param(b"n,b,s\n\n\n", "the table has a header but no rows", id="header and blank lines"),
    pytest.param(b"n,b,s\n1,t,x\n2,f\n", "line 3: 2 fields, expected 3", id="short row"),
    pytest.param(b"n,b,s\n1,t,x\n2,f,y,z\n", "line 3: 4 fields, expected 3", id="long row"),
    pytest.param(b'n,b,s\n\n1,t,"x\ny"\n\n2\n', "line 6: 1 fields, expected 3", id="physical lines"),
    pytest.param(b"n;b;s\n1;t;x\n", "missing columns: n, b, s", id="semicolons"),
    pytest.param(b"n,b\n1,t\n", "missing columns: s", id="missing column"),
    pytest.param(b"n,b,s,n\n1,t,x,1\n", "column 'n' stands more than once in the header", id="duplicate name"),
    pytest.param(b"n,b,s,,\n1,t,x,,\n", "column '' stands more than once in the header", id="duplicate empty name"),
    pytest.param(b'n,b,s\n1,t,"x\n2,f,y\n', "line 2: a quote is opened and never closed", id="open quote"),
    pytest.param(b'n,b,s\n1,t,x\n2,f,"', "line 3: a quote is opened and never closed", id="open quote at the end"),
    pytest.param(b'n,b,s\n1,t,x\n"', "line 3: a quote is opened and never closed", id="nothing but a quote"),
    pytest.param(b'n,b,"s\n1,t,x\n', "line 1: a quote is opened and never closed", id="open quote in the header"),
    pytest.param(b"n,b,s\r\n1,t,x\r\n2,f,\0\n", "line 3: a NUL character", id="NUL"),
    pytest.param(b"n,b,s\n1,t,\xe9\n", "the body is not utf-8: byte 0xe9 at position 10 (line 2)", id="Latin-1"),
    pytest.param(b"n,b,s\n1,t,\xed\xa0\x80\n", "the body is not utf-8: byte 0xed at position 10 (line 2)", id="surrogate"),
    pytest.param(b"n,b,s\n1,t,x\n?,?,y\n", "row 1, column 'n': '?' is not a number", id="first wrong cell"),
])  # fmt: skip
def test_refusals(body, message, read):
    assert read(body, SCHEMA, ())[1] == message


@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_too_many_columns(read):
    body = ",".join(f"c{n}" for n in range(MAX_COLUMNS + 1)).encode() + b"\n"
    assert read(body, SCHEMA, ())[1] == "10001 columns, at most 10000 are read"


@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_a_field_has_a_limit(read):
    body = b"s,x\n" + b"a" * MAX_FIELD + b",1\n"
    assert read(body, TEXT, ())[0] == [["a" * MAX_FIELD]]
    longer = body.replace(b",1", b"a,1")
    assert read(longer, TEXT, ())[1] == f"line 2: field larger than field limit ({MAX_FIELD})"


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1252", "utf-16", "UTF-16LE", "utf8", "UTF-8-SIG", "cp437"])
def test_charsets(encoding, read):
    body = "é,s\nü,x é\n".encode(encoding)
    assert read(body, Schema((Feature(name="é", type="text", dtype="str"),)), "all", encoding) == (
        [["ü"]],
        {"é": ["ü"], "s": ["x é"]},
    )


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(("encoding", "body", "message"), [
    ("klingon", b"s\nx\n", "the charset 'klingon' is not known"),
    ("zlib", b"s\nx\n", "the charset 'zlib' is not known"),
    ("utf-7", b"s\nx\n", "the charset 'utf-7' is not known"),
    ("us-ascii", b"s\n\xe9\n", "the body is not us-ascii: byte 0xe9 at position 2 (line 2)"),
    ("utf-16-le", b"s\0\n\0x\0\n", "the body is not utf-16-le: byte 0x0a at position 6 (line 2)"),
    ("shift_jis", b"s\n\x81", "the body is not shift_jis: byte 0x81 at position 2 (line 2)"),
])  # fmt: skip
def test_wrong_charsets(encoding, body, message, read):
    assert read(body, TEXT, (), encoding) == (MalformedBody, message)


@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_kept_columns_are_the_client_s_own_text(read):
    body = b'id,n,b,s\n007,1.50,TRUE,NA\n"a ""b"" ",,0," x\n"\n'
    everything = {"id": ["007", 'a "b" '], "n": ["1.50", ""], "b": ["TRUE", "0"], "s": ["NA", " x\n"]}
    assert read(body, SCHEMA, "all") == ([[1.5, None], [1.0, 0.0], [None, " x\n"]], everything)
    assert list(read(body, SCHEMA, ("s", "id", "s"))[1].items()) == [("s", everything["s"]), ("id", everything["id"])]


@pytest.mark.parametrize("read", [by_rows, by_columns])
def test_unknown_kept_columns(read):
    assert read(b"n,b,s\n1,t,x\n", SCHEMA, ("s", "id", "zz"))[1] == (
        "passthroughColumns do not match columns, columns expected but not found: ['id', 'zz']"
    )


def test_long_cells_are_cut_in_messages():
    outcome = by_rows(b"n\n" + b"x" * 10_000 + b"\n", NUMBER, ())
    assert len(outcome[1]) < 120


def test_a_doubted_block_late_in_a_large_body():
    """Blocks read before the doubt stay; rows after it are counted on, in values and in errors."""
    lines = [f"{n},t,x{n % 3}" for n in range(3 * BLOCK_ROWS)]
    lines[20_000] = "inf,f,x"
    body = "\n".join(["n,b,s", *lines]).encode()
    columns, kept = by_columns(body, SCHEMA, ("s",), block_bytes=64 * 1024)
    assert columns[0] == [math.inf if n == 20_000 else float(n) for n in range(len(lines))]
    assert kept["s"] == [line.split(",")[2] for line in lines]
    assert by_columns(body + b"\n1,2,3", SCHEMA, (), block_bytes=64 * 1024)[1] == (
        f"row {len(lines)}, column 'b': '2' is neither true nor false"
    )


def test_functions_find_the_reader_of_a_schema():
    body = b"n,b,s\n1,t,x\n"
    rows = read_csv_rows(body, SCHEMA)
    assert isinstance(rows, Rows)
    assert [list(row) for row in rows.values] == [[1.0, 1.0, "x"]]
    (table,) = read_csv_tables(body * 1, SCHEMA, "all")
    assert table.n_rows == 1
    assert len(body) < SMALL_BODY
    assert table.kept["n"][0] == "1"
    assert table.kept["n"][-1:] == ["1"]


CELL = st.one_of(
    st.sampled_from(
        [*[text for text, _ in TRAPS], "yes", "F", "1.0", "a\n", "\r", "x y", "é", "\u2028", "a,b", ",", "inf"]
    ),
    st.text(st.sampled_from('a1.,"\n\r\t -+eE_nN'), max_size=6),
    st.floats().map(repr),
    st.integers(-3, 10**20).map(str),
)
TAME = st.one_of(
    CELL.map(lambda text: '"' + text.replace('"', '""') + '"'), st.sampled_from(["1", "0", "x", "NA", "2.5", "", "a b"])
)
KEEP: st.SearchStrategy[Keep] = st.sampled_from([(), ("k",), ("s", "n"), "all"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    names = draw(st.permutations(["n", "b", "s", "k"]))
    tame = draw(st.booleans())  # mostly rows that can be scored, so that more than the first error is reached
    field = TAME if tame else TAME | CELL
    rows = draw(st.lists(st.lists(field, min_size=4, max_size=4), max_size=8))
    if tame:
        good = {"n": "1.5", "b": "yes"}
        rows = [[good.get(name, field) for name, field in zip(names, row, strict=True)] for row in rows]
    lines = [",".join(row) for row in [list(names), *rows]]
    return (end.join(lines) + draw(st.sampled_from(["", end, '"', end + '"', end + end]))).encode()


@settings(max_examples=400)
@given(bodies(), KEEP, st.sampled_from([48, 97, 1 << 20]))
@example(b'n,b,s,k\n1,1,x,"', (), 1 << 20)
@example(b'n,b,s,k\n1,1,"\n\n1",', (), 48)
@example(b'"n\n",b\n', (), 48)
def test_both_readers_agree(body: bytes, keep: Keep, block_bytes: int) -> None:
    """In every value, every kept text and every word of an error."""
    assert by_columns(body, SCHEMA, keep, block_bytes=block_bytes) == by_rows(body, SCHEMA, keep)


@settings(max_examples=300)
@given(st.binary(max_size=40), KEEP)
def test_any_bytes_are_read_or_refused_alike(rest: bytes, keep: Keep) -> None:
    body = b"n,b,s,k\n" + rest
    assert by_columns(body, SCHEMA, keep) == by_rows(body, SCHEMA, keep)


def documented(section: str, column: int) -> list[tuple[str, str]]:
    """Cells and their documented reading, from a table of docs/input-rules.md."""
    page = (Path(__file__).parents[2] / "docs" / "input-rules.md").read_text()
    lines = page.split(f"## {section}\n")[1].split("| numeric | boolean |")[1].splitlines()[2:]
    rows = [line.strip("|").split(" | ") for line in takewhile(lambda line: line.startswith("|"), lines)]
    return [(row[0][1:], row[column].removesuffix(" ")) for row in rows]


def described(outcome: Outcome) -> str:
    """A reading in the words of the page."""
    if not isinstance(outcome[0], list):
        return "refused"
    value = outcome[0][0][0]
    if value is None:
        return "missing"
    if isinstance(value, str):
        return f"`{value}`" if value else "(empty text)"
    return f"{value:g}"


@pytest.mark.parametrize("read", [by_rows, by_columns])
@pytest.mark.parametrize(("column", "schema"), [(1, NUMBER), (2, FLAG), (3, TEXT)])
def test_the_documented_cells(column, schema, read):
    table = documented("CSV", column)
    assert len(table) > 20
    for cell_text, reading in table:
        text = "" if cell_text == "(empty)" else cell_text.strip("`")
        body = f'{schema.names[0]},x\n"{text}",1\n'.encode()
        expected = {"true": "1", "false": "0"}.get(reading, reading)
        assert described(read(body, schema, ())) == expected, text

"""JSON in, whole and in pieces: one meaning, one wording."""

import json
import math
import tracemalloc
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_repository.cells import MAX_COLUMNS
from model_repository.errors import MalformedBody, MissingColumns, RequestError, UnscorableValue
from model_repository.json_codec import JsonReader, read_json_rows, read_json_tables
from model_repository.kept import KeptColumns
from model_repository.predictions import Keep
from model_repository.tables import Feature, Schema

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
NUMBERS = Schema((Feature(name="c", type="categorical", dtype="category", categories=[1, 2]),))
FLAGS = Schema((Feature(name="c", type="categorical", dtype="category", categories=[False, True]),))

Outcome = tuple[Any, ...]


def whole(body: bytes, schema: Schema, keep: Keep = ()) -> Outcome:
    """What a small body means."""
    try:
        rows = JsonReader(schema).rows(body, keep)
    except RequestError as exc:
        return type(exc), str(exc)
    return [list(column) for column in zip(*rows.values, strict=True)], {k: list(v) for k, v in rows.kept.items()}


def in_pieces(body: bytes, schema: Schema, keep: Keep = (), piece_bytes: int = 8) -> Outcome:
    """What it means when it is cut wherever that is possible."""
    kept = KeptColumns()
    columns: list[list[Any]] = [[] for _ in schema.features]
    try:
        for table in JsonReader(schema, piece_bytes).tables(bytearray(body), keep):
            kept.add(table.n_rows, table.kept)
            for feature, found in zip(schema.features, columns, strict=True):
                if feature.is_numeric:
                    found += [None if math.isnan(x) else x for x in table.numeric[feature.name].tolist()]
                else:
                    found += table.strings[feature.name].decoded()
    except RequestError as exc:
        return type(exc), str(exc)
    return columns, {name: list(column) for name, column in kept.columns().items()}


READERS = pytest.mark.parametrize("read", [whole, in_pieces])


@READERS
@pytest.mark.parametrize(("schema", "value", "expected"), [
    pytest.param(NUMBER, "1.5", 1.5, id="number"),
    pytest.param(NUMBER, "5", 5.0, id="whole number"),
    pytest.param(NUMBER, "123456789012345678901234567890", 123456789012345678901234567890.0, id="beyond 64 bits"),
    pytest.param(NUMBER, "1e-400", 0.0, id="too small for a float"),
    pytest.param(NUMBER, "null", None, id="null"),
    pytest.param(NUMBER, '"5"', 5.0, id="number as text"),
    pytest.param(NUMBER, '" 5 "', 5.0, id="number as padded text"),
    pytest.param(NUMBER, '"-inf"', -math.inf, id="infinity as text"),
    pytest.param(NUMBER, '""', None, id="no number"),
    pytest.param(FLAG, "true", 1.0, id="true"),
    pytest.param(FLAG, "false", 0.0, id="false"),
    pytest.param(FLAG, "1", 1.0, id="flag as 1"),
    pytest.param(FLAG, "0.0", 0.0, id="flag as 0.0"),
    pytest.param(FLAG, '"Yes"', 1.0, id="flag as text"),
    pytest.param(FLAG, '""', None, id="no flag"),
    pytest.param(FLAG, "null", None, id="null flag"),
    pytest.param(TEXT, '"00012"', "00012", id="text"),
    pytest.param(TEXT, '""', "", id="an empty text is a text"),
    pytest.param(TEXT, '"NA"', "NA", id="so are null tokens"),
    *[pytest.param(NUMBERS, value, "2", id=f"{value} for a number category") for value in ("2", "2.0", '"2.0"')],
    pytest.param(NUMBERS, "2.5", "2.5", id="no category"),
    pytest.param(NUMBERS, '"x"', "x", id="nor that"),
    pytest.param(NUMBERS, "null", None, id="null category"),
    *[pytest.param(FLAGS, value, "true", id=f"{value} for a flag category") for value in ("true", "1", '"True"')],
    pytest.param(FLAGS, '"x"', "x", id="no flag category"),
    pytest.param(TEXT, "5", "5", id="whole number as text"),
    pytest.param(TEXT, "2.0", "2.0", id="number as text of its own"),
    pytest.param(TEXT, "true", "true", id="flag as text of its own"),
    pytest.param(TEXT, r'"\ud83d\udc08 \u0000"', "🐈 \0", id="escapes"),
    pytest.param(TEXT, "null", None, id="null text"),
])  # fmt: skip
def test_values(schema, value, expected, read):
    name = schema.names[0]
    outcome = read(f'[{{"{name}":{value},"x":[1,{{"y":2}}]}}]'.encode(), schema)
    assert outcome == ([[expected]], {})
    assert type(outcome[0][0][0]) is type(expected)


@READERS
@pytest.mark.parametrize(("schema", "value", "problem"), [
    pytest.param(NUMBER, "true", "true is not a number", id="flag for a number"),
    pytest.param(NUMBER, '"NA"', "'NA' is not a number", id="null token for a number"),
    pytest.param(NUMBER, '"nan"', "'nan' is not a number", id="nan for a number"),
    pytest.param(NUMBER, '"1_0"', "'1_0' is not a number", id="underscore"),
    pytest.param(NUMBER, '"١٢"', "'١٢' is not a number", id="digits of another script"),
    pytest.param(NUMBER, '"1e400"', "'1e400' is too large for a number", id="too large as text"),
    pytest.param(NUMBER, "1e400", "the number is too large", id="too large"),
    pytest.param(NUMBER, "9" * 400, "the number is too large", id="too large without an exponent"),
    pytest.param(NUMBER, "[1]", "an array is not a number", id="array for a number"),
    pytest.param(NUMBER, "{}", "an object is not a number", id="object for a number"),
    pytest.param(FLAG, "2", "2 is neither true nor false", id="number for a flag"),
    pytest.param(FLAG, "0.5", "0.5 is neither true nor false", id="fraction for a flag"),
    pytest.param(FLAG, '"NA"', "'NA' is not true or false", id="null token for a flag"),
    pytest.param(FLAG, "[]", "an array is neither true nor false", id="array for a flag"),
    pytest.param(NUMBERS, "[2]", "an array is not a category", id="array for a category"),
    pytest.param(TEXT, '["a"]', "an array is not a text", id="array for a text"),
    pytest.param(TEXT, '{"a":1}', "an object is not a text", id="object for a text"),
])  # fmt: skip
def test_unscorable_values(schema, value, problem, read):
    name = schema.names[0]
    body = f'[{{"{name}":null}},\n {{"{name}":{value}}}]'.encode()
    assert read(body, schema) == (UnscorableValue, f"row 1, column {name!r}: {problem}")


EXPECTED = "expected an array of objects: [{...}, ...]"


@READERS
@pytest.mark.parametrize(("body", "message"), [
    pytest.param(b"", EXPECTED, id="empty"),
    pytest.param(b'{"data":[{"n":1}]}', EXPECTED, id="object"),
    pytest.param(b"[]", f"{EXPECTED}, got an empty one", id="no rows"),
    pytest.param(b'[{"n":1},2]', f"{EXPECTED}, row 1 is not an object", id="a number among objects"),
    pytest.param(b"[[1]]", f"{EXPECTED}, row 0 is not an object", id="arrays"),
    pytest.param(b"[", "not valid JSON: unexpected end of data at character 1", id="only begun"),
    pytest.param(b'[{"n":NaN}]', "not valid JSON: unexpected character, expected a JSON value at character 6", id="NaN"),
    pytest.param(b'[{"n":1},{"n":-Infinity}]', "not valid JSON: no digit after sign at character 15", id="Infinity"),
    pytest.param(b'[{"n":1}', "not valid JSON: unexpected end of data at character 8", id="half"),
    pytest.param(b'[{"n":1},]', "not valid JSON: trailing comma is not allowed at character 8", id="trailing comma"),
    pytest.param(b'[{"n":1}] x', "not valid JSON: unexpected content after document at character 10", id="garbage"),
    pytest.param(b'[{"n":1}][{}]', "not valid JSON: unexpected content after document at character 9", id="two documents"),
    pytest.param('[{"é":1},{"n":1},{"n":1]'.encode(), None, id="after other letters"),
    pytest.param(rb'[{"x":"\ud800","n":1}]', None, id="lone surrogate"),
    pytest.param(b'[{"x":' + b"[" * 100_000, None, id="depth bomb in a row"),
    pytest.param(b"[" * 100_000, None, id="depth bomb"),
    pytest.param(b'[{"n":1}'.decode().encode("utf-16"), None, id="UTF-16"),
    pytest.param(b'[{"x":"\xff","n":1}]', "the body is not utf-8: byte 0xff at position 7 (line 1)", id="Latin-1"),
])  # fmt: skip
def test_malformed(body, message, read):
    kind, text = read(body, NUMBER)
    assert kind is MalformedBody
    assert message is None or text == message


def test_the_place_of_an_error_counts_characters():
    body = '[{"é":1,"n":1},{"n":1},{"n":1]'.encode()
    assert in_pieces(body, NUMBER) == whole(body, NUMBER)


@READERS
def test_absent_keys_are_missing_values_and_absent_columns_an_error(read):
    body = b'[{"n":1,"s":"x"},{"b":true},{"s":null,"n":null}]'
    assert read(body, SCHEMA)[0] == [[1.0, None, None], [None, 1.0, None], ["x", None, None]]
    assert read(b'[{"n":1,"s":"x"},{"s":"y"}]', SCHEMA) == (MissingColumns, "missing columns: b")
    assert read(b'[{"n":"1","s":2},{"s":"y"}]', SCHEMA) == (MissingColumns, "missing columns: b")
    assert read(b"[{},{}]", SCHEMA) == (MissingColumns, "missing columns: n, b, s")
    assert read(b'[{"n":null,"b":null,"s":null}]', SCHEMA)[0] == [[None], [None], [None]]


@READERS
def test_the_last_of_two_equal_keys_counts(read):
    assert read(b'[{"n":1,"n":2}]', NUMBER)[0] == [[2.0]]
    assert read(b'[{"n":"?","n":"2"}]', NUMBER)[0] == [[2.0]]


@READERS
def test_byte_order_mark_and_blanks(read):
    assert read(b'\xef\xbb\xbf \n[ {"n":1} , \n {"n":2} ]\r\n', NUMBER)[0] == [[1.0, 2.0]]


@READERS
@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "é", "", "a`b", "$[0].n"])
def test_odd_names(name, read):
    schema = Schema((Feature(name=name, type="numeric", dtype="float64"),))
    assert read(orjson.dumps([{name: 1}, {name: "2"}]), schema)[0] == [[1.0, 2.0]]
    assert read(orjson.dumps([{name: 1}, {name: True}]), schema)[1] == f"row 1, column {name!r}: true is not a number"


@READERS
def test_kept_values_are_handed_through_as_given(read):
    body = b'[{"id":7,"n":1.50,"x":"a"},{"n":"2","id":"A","y":{"z":[1]}},{"n":null,"x":true}]'
    assert read(body, NUMBER, ("x", "id"))[1] == {"x": ["a", None, True], "id": [7, "A", None]}
    kept = read(body, NUMBER, "all")[1]
    assert kept == {
        "id": [7, "A", None],
        "n": [1.5, "2", None],
        "x": ["a", None, True],
        "y": [None, {"z": [1]}, None],
    }
    assert list(kept) == ["id", "n", "x", "y"]
    assert list(read(body, NUMBER, ("y", "id"))[1]) == ["y", "id"]
    assert read(body, NUMBER, ("id", "zz"))[1].endswith("['zz']")


@READERS
def test_kept_columns_are_bounded(read):
    """A few bytes of input must not ask for gigabytes of output."""
    wide = orjson.dumps([{"n": 1, **{f"c{place}": 1 for place in range(MAX_COLUMNS)}}])
    assert read(wide, NUMBER, "all") == (MalformedBody, "more than 10000 columns")


def test_kept_columns_of_sparse_objects_are_bounded():
    sparse = orjson.dumps([{f"c{place}": 1 for place in range(1000)}, {"n": 1}, *[{}] * 1000])
    assert whole(sparse, NUMBER, "all") == (MalformedBody, "most objects lack most of the columns to pass through")
    assert in_pieces(sparse, NUMBER, "all", 4096) == whole(sparse, NUMBER, "all")
    assert len(whole(sparse.replace(b",{}", b"", 200), NUMBER, "all")[1]) == 1001


def test_functions_find_the_reader_of_a_schema():
    body = b'[{"n":1},{"n":2}]'
    assert read_json_rows(body, NUMBER).n_rows == 2
    assert [table.n_rows for table in read_json_tables(body, NUMBER)] == [2]


def test_numbers_are_those_of_python():
    numbers = [0.1, 1 / 3, 1e22, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, 123456789.123456789]
    body = json.dumps([{"n": x} for x in numbers]).encode()
    assert whole(body, NUMBER)[0] == [numbers]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False, allow_infinity=False), st.integers(),
    st.text('a1"\\,[]{}:', max_size=8), st.sampled_from(["", "5", "NA", "},{", '"},{"', "yes", "é"]),
    st.lists(st.dictionaries(st.text("ab", max_size=1), st.integers(0, 1), max_size=2), max_size=3),
)  # fmt: skip
TAME = st.fixed_dictionaries(
    {"n": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers()},
    optional={"b": st.booleans(), "s": st.text('},{"', max_size=6), "k": VALUES},
)
RECORDS = st.lists(TAME, max_size=8) | st.lists(
    st.dictionaries(st.sampled_from("nbsk"), VALUES, max_size=4) | st.integers(0, 1), max_size=8
)
KEEP: st.SearchStrategy[Keep] = st.sampled_from([(), ("k",), ("s", "n"), "all"])


@settings(max_examples=400)
@given(RECORDS, KEEP, st.integers(1, 60), st.sampled_from([None, 0, 2]), st.sampled_from(["", "]", ",", "}", "x"]))
@example([{"n": 1, "k": [{}, {}]}, {"n": 2}], (), 1, None, "")
@example([{"n": 1, "k": "},{"}, {"n": 2}], "all", 1, None, "")
def test_pieces_mean_what_the_whole_means(records, keep, piece_bytes, indent, tail) -> None:
    """However it is cut: the same values, kept values, and words of an error; of two errors either may come first."""
    body = (json.dumps(records, indent=indent, ensure_ascii=False) + tail).encode()
    expected = whole(body, SCHEMA, keep)
    found = in_pieces(body, SCHEMA, keep, piece_bytes)
    if expected[0] is MalformedBody:
        assert found[0] in (MalformedBody, UnscorableValue)
    else:
        assert found == expected
    assert not tail or expected[0] in (MalformedBody, UnscorableValue)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(['{"n":1}', ",", "[", "]", "}", "{", '"', '"n":', "1", " ", "\\"]), max_size=14))
def test_any_tokens_are_read_or_refused_alike(tokens) -> None:
    body = ("[" + "".join(tokens) + "]").encode()
    found, expected = in_pieces(body, NUMBER, (), 1), whole(body, NUMBER)
    assert found == expected or (found[0], expected[0]) == (MalformedBody, MalformedBody)


@READERS
@pytest.mark.parametrize(("column", "schema"), [(1, NUMBER), (2, FLAG), (3, TEXT)])
def test_the_documented_values(column, schema, read):
    page = (Path(__file__).parents[2] / "docs" / "input-rules.md").read_text()
    lines = page.split("## JSON\n")[1].split("| numeric | boolean |")[1].splitlines()[2:]
    table = [line.strip("|").split(" | ") for line in takewhile(lambda line: line.startswith("|"), lines)]
    assert len(table) > 10
    for row in table:
        outcome = read(f'[{{"{schema.names[0]}":{row[0].strip(" `")}}}]'.encode(), schema)
        expected = row[column].strip()
        assert described(outcome) == {"true": "1", "false": "0"}.get(expected, expected), row


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


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"[]," * 300_000 + b"[]]", id="lists for objects"),
        pytest.param(b'[{"n":1},' + b"[]," * 300_000 + b"[]]", id="lists after an object"),
        pytest.param(b'[{"n":[' + b"[]," * 300_000 + b"[]]}]", id="lists in a feature"),
        pytest.param(b'[{"n":[' + b"1," * 2_100_000 + b"1]}]", id="numbers in a feature"),
    ],
)
def test_a_body_that_would_explode_in_memory_is_refused_unbuilt(body: bytes) -> None:
    """Small in bytes, gigabytes as Python objects, and nobody else is answered while they are built."""
    with pytest.raises((MalformedBody, UnscorableValue)):
        list(read_json_tables(body, SCHEMA))
    tracemalloc.start()
    with pytest.raises((MalformedBody, UnscorableValue)):
        list(read_json_tables(body, SCHEMA))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(body)

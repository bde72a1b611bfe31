"""Answers in JSON and CSV, to the byte."""

import csv
import io
import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repository.csv_codec import CsvReader
from model_repository.errors import ScoringFailed
from model_repository.kept import Chained
from model_repository.predictions import ScoringOptions, Target, label_codes
from model_repository.tables import Feature, Schema
from prediction_api.pieces import FEW_ROWS, SLICE_ROWS
from prediction_api.writers import CsvWriter, JsonWriter

PRICE = Target(name="price", type="Regression", usual_range=(0.0, 100.0))
BINARY = Target(name="is fraud", type="Binary", class_labels=["yes", "no"])
NUMERIC = Target(name="y", type="Binary", class_labels=[1, 0], threshold=0.25)
FLAGS = Target(name="y", type="Binary", class_labels=[True, False])
CATS = Target(name="cat", type="Multiclass", class_labels=["cat", "lion", "lynx"])
ANOMALY = Target(name="ignored", type="Anomaly")
PLAIN = ScoringOptions()
WARN = ScoringOptions(warn_outliers=True)


def answers(values, target, options=PLAIN, kept=None):
    array = np.array(values, dtype=np.float64)
    return (
        b"".join(JsonWriter(target).chunks(array, options, kept or {})).decode(),
        b"".join(CsvWriter(target).chunks(array, options, kept or {})).decode(),
    )


@pytest.mark.parametrize(("target", "values", "options", "kept", "as_json", "as_csv"), [
    pytest.param(
        PRICE, [[12.5], [-3.25]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":12.5,"predictionValues":[{"label":"price","value":12.5}]},'
        '{"rowId":1,"prediction":-3.25,"predictionValues":[{"label":"price","value":-3.25}]}]}',
        "price_PREDICTION\n12.5\n-3.25\n", id="regression",
    ),
    pytest.param(
        PRICE, [[100.0], [100.00000000001]], WARN, {"id": ["a", "b"]},
        '{"data":[{"rowId":0,"prediction":100.0,"predictionValues":[{"label":"price","value":100.0}],'
        '"isOutlierPrediction":false,"passthroughValues":{"id":"a"}},'
        '{"rowId":1,"prediction":100.0,"predictionValues":[{"label":"price","value":100.0}],'
        '"isOutlierPrediction":true,"passthroughValues":{"id":"b"}}]}',
        "price_PREDICTION,IS_OUTLIER_PREDICTION,id\n100.0,false,a\n100.0,true,b\n", id="outliers, at full precision",
    ),
    pytest.param(
        BINARY, [[0.75, 0.25], [0.5, 0.5]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":"yes","predictionThreshold":0.5,"predictionValues":'
        '[{"label":"yes","value":0.75},{"label":"no","value":0.25}]},'
        '{"rowId":1,"prediction":"no","predictionThreshold":0.5,"predictionValues":'
        '[{"label":"yes","value":0.5},{"label":"no","value":0.5}]}]}',
        "is fraud_yes_PREDICTION,is fraud_no_PREDICTION,is fraud_PREDICTION,THRESHOLD,POSITIVE_CLASS\n"
        "0.75,0.25,yes,0.5,yes\n0.5,0.5,no,0.5,yes\n", id="binary, a tie is negative",
    ),
    pytest.param(
        NUMERIC, [[0.3, 0.7]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":1,"predictionThreshold":0.25,"predictionValues":'
        '[{"label":1,"value":0.3},{"label":0,"value":0.7}]}]}',
        "y_1_PREDICTION,y_0_PREDICTION,y_PREDICTION,THRESHOLD,POSITIVE_CLASS\n0.3,0.7,1,0.25,1\n", id="number labels",
    ),
    pytest.param(
        FLAGS, [[0.3, 0.7]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":false,"predictionThreshold":0.5,"predictionValues":'
        '[{"label":true,"value":0.3},{"label":false,"value":0.7}]}]}',
        "y_true_PREDICTION,y_false_PREDICTION,y_PREDICTION,THRESHOLD,POSITIVE_CLASS\n0.3,0.7,false,0.5,true\n",
        id="flag labels",
    ),
    pytest.param(
        CATS, [[0.28, 0.24, 0.48], [0.4, 0.4, 0.2]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":"lynx","predictionValues":[{"label":"cat","value":0.28},'
        '{"label":"lion","value":0.24},{"label":"lynx","value":0.48}]},'
        '{"rowId":1,"prediction":"cat","predictionValues":[{"label":"cat","value":0.4},'
        '{"label":"lion","value":0.4},{"label":"lynx","value":0.2}]}]}',
        "cat_cat_PREDICTION,cat_lion_PREDICTION,cat_lynx_PREDICTION,cat_PREDICTION\n"
        "0.28,0.24,0.48,lynx\n0.4,0.4,0.2,cat\n", id="multiclass, a tie is the first",
    ),
    pytest.param(
        ANOMALY, [[0.125]], PLAIN, {},
        '{"data":[{"rowId":0,"prediction":0.125,"predictionValues":[{"label":"Anomaly Score","value":0.125}]}]}',
        "ANOMALY_SCORE\n0.125\n", id="anomaly",
    ),
    pytest.param(
        PRICE, [[1.0]], PLAIN, {"a,b": [1.5], 'q"': [None], "t": [True], "o": [{"x": [1]}], "s": ["é\n"]},
        '{"data":[{"rowId":0,"prediction":1.0,"predictionValues":[{"label":"price","value":1.0}],'
        '"passthroughValues":{"a,b":1.5,"q\\"":null,"t":true,"o":{"x":[1]},"s":"é\\n"}}]}',
        'price_PREDICTION,"a,b","q""",t,o,s\n1.0,1.5,,true,"{""x"":[1]}","é\n"\n', id="kept JSON values",
    ),
])  # fmt: skip
def test_bodies(target, values, options, kept, as_json, as_csv):
    assert answers(values, target, options, kept) == (as_json, as_csv)


def test_awkward_labels_are_quoted():
    target = Target(name='t"', type="Binary", class_labels=['a,"b', "c"])
    as_json, as_csv = answers([[0.75, 0.25]], target)
    assert json.loads(as_json)["data"][0]["prediction"] == 'a,"b'
    assert list(csv.reader(io.StringIO(as_csv))) == [
        ['t"_a,"b_PREDICTION', 't"_c_PREDICTION', 't"_PREDICTION', "THRESHOLD", "POSITIVE_CLASS"],
        ["0.75", "0.25", 'a,"b', "0.5", 'a,"b'],
    ]


@pytest.mark.parametrize("n_rows", [1, FEW_ROWS + 1])
@pytest.mark.parametrize(("decimals", "value", "text"), [
    (10, 1 / 3, "0.3333333333"), (2, 2.675, "2.67"), (2, 0.125, "0.12"), (3, 0.5, "0.5"), (15, 0.1, "0.1"), (10, 1e-7, "1e-7"),
    (0, 12.5, "12"), (0, 1.05e300, orjson.dumps(1.05e300).decode()), (0, 1e22, orjson.dumps(1e22).decode()), (0, -0.3, "0"), (1, -0.04, "0.0"), (2, 10.05, "10.05"),
])  # fmt: skip
def test_decimals(n_rows, decimals, value, text):
    as_json, as_csv = answers([[value]] * n_rows, PRICE, ScoringOptions(decimals=decimals))
    assert as_csv.splitlines()[1:] == [text] * n_rows
    assert as_json.count(f'"prediction":{text},') == n_rows


def test_a_label_is_decided_before_rounding():
    target = Target(name="y", type="Binary", class_labels=["yes", "no"])
    as_json, _ = answers([[0.50001, 0.49999]], target, ScoringOptions(decimals=2))
    row = json.loads(as_json)["data"][0]
    assert (row["prediction"], row["predictionValues"][0]["value"]) == ("yes", 0.5)


@pytest.mark.parametrize("n_rows", [1, 100])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("writer", [JsonWriter, CsvWriter])
def test_a_prediction_that_is_no_number_fails_before_the_first_byte(writer, value, n_rows):
    values = np.array([*[[0.5, 0.5]] * (n_rows - 1), [0.5, value]])
    with pytest.raises(
        ScoringFailed, match=rf"^row {n_rows - 1}: the model returned \[0.5, {value}\], expected finite"
    ):
        writer(BINARY).chunks(values, PLAIN, {})


@pytest.mark.parametrize(
    "n_rows", [FEW_ROWS, FEW_ROWS + 1, SLICE_ROWS - 1, SLICE_ROWS, SLICE_ROWS + 1, 2 * SLICE_ROWS + 3]
)
@pytest.mark.parametrize("target", [BINARY, CATS, PRICE], ids=lambda target: target.type)
def test_long_answers_are_like_short_ones(n_rows, target):
    """Slices join without a seam, and the array path writes what the path for few rows writes."""
    values = np.random.default_rng(0).dirichlet([1.0] * target.n_outputs, n_rows) * (0.7 if target is PRICE else 1.0)
    kept = {"id": Chained([[f"r{n}" for n in range(n_rows)]])}
    chunks = list(JsonWriter(target).chunks(values, PLAIN, kept))
    assert len(chunks) == -(-n_rows // SLICE_ROWS) + 1
    rows = json.loads(b"".join(chunks))["data"]
    lines = list(csv.reader(io.StringIO(b"".join(CsvWriter(target).chunks(values, PLAIN, kept)).decode())))
    codes = label_codes(values, target)
    assert [row["rowId"] for row in rows] == list(range(n_rows))
    for number in (0, 1, n_rows // 2, n_rows - 2, n_rows - 1):
        alone, alone_csv = answers(values[number : number + 1], target, PLAIN, {"id": [f"r{number}"]})
        assert rows[number] == json.loads(alone)["data"][0] | {"rowId": number}
        assert lines[number + 1] == alone_csv.splitlines()[1].split(",")
        if target.class_labels:
            assert rows[number]["prediction"] == target.class_labels[codes[number]]


TEXTS = st.lists(st.text(st.sampled_from('a",\n\r \\é{}[]:'), max_size=5), min_size=1, max_size=FEW_ROWS + 4)


@settings(max_examples=300)
@given(TEXTS)
def test_kept_texts_come_back(texts: list[str]) -> None:
    """Whatever a text holds, reading the answer gives it again; our own CSV reader reads our own CSV."""
    values = np.full((len(texts), 1), 0.5)
    as_json, as_csv = answers(values, PRICE, PLAIN, {"k": texts, "l": texts})
    assert [row["passthroughValues"] for row in json.loads(as_json)["data"]] == [
        {"k": text, "l": text} for text in texts
    ]
    schema = Schema((Feature(name="price_PREDICTION", type="numeric", dtype="float64"),))
    assert CsvReader(schema).rows(as_csv.encode(), ("k", "l")).kept == {"k": texts, "l": texts}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text('a",\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a", max_size=1), inner, max_size=2), max_leaves=4,
)  # fmt: skip


@given(st.lists(JSON, min_size=1, max_size=6))
def test_kept_values_come_back(cells) -> None:
    as_json, as_csv = answers(np.full((len(cells), 1), 0.5), PRICE, PLAIN, {"k": cells})
    assert [row["passthroughValues"]["k"] for row in json.loads(as_json)["data"]] == cells
    assert len(list(csv.reader(io.StringIO(as_csv, newline="")))) == len(cells) + 1


def test_text_columns_of_large_bodies():
    """What the block reader keeps is written without becoming a list first, with the client's own text."""
    schema = Schema((Feature(name="n", type="numeric", dtype="float64"),))
    body = "n,k\n" + "".join(f'{n},"a ""{n}"", 0{n}"\n' for n in range(100))
    (table,) = CsvReader(schema).tables(body.encode(), ("n", "k"))
    as_json, as_csv = answers(np.zeros((100, 1)), PRICE, PLAIN, table.kept)
    assert json.loads(as_json)["data"][7]["passthroughValues"] == {"n": "7", "k": 'a "7", 07'}
    assert as_csv.splitlines()[8] == '0.0,7,"a ""7"", 07"'
    assert list(table.kept["n"]) == [str(n) for n in range(100)]

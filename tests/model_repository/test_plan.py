"""A plan is input like any other: whatever could crash, loop or read out of bounds is refused when it is read."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_repository.compiler import compile_estimator
from model_repository.errors import InvalidPackage, ServingError
from model_repository.plan import Block, Link, Plan, Trees, plan_from, plan_members
from model_repository.predictions import Target
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.tables import Feature, Rows, Schema, Table

SCHEMA = Schema(
    (
        Feature(name="x", type="numeric", dtype="float64"),
        Feature(name="y", type="numeric", dtype="float64"),
        Feature(name="city", type="categorical", dtype="str"),
    )
)
BINARY = Target(name="t", type="Binary", class_labels=["yes", "no"])
PRICE = Target(name="t", type="Regression")
FRAME = pd.DataFrame({"x": np.linspace(-3, 3, 60), "y": np.cos(np.arange(60)), "city": ["Oslo", "Bergen", "Voss"] * 20})


def columns() -> ColumnTransformer:
    return ColumnTransformer(
        [("n", StandardScaler(), ["x", "y"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["city"])],
        sparse_threshold=0,
    )


@pytest.fixture(scope="module")
def linear() -> tuple[bytes, bytes]:
    fitted = make_pipeline(columns(), LogisticRegression()).fit(FRAME, np.where(FRAME["x"] > 0, "yes", "no"))
    return plan_members(compile_estimator(fitted, SCHEMA, BINARY))


@pytest.fixture(scope="module")
def forest() -> tuple[bytes, bytes]:
    fitted = make_pipeline(columns(), RandomForestRegressor(3, random_state=0)).fit(FRAME, FRAME["x"] * 2)
    return plan_members(compile_estimator(fitted, SCHEMA, PRICE))


def test_a_plan_survives_the_round_trip(linear: tuple[bytes, bytes]) -> None:
    """Reading and writing a plan changes nothing of it."""
    assert plan_members(plan_from(*linear, SCHEMA, BINARY)) == linear


def test_arrays_are_aligned_and_read_only(linear: tuple[bytes, bytes]) -> None:
    """They are views of the member's bytes: nothing is copied, nothing can be changed by scoring."""
    plan = plan_from(*linear, SCHEMA, BINARY)
    assert not plan.model.coef.flags.writeable  # type: ignore[union-attr]  # it is linear


Change = Callable[[dict[str, Any]], None]


def put(*path: Any) -> Change:
    """Replace what stands at the path (all but the last argument) by the last."""
    *steps, last, value = path

    def change(plan: dict[str, Any]) -> None:
        place: Any = plan
        for step in steps:
            place = place[step]
        place[last] = value

    return change


LINEAR_CASES = [
    pytest.param(put("version", 99), "version", id="a newer plan"),
    pytest.param(put("width", 10**9), "width", id="a matrix of a billion columns"),
    pytest.param(put("width", 4), "column", id="a column beyond the matrix"),
    pytest.param(put("blocks", 0, "input", 7), "feature that is not there", id="a feature beyond the schema"),
    pytest.param(put("blocks", 0, "input", 2), "string feature", id="arithmetic on strings"),
    pytest.param(put("blocks", 0, "ops", [["eval", [1.0]]]), "op 'eval'", id="an op that is not one"),
    pytest.param(put("blocks", 0, "ops", [["sub", []]]), "op 'sub'", id="an op without its argument"),
    pytest.param(put("blocks", 0, "at", [1]), "filled twice", id="a column filled twice"),
    pytest.param(put("blocks", 2, "lookup", "by", "keys", ["Oslo", "Oslo", "Voss"]), "twice", id="a key twice"),
    pytest.param(put("blocks", 2, "lookup", "by", "keys", ["Oslo"]), "states", id="fewer keys than states"),
    pytest.param(put("blocks", 2, "lookup", "refused", [99]), "refuses a state", id="a refused state beyond"),
    pytest.param(put("blocks", 2, "lookup", None), "must be one number", id="a string as a number"),
    pytest.param(put("model", "coef", "at", 10**6), "beyond the end", id="an array beyond the member"),
    pytest.param(put("model", "coef", "at", -8), "bad shape or place", id="an array before the member"),
    pytest.param(put("model", "coef", "shape", [2**40, 2**40]), "beyond the end", id="a huge array"),
    pytest.param(put("model", "coef", "shape", [1, True]), "bad shape", id="a side that is no number"),
    pytest.param(put("model", "coef", "dtype", "|O"), "not a reference", id="an array of objects"),
    pytest.param(put("model", "type", "exec"), "exec", id="a model that is not one"),
    pytest.param(put("link", "name", "lambda"), "lambda", id="a link that is not one"),
    pytest.param(put("order", [0, 0]), "order", id="an order that is none"),
    pytest.param(put("order", [0]), "outputs", id="too few outputs"),
    pytest.param(put("surprise", 1), "surprise", id="an unknown field"),
]


@pytest.mark.parametrize(("change", "message"), LINEAR_CASES)
def test_refused(linear: tuple[bytes, bytes], change: Change, message: str) -> None:
    """Every refusal says what is wrong."""
    plan = json.loads(linear[0])
    change(plan)
    with pytest.raises(InvalidPackage, match=message):
        plan_from(json.dumps(plan).encode(), linear[1], SCHEMA, BINARY)


def poisoned(forest: tuple[bytes, bytes], name: str, at: int, value: float) -> tuple[bytes, bytes]:
    """The forest with one number of one of its arrays replaced."""
    reference = json.loads(forest[0])["model"][name]
    arrays = bytearray(forest[1])
    view = np.frombuffer(arrays, reference["dtype"], int(np.prod(reference["shape"])), reference["at"])
    view[at] = value
    return forest[0], bytes(arrays)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        pytest.param("left", 0, 999_999_999, "not there|parent", id="a child out of bounds"),
        pytest.param("left", 0, -5, "before its parent|leaf", id="a negative child"),
        pytest.param("right", 1, 0, "before its parent", id="a loop"),
        pytest.param("right", 0, 1, "two parents", id="two parents"),
        pytest.param("left", 0, 0, "leaf with a child", id="half a leaf"),
        pytest.param("feature", 0, 12, "column that is not there", id="a column beyond the matrix"),
        pytest.param("roots", 0, -1, "roots", id="a root that is not there"),
        pytest.param("cover", 0, -1.0, "cover", id="fewer than no rows"),
        pytest.param("cover", 1, float("inf"), "cover", id="more rows than there are"),
    ],
)
def test_poisoned_trees_are_refused(
    forest: tuple[bytes, bytes], name: str, at: int, value: float, message: str
) -> None:
    """A tree that would crash or never end in native code does not even load here."""
    with pytest.raises(InvalidPackage, match=message):
        plan_from(*poisoned(forest, name, at, value), SCHEMA, PRICE)


@given(
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.tuples(st.integers(0, 2**20), st.integers(32, 126)),
)
def test_any_damaged_plan_is_refused_or_scores(
    forest: tuple[bytes, bytes], damage: list[tuple[int, int]], scratch: tuple[int, int] | None
) -> None:
    """Whatever passes the checks scores without crashing, however wrong its numbers are."""
    raw, arrays = bytearray(forest[0]), bytearray(forest[1])
    for place, value in damage:
        arrays[place % len(arrays)] = value
    if scratch is not None:
        raw[scratch[0] % len(raw)] = scratch[1]
    try:
        runtime = CompiledRuntime(plan_from(bytes(raw), bytes(arrays), SCHEMA, PRICE), SCHEMA, PRICE)
    except InvalidPackage:
        return
    rows = Rows([(0.5, -0.0, "Oslo"), (1e300, -1e-300, "nowhere")])
    try:
        with np.errstate(all="ignore"):
            assert runtime.predict_rows(rows).shape == runtime.predict(Table.from_rows(rows, SCHEMA)).shape == (2, 1)
    except ServingError:
        pass


def test_a_forest_without_trees_is_refused(forest: tuple[bytes, bytes]) -> None:
    document = json.loads(forest[0])
    document["model"]["roots"]["shape"] = [0]
    with pytest.raises(InvalidPackage, match="roots"):
        plan_from(json.dumps(document).encode(), forest[1], SCHEMA, PRICE)


def test_a_chain_deeper_than_any_real_tree_is_refused() -> None:
    """A million steps for one row would be an attack on everybody else's latency."""
    n = 30_001
    ids = np.arange(n, dtype=np.int32)
    left, right = ids.copy(), ids.copy()
    inner = ids[:-2:2]
    left[inner], right[inner] = inner + 1, inner + 2
    zeros = np.zeros(n)
    arrays: dict[str, Any] = {
        "feature": np.zeros(n, np.int32), "threshold": zeros, "left": left, "right": right,
        "missing_left": np.zeros(n, np.uint8), "value": zeros[:, None], "roots": np.array([0], np.int32),
        "base": zeros[:1],
    }  # fmt: skip
    deep = Plan(width=1, blocks=[Block(input=0, at=[0])], model=Trees(**arrays), link=Link("identity"), order=[0])
    with pytest.raises(InvalidPackage, match="deeper"):
        plan_from(*plan_members(deep), SCHEMA, PRICE)

"""Explanations over HTTP, of real packages: many rows, many models, and what must not happen while they are made."""

import csv
import io
import json
import threading
import tracemalloc

import anyio
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from starlette.requests import ClientDisconnect

from model_repository import create_package
from model_repository.explanations import ExplanationOptions, gathered
from model_repository.predictions import ScoringOptions
from model_repository.repository import load_model
from model_repository.tables import Table
from prediction_api.app import create_app
from prediction_api.negotiation import BodyForm
from prediction_api.scoring import Lanes, Order, Scorer
from prediction_api.settings import Settings
from tests.conftest import INPUTS, linear_inputs

JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}
AS_CSV = CSV | {"accept": "text/csv"}


@pytest.fixture
def client_of(make_client, request):
    """``client_of("binary")``: a client of an app that serves that package."""

    def make(name, **settings):
        model = load_model(request.getfixturevalue(name).path)
        return make_client(create_app(model, Settings(**settings)))

    return make


def table_of(people, n_rows):
    return people[INPUTS].sample(n_rows, replace=True, random_state=1).to_csv(index=False).encode()


async def asked(client, query, body):
    answer = await client.post(f"/predictions?{query}", content=body, headers=CSV)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.mark.parametrize(("name", "margin"), [("regression", "same"), ("binary", "logit"), ("anomaly", "log2")])
async def test_everything_adds_up_on_every_row(client_of, people, name, margin):
    """Also where the body is read in several blocks, and whatever is left out is in the rest."""
    rows = await asked(
        client_of(name), "explanationAlgorithm=shap&maxExplanations=2&decimalsNumber=15", table_of(people, 900)
    )
    for row in rows:
        p = row["predictionValues"][0]["value"]
        expected = {"same": p, "logit": np.log(p / (1 - p)) if p < 1 else 0, "log2": np.log2(p)}[margin]
        (sums,) = row["shapExplanationsMetadata"]
        total = (
            sums["baseValue"] + sums["remainingTotal"] + sum(one["strength"] for one in row["predictionExplanations"])
        )
        assert total == pytest.approx(expected, abs=1e-9)
        assert (len(row["predictionExplanations"]), sums["warnings"]) == (2, [])


@pytest.mark.parametrize("query", ["maxExplanations=3", "maxExplanations=3&explanationNumTopClasses=2", "maxCodes=9"])
@pytest.mark.parametrize("name", ["regression", "binary", "multiclass", "anomaly"])
async def test_json_and_csv_say_the_same(client_of, people, name, query):
    """Row by row and slot by slot; the strongest comes first; values are those of the input."""
    if "Classes" in query and name != "multiclass":
        query = "maxExplanations=3&thresholdHigh=0.1"
    body = table_of(people, 700)
    client = client_of(name)
    rows = await asked(client, query, body)
    lines = list(
        csv.DictReader(io.StringIO((await client.post(f"/predictions?{query}", content=body, headers=AS_CSV)).text))
    )
    sent = list(csv.DictReader(io.StringIO(body.decode())))
    assert len(rows) == len(lines) == len(sent) == 700
    n_classes = 2 if "Classes" in query else 1
    for row, line, cells in zip(rows, lines, sent, strict=True):
        found = row["predictionExplanations"]
        by_class: dict[str, list] = {}
        for one in found:
            by_class.setdefault(str(one["label"]), []).append(one)
            assert as_number(one["featureValue"]) == as_number(cells[one["feature"]])
        assert len(by_class) <= n_classes
        for number, (label, some) in enumerate(by_class.items(), 1):
            assert [abs(one["strength"]) for one in some] == sorted(
                (abs(one["strength"]) for one in some), reverse=True
            )
            prefix = f"CLASS_{number}_" if name == "multiclass" else ""
            assert not prefix or line[f"CLASS_{number}"] == label
            for place, one in enumerate(some, 1):
                slot = f"{prefix}EXPLANATION_{place}_"
                assert line[f"{slot}FEATURE_NAME"] == one["feature"]
                assert float(line[f"{slot}STRENGTH"]) == one["strength"]
                assert as_number(line[f"{slot}ACTUAL_VALUE"]) == as_number(one["featureValue"])
                assert line[f"{slot}QUALITATIVE_STRENGTH"] == one["qualitativeStrength"]
        assert sum(name.endswith("_FEATURE_NAME") and value != "" for name, value in line.items()) == len(found)


def as_number(value):
    """However a cell is written: 41, 41.0, true, True, nothing."""
    if value in (None, ""):
        return None
    text = str(value).lower()
    if text in ("true", "false"):
        return text
    try:
        return float(text)
    except ValueError:
        return text


async def test_predictions_are_the_same_with_and_without(client_of, people):
    for n_rows in (1, 40, 900):
        body = table_of(people, n_rows)
        plain = (await client_of("regression").post("/predictions", content=body, headers=CSV)).json()["data"]
        explained = await asked(client_of("regression"), "maxExplanations=1&decimalsNumber=10", body)
        assert [row["prediction"] for row in plain] == [row["prediction"] for row in explained]


async def test_values_are_written_as_clients_write_them(client_of):
    """JSON types for JSON; infinity has no JSON, so it is a text."""
    body = json.dumps(
        [{"age": 41, "income": 1.5, "city": 'São "x", y', "member": True}, {"age": -0.0, "income": "inf", "member": 0}]
    )
    answer = await client_of("regression").post("/predictions?explanationAlgorithm=shap", content=body, headers=JSON)
    table = await client_of("regression").post(
        "/predictions?explanationAlgorithm=shap", content=body, headers=JSON | {"accept": "text/csv"}
    )
    rows = [
        {one["feature"]: one["featureValue"] for one in row["predictionExplanations"]} for row in answer.json()["data"]
    ]
    assert rows == [
        {"age": 41, "income": 1.5, "city": 'São "x", y', "member": True},
        {"age": 0, "income": "inf", "city": None, "member": False},
    ]
    assert '"featureValue":41,' in answer.text
    cells = [
        [one[f"EXPLANATION_{place}_ACTUAL_VALUE"] for place in range(1, 5)]
        for one in csv.DictReader(io.StringIO(table.text))
    ]
    assert [sorted(some) for some in cells] == [
        sorted(["41", "1.5", 'São "x", y', "true"]),
        sorted(["0", "inf", "", "false"]),
    ]


async def test_a_package_without_reference_rows(made, make_client):
    """Its trees are explained by SHAP all the same."""
    estimator = make_pipeline(linear_inputs(), GradientBoostingRegressor(n_estimators=5))
    model = load_model(made("bare", estimator, "spent", reference=False).path)
    client = make_client(create_app(model, Settings()))
    body = b'[{"age": 41, "income": 1, "city": "Oslo", "member": true}]'
    shap = await client.post("/predictions?maxExplanations=all", content=body, headers=JSON)
    xemp = await client.post("/predictions?maxExplanations=1", content=body, headers=JSON)
    capabilities = (await client.get("/info")).json()["capabilities"]
    assert len(shap.json()["data"][0]["predictionExplanations"]) == 4
    assert xemp.status_code == 422
    assert "without --no-reference; explanationAlgorithm=shap does without" in xemp.json()["message"]
    assert (capabilities["explanationAlgorithms"], capabilities["supportsShapBasedPredictionExplanations"]) == (
        ["shap"],
        True,
    )


@pytest.mark.parametrize("path", ["compiled", "estimator"])
@pytest.mark.parametrize("n_rows", [1, 3000], ids=["small", "large"])
async def test_explaining_never_runs_on_the_loop(make_model, make_client, path, n_rows):
    """A model that waits for a ping beside it."""
    model = make_model("regression", path=path, reference=True)
    pinged = threading.Event()
    predict = model.runtime.predict
    model.runtime.predict = lambda table: predict(table) if pinged.wait(10) else None
    client = make_client(create_app(model, Settings()))
    answers = []

    async def ask():
        body = b"x,city\n" + b"1,Oslo\n" * n_rows
        answers.append(await client.post("/predictions?maxExplanations=1", content=body, headers=CSV))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        assert (await client.get("/ping")).status_code == 200
        pinged.set()
    assert answers[0].status_code == 200


async def test_time_limit(make_model, make_client):
    """However long a model takes, the client is told in time, and the work ends soon after."""
    model = make_model("regression", reference=True)
    let_go = threading.Event()
    predict, calls = model.runtime.predict, []

    def slow(table):
        calls.append(table.n_rows)
        if len(calls) > 2:
            let_go.wait(10)
        return predict(table)

    model.runtime.predict = slow
    client = make_client(create_app(model, Settings(request_timeout=0.3)))
    body = b"x,city\n" + b"1,Oslo\n" * 8000
    answer = await client.post("/predictions?explanationAlgorithm=shap", content=body, headers=CSV)
    assert (answer.status_code, answer.json()) == (503, {"message": "the prediction took longer than 0.3 s"})
    at_the_end = len(calls)
    let_go.set()
    assert len(calls) <= at_the_end + 1


async def test_work_for_nobody_stops_between_portions(make_model):
    model = make_model("regression", reference=True)
    stop = threading.Event()
    predict = model.runtime.predict
    calls = []

    def leave(table: Table):
        calls.append(table.n_rows)
        if len(calls) == 3:
            stop.set()
        return predict(table)

    model.runtime.predict = leave
    scorer = Scorer(model, Lanes.for_worker())
    options = ScoringOptions(explain=ExplanationOptions("shap", None))
    order = Order(b"x,city\n" + b"1,Oslo\n" * 200_000, BodyForm("csv"), "json", options)
    with pytest.raises(ClientDisconnect):
        scorer._score_table(order, stop)
    assert len(calls) <= 5


@pytest.mark.parametrize("answer_as", [JSON, AS_CSV], ids=["json", "csv"])
async def test_what_does_not_add_up_is_said(make_client, tmp_path, caplog, answer_as):
    """Numbers so large that the mean of a feature is lost beside them."""
    sample = pd.DataFrame({"a": [4.0, 5.0, 6.0], "b": [7.0, 9.0, 8.0], "y": [11.0, 14.0, 14.0]})
    create_package(tmp_path / "m.mlpkg", LinearRegression().fit(sample[["a", "b"]], sample["y"]), sample, target="y")
    client = make_client(create_app(load_model(tmp_path / "m.mlpkg"), Settings()))
    body = b"a,b\n4,7\n1e20,-1e20\n"
    answer = await client.post(
        "/predictions?explanationAlgorithm=shap", content=body, headers=CSV | {"accept": answer_as.get("accept", "*/*")}
    )
    assert "SHAP values do not add up to the prediction in 1 of 2 rows: off by up to" in caplog.text
    if answer_as is JSON:
        for row in answer.json()["data"]:
            (warning,) = row["shapExplanationsMetadata"][0]["warnings"]
            assert warning["mismatchRowCount"] == 1
            assert warning["maxNormalizedMismatch"] > 1e-5


async def test_more_than_fits_is_refused(client_of, people, monkeypatch):
    """As a body that is too large is: whoever sends half of it is answered."""
    monkeypatch.setattr(gathered, "MOST_EXPLANATIONS", 1000)
    client = client_of("regression")
    answer = await client.post("/predictions?maxExplanations=3", content=table_of(people, 400), headers=CSV)
    assert answer.status_code == 413
    assert "at most 333 rows are answered at once with up to 3 explanations each" in answer.json()["message"]
    assert len(await asked(client, "maxExplanations=3", table_of(people, 333))) == 333


async def test_memory_is_bounded(client_of, people):
    """Of 60,000 rows nothing but predictions and the explanations themselves stays until the answer is written."""
    body = table_of(people, 60_000)
    client = client_of("regression")
    await asked(client, "maxExplanations=3", table_of(people, 900))
    tracemalloc.start()
    async with client.stream("POST", "/predictions?maxExplanations=3", content=body, headers=AS_CSV) as answer:
        size = sum([len(part) async for part in answer.aiter_raw()])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 3_000_000
    assert peak < 60_000_000

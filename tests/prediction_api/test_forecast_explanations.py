"""Why a forecast is what it is, over HTTP: of the features that are derived, by exemplars."""

import csv
import io
import json
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier
from starlette.requests import ClientDisconnect

from model_repository import SeriesSettings, fit_time_series_package
from model_repository.deployments import Repository
from model_repository.explanations import Explainer, ExplanationOptions, gathered
from model_repository.predictions import ScoringOptions
from model_repository.repository import Model, load_model
from model_repository.tables import Rows, Table
from model_repository.timeseries import features
from prediction_api.app import create_app
from prediction_api.forecasting import scorer_for
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.negotiation import BodyForm
from prediction_api.scoring import Lanes, Order
from prediction_api.settings import Settings

AS_JSON = {"Content-Type": "text/csv"}
AS_CSV = {"Content-Type": "text/csv", "Accept": "text/csv"}
SETTINGS = {"target": "sales", "datetime_column": "day", "series_column": "shop", "known_in_advance": ["promo"], "feature_derivation_window": (-1, 0), "forecast_window": (1, 3), "lags": [1, 2], "windows": [], "date_parts": []}  # fmt: skip
FEATURES = ["sales (lag 1)", "sales (lag 2)", "FORECAST_DISTANCE", "promo"]
PROMOS = [None, "half", "gift"]


def day(step: int) -> str:
    return (date(2024, 1, 1) + timedelta(days=step)).isoformat()


def rows_of(shops: str = "ab", n: int = 30, ahead: int = 3) -> list[dict[str, Any]]:
    """Sales that rise, more with a gift."""
    return [
        {"day": day(step), "shop": shop, "promo": PROMOS[step % 3] or "none", "sales": 10.0 * level + step + 3 * (step % 3) if step < n else None}
        for level, shop in enumerate(shops, 1)
        for step in range(n + ahead)
    ]  # fmt: skip


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False).encode()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("explained")
    training = pd.DataFrame(rows_of(n=40, ahead=0))
    trees = HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=2, categorical_features="from_dtype")
    lines = training.drop(columns="promo")

    def fit(name: str, table: pd.DataFrame = lines, reference: bool = True, **changes: Any) -> Path:
        estimator = changes.pop("estimator", LinearRegression())
        spec = SeriesSettings(**{**SETTINGS, "known_in_advance": [], **changes})
        fit_time_series_package(folder / f"{name}.mlpkg", table, spec, estimator=estimator, reference=reference)
        return folder / f"{name}.mlpkg"

    above = lines.assign(sales=np.where(lines["sales"] > lines["sales"].median(), "high", "low"))
    return {
        "linear": fit("linear", prediction_interval=80),
        "trees": fit("trees", training.astype({"promo": "category"}), estimator=trees, known_in_advance=["promo"]),
        "per distance": fit("per", models="per_distance"),
        "binary": fit("binary", above, estimator=DecisionTreeClassifier(max_depth=3), positive_class="high"),
        "bare": fit("bare", reference=False),
    }


@pytest.fixture
def client_for(packages, make_client):
    def client(kind: str) -> httpx.AsyncClient:
        return make_client(create_app(load_model(packages[kind]), Settings()))

    return client


async def asked(client: httpx.AsyncClient, query: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = await client.post(f"/predictions?{query}", content=as_csv(rows), headers=AS_JSON)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def derived(rows: list[dict[str, Any]], row: int, distance: int) -> dict[str, Any]:
    """What the model sees, by its definition."""
    lags = {f"sales (lag {k})": rows[row - distance + 1 - k]["sales"] for k in (1, 2)}
    return lags | {"FORECAST_DISTANCE": distance, "promo": rows[row]["promo"]}


def by_definition(model: Model, cells: dict[str, Any]) -> dict[str, float]:
    """A feature's strength: what the model says, less the mean of what it says with each exemplar's value."""
    names = model.manifest.schema.names
    assert model.reference is not None

    def said(changed: list[dict[str, Any]]) -> np.ndarray:
        found: np.ndarray = model.runtime.predict_rows(Rows([[row[name] for name in names] for row in changed]))[:, 0]
        return found

    strengths = {}
    for name in names:
        columns = model.reference.columns[name]
        others = [cells | {name: columns[place]} for place in model.reference.exemplars]
        strengths[name] = float(said([cells])[0] - said(others).mean())
    return strengths


@pytest.mark.parametrize("query", ["", "&predictionsStartDate=2024-01-20&predictionsEndDate=2024-01-25"], ids=["point", "range"])  # fmt: skip
@pytest.mark.parametrize("kind", ["linear", "trees", "per distance"])
async def test_strengths_are_those_of_the_definition(client_for, packages, kind, query):
    """Of what was derived for just this forecast, with its value, the strongest first."""
    rows, model = rows_of(), load_model(packages[kind])

    found = await asked(client_for(kind), f"maxExplanations=10&decimalsNumber=12{query}", rows)

    assert len(found) == (2 * 5 * 3 if query else 6)
    for one in found:
        cells = derived(rows, one["rowId"], one["forecastDistance"])
        expected = by_definition(model, cells)
        reasons = one["predictionExplanations"]
        assert reasons
        assert [abs(reason["strength"]) for reason in reasons] == sorted(
            (abs(reason["strength"]) for reason in reasons), reverse=True
        )
        for reason in reasons:
            assert reason["feature"] in FEATURES
            assert reason["featureValue"] == cells[reason["feature"]]
            assert reason["strength"] == pytest.approx(expected.pop(reason["feature"]), abs=1e-9)
            assert reason["label"] == "sales"
        assert all(abs(rest) < 1e-9 for rest in expected.values())
        assert "shapExplanationsMetadata" not in one


@pytest.mark.parametrize("kind", ["linear", "trees", "binary"])
async def test_the_rest_of_the_answer_is_the_same(client_for, kind):
    """In CSV they stand behind the interval and before what is passed through."""
    rows = rows_of()
    if kind == "binary":
        rows = [row | {"sales": row["sales"] and ("high" if row["sales"] > 30 else "low")} for row in rows]
    client, body = client_for(kind), as_csv(rows)

    plain = (await client.post("/predictions?passthroughColumns=shop", content=body, headers=AS_CSV)).text
    both = (await client.post("/predictions?passthroughColumns=shop&maxCodes=2", content=body, headers=AS_CSV)).text
    in_json = await asked(client, "maxExplanations=2", rows)

    names = [f"EXPLANATION_{n}_{field}" for n in (1, 2) for field in ("FEATURE_NAME", "STRENGTH", "ACTUAL_VALUE", "QUALITATIVE_STRENGTH")]  # fmt: skip
    header = both.splitlines()[0].split(",")
    assert header == [*plain.splitlines()[0].split(",")[:-1], *names, "shop"]
    if kind == "linear":
        assert header[header.index(names[0]) - 1] == "PREDICTION_80_PERCENTILE_HIGH"
    lines = list(csv.reader(io.StringIO(both)))
    assert [[*line[: -1 - len(names)], line[-1]] for line in lines] == list(csv.reader(io.StringIO(plain)))
    for line, row in zip(lines[1:], in_json, strict=True):
        cells = line[-1 - len(names) : -1]
        for number, reason in enumerate(row["predictionExplanations"]):
            told = dict(zip(("name", "strength", "value", "symbol"), cells[4 * number :], strict=False))
            assert told["name"] == reason["feature"]
            assert float(told["strength"]) == reason["strength"]
            assert told["value"] == str(reason["featureValue"]) or float(told["value"]) == reason["featureValue"]
            assert told["symbol"] == reason["qualitativeStrength"]
            assert reason["label"] == ("high" if kind == "binary" else "sales")
        assert all(not cell for cell in cells[4 * len(row["predictionExplanations"]) :])


async def test_the_old_route_gives_three(client_for):
    body = as_csv(rows_of())
    answer = await client_for("linear").post("/predictionExplanations", content=body, headers=AS_JSON)
    off = await client_for("linear").post("/predictionExplanations?maxCodes=0", content=body, headers=AS_JSON)

    assert [len(row["predictionExplanations"]) for row in answer.json()["data"]] == [3] * 6
    assert not any("predictionExplanations" in row for row in off.json()["data"])


async def test_thresholds(client_for):
    """Compared with the forecast itself."""
    client = client_for("linear")
    values = [row["prediction"] for row in await asked(client, "", rows_of())]
    border = (values[2] + values[3]) / 2  # of the two shops, the second sells more

    found = await asked(client, f"maxExplanations=3&thresholdHigh={border}", rows_of())

    assert [bool(row["predictionExplanations"]) for row in found] == [False] * 3 + [True] * 3


async def test_without_reference_rows_it_says_what_to_do(client_for):
    client = client_for("bare")
    answer = await client.post("/predictions?maxExplanations=3", content=as_csv(rows_of()), headers=AS_JSON)
    info = (await client.get("/info")).json()

    assert (answer.status_code, answer.json()["message"]) == (422, "the model's package has no reference rows, which these explanations need: package it again with 'prediction-api package create-time-series' and without --no-reference")  # fmt: skip
    assert info["capabilities"]["explanationAlgorithms"] == []
    assert (await client.post("/predictions", content=as_csv(rows_of()), headers=AS_JSON)).status_code == 200


@pytest.mark.parametrize("kind", ["linear", "trees"])
async def test_info_and_the_description_say_so(client_for, kind):
    info = (await client_for(kind).get("/info")).json()
    document = (await client_for(kind).get("/openapi.json")).json()

    assert info["capabilities"]["explanationAlgorithms"] == ["xemp"]
    assert info["capabilities"]["supportsShapBasedPredictionExplanations"] is False
    properties = document["components"]["schemas"]["Prediction"]["properties"]
    assert "predictionExplanations" in properties
    assert "shapExplanationsMetadata" not in properties


async def test_among_many_models(tmp_path, packages, client_for, make_client):
    """As alone."""
    (tmp_path / "shops").mkdir()
    (tmp_path / "shops" / "m.mlpkg").write_bytes(packages["linear"].read_bytes())
    settings = Settings(model_repository_path=tmp_path)
    repository = Repository(tmp_path, build=Deployer(settings), places=2, ttl=0, patience=60)
    client = make_client(create_app_of_many(repository, settings))
    body, query = json.dumps(rows_of()), "maxExplanations=3"
    headers = {"Content-Type": "application/json"}

    among = await client.post(f"/deployments/shops/predictions?{query}", content=body, headers=headers)
    alone = await client_for("linear").post(f"/predictions?{query}", content=body, headers=headers)
    refused = await client.post(
        "/deployments/shops/predictions?explanationAlgorithm=shap", content=body, headers=headers
    )

    assert among.status_code == 200
    assert among.content == alone.content
    assert refused.status_code == 422
    assert "SHAP explanations are not available for time series models" in refused.json()["message"]


async def test_what_is_not_known_in_advance_may_be_a_reason(client_for):
    """Its value is that it is missing."""
    rows = [{name: row[name] for name in ("day", "shop", "sales")} for row in rows_of()]

    found = await asked(client_for("trees"), "maxExplanations=10&relaxKnownInAdvanceFeaturesCheck=true", rows)

    values = {reason["feature"]: reason["featureValue"] for row in found for reason in row["predictionExplanations"]}
    assert values["promo"] is None
    assert isinstance(values["sales (lag 1)"], int | float)


async def test_a_range_is_explained_block_by_block(client_for, monkeypatch):
    """However it is cut, the answer is the same."""
    query = "maxExplanations=3&predictionsStartDate=2024-01-05&predictionsEndDate=2024-01-30"
    whole = await asked(client_for("trees"), query, rows_of())
    monkeypatch.setattr(features, "MOST_PAIRS", 7)

    cut = await asked(client_for("trees"), query, rows_of())

    assert len(cut) == 2 * 25 * 3
    assert cut == whole


async def test_a_range_has_no_more_than_fit_into_memory(client_for, monkeypatch):
    """It is refused before the first is explained."""
    monkeypatch.setattr(gathered, "MOST_EXPLANATIONS", 100)
    monkeypatch.setattr(Explainer, "explain", None)
    monkeypatch.setattr(features, "MOST_PAIRS", 7)
    query = "maxExplanations=3&predictionsStartDate=2024-01-05&predictionsEndDate=2024-01-30"

    answer = await client_for("linear").post(f"/predictions?{query}", content=as_csv(rows_of()), headers=AS_JSON)

    assert (answer.status_code, answer.json()["message"]) == (413, "at most 33 rows are answered at once with up to 3 explanations each: send fewer rows, or ask for fewer explanations")  # fmt: skip


async def test_they_are_made_off_the_event_loop_and_end_with_the_client(packages):
    """Also those of a small body."""
    model = load_model(packages["linear"])
    explain, threads = model.explainer.explain, []
    began, over = threading.Event(), threading.Event()

    def watched(table: Table, values: np.ndarray, options: ExplanationOptions, proceed: Any) -> Any:
        threads.append(threading.current_thread())
        began.set()
        try:
            while True:
                proceed()
        finally:
            over.set()
        return explain(table, values, options)

    object.__setattr__(model.explainer, "explain", watched)
    scorer = scorer_for(model, Lanes.for_worker())
    options = ScoringOptions(explain=ExplanationOptions("xemp", 3))
    order = Order(as_csv(rows_of()), BodyForm("csv", "utf-8"), "json", options)

    async def left() -> None:
        await anyio.to_thread.run_sync(began.wait)

    with pytest.raises(ClientDisconnect):
        await scorer.score(order, left)

    assert await anyio.to_thread.run_sync(over.wait, 10)
    assert threads[0] is not threading.main_thread()

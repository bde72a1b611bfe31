"""Forecasts over HTTP: what is answered, in both formats, alone and among other deployments."""

import csv
import io
import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from model_repository import SeriesSettings, fit_time_series_package
from model_repository.deployments import Repository
from model_repository.repository import load_model
from prediction_api.app import create_app
from prediction_api.forecasting import ForecastScorer, scorer_for
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.pieces import finite_texts
from prediction_api.scoring import Lanes
from prediction_api.settings import Settings

CSV = {"Content-Type": "text/csv", "Accept": "text/csv"}
AS_JSON = {"Content-Type": "text/csv"}
JSON = {"Content-Type": "application/json"}
FIRST = date(2024, 1, 1)
DISTANCES = 3
SETTINGS = {"target": "sales", "datetime_column": "day", "series_column": "shop", "known_in_advance": ["promo"], "feature_derivation_window": (-2, 0), "forecast_window": (1, DISTANCES), "lags": [1], "windows": [], "date_parts": []}  # fmt: skip


def day(step: int) -> str:
    return (FIRST + timedelta(days=step)).isoformat()


def training(shops: str = "ab", n: int = 40) -> pd.DataFrame:
    """A value that grows by one each day, and by ten on days with a promotion, from the level of the shop."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {"day": day(step), "shop": shop, "promo": promo, "sales": 100.0 * level + step}
        for level, shop in enumerate(shops, 1)
        for step, promo in enumerate(rng.integers(0, 2, n).tolist())
    )


def make(path: Path, **changes) -> Path:
    estimator = changes.pop("estimator", LinearRegression())
    spec = SeriesSettings(**{**SETTINGS, **changes})
    table = training() if spec.series_column else training("a")
    fit_time_series_package(path, table, spec, estimator=estimator)
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("series")
    trees = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=2)
    return {
        "many": make(folder / "many.mlpkg"),
        "one": make(folder / "one.mlpkg", series_column=None),
        "closed": make(folder / "closed.mlpkg", new_series_allowed=False),
        "interval": make(folder / "interval.mlpkg", prediction_interval=80),
        "trees": make(folder / "trees.mlpkg", estimator=trees),
    }


@pytest.fixture
def client_for(packages, make_client):
    def client(kind: str = "many", **settings: object) -> httpx.AsyncClient:
        return make_client(create_app(load_model(packages[kind]), Settings(**settings)))  # type: ignore[arg-type]

    return client


def rows_of(shops: str = "ab", n: int = 5, ahead: int = DISTANCES, **fixed) -> list[dict]:
    """History of so many days, and after it rows to forecast."""
    rows = [
        {"day": day(step), "shop": shop, "promo": 0, "sales": 100.0 * level + step if step < n else None, "note": f"{shop}{step}"}
        for level, shop in enumerate(shops, 1)
        for step in range(n + ahead)
    ]  # fmt: skip
    return [row | fixed for row in rows]


def as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def expected(shop: str, level: int, row: int, distance: int) -> dict:
    """The last known value and a day's growth for each step."""
    value = 100.0 * level + 4 + distance
    return {
        "rowId": row,
        "seriesId": shop,
        "forecastPoint": f"{day(4)}T00:00:00.000000Z",
        "timestamp": f"{day(4 + distance)}T00:00:00.000000Z",
        "originalFormatTimestamp": day(4 + distance),
        "forecastDistance": distance,
        "prediction": value,
        "predictionValues": [{"label": "sales", "value": value}],
    }


ALL = [expected(shop, level, 8 * (level - 1) + 4 + distance, distance) for level, shop in enumerate("ab", 1) for distance in (1, 2, 3)]  # fmt: skip


@pytest.mark.parametrize("route", ["/predictions", "/timeSeriesPredictions", "/predApi/v1.0/predictions/"])
async def test_json(client_for, route):
    """One row per series and distance, whichever way the rows come."""
    client = client_for()

    from_json = await client.post(route, content=json.dumps(rows_of()), headers=JSON)
    from_csv = await client.post(route, content=as_csv(rows_of()), headers=AS_JSON)

    assert from_json.status_code == 200
    assert from_json.json() == {"data": ALL}
    assert from_csv.content == from_json.content


async def test_csv(client_for):
    answer = await client_for().post("/predictions", content=as_csv(rows_of("a")), headers=CSV)

    assert answer.text == (
        "shop,FORECAST_POINT,day,FORECAST_DISTANCE,sales_PREDICTION\n"
        "a,2024-01-05T00:00:00Z,2024-01-06,1,105.0\n"
        "a,2024-01-05T00:00:00Z,2024-01-07,2,106.0\n"
        "a,2024-01-05T00:00:00Z,2024-01-08,3,107.0\n"
    )


async def test_a_single_series(client_for):
    rows = [{"day": row["day"], "promo": 0, "sales": row["sales"]} for row in rows_of("a")]
    client = client_for("one")

    in_json = (await client.post("/predictions", content=json.dumps(rows), headers=JSON)).json()
    in_csv = (await client.post("/predictions", content=as_csv(rows), headers=CSV)).text

    assert [row["seriesId"] for row in in_json["data"]] == [None] * 3
    assert in_csv.startswith(
        "FORECAST_POINT,day,FORECAST_DISTANCE,sales_PREDICTION\n2024-01-05T00:00:00Z,2024-01-06,1,105.0\n"
    )


async def test_passthrough_and_decimals(client_for):
    """Columns are those of the rows that are forecast."""
    query = "passthroughColumns=note&passthroughColumns=day&decimalsNumber=0"
    answer = await client_for().post(f"/predictions?{query}", content=as_csv(rows_of()), headers=CSV)

    header, first, *_ = answer.text.splitlines()
    assert header == "shop,FORECAST_POINT,day,FORECAST_DISTANCE,sales_PREDICTION,note,day"
    assert first == "a,2024-01-05T00:00:00Z,2024-01-06,1,105,a5,2024-01-06"
    in_json = await client_for().post(f"/predictions?{query}", content=as_csv(rows_of()), headers=AS_JSON)
    assert in_json.json()["data"][3]["passthroughValues"] == {"note": "b5", "day": "2024-01-06"}


@pytest.mark.parametrize("point", ["2024-01-04", "2024-01-04T00:00:00.000000Z", "2024-01-04T00:00:00%2B00:00"])
async def test_from_a_point(client_for, point):
    """The value of the day after it is known, and not used."""
    answer = await client_for().post(f"/predictions?forecastPoint={point}", content=as_csv(rows_of("a")), headers=CSV)

    assert answer.text.splitlines()[1:] == [f"a,2024-01-04T00:00:00Z,{day(3 + distance)},{distance},{103.0 + distance}" for distance in (1, 2, 3)]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        pytest.param("2024-01-05", "2024-01-06", [(2, 4, 2), (3, 4, 1)], id="a day"),
        pytest.param("2024-01-04", "2024-01-07", [(2, 3, 1), (2, 4, 2), (2, 5, 3), (3, 4, 1), (3, 5, 2), (4, 5, 1)], id="days"),
        pytest.param("1900-01-01T00:00:00.000000Z", "2262-04-11T23:47:16.854775+00:00", [(origin, origin + distance, distance) for origin in (2, 3, 4) for distance in (1, 2, 3)], id="all time"),
    ],
)  # fmt: skip
async def test_a_range(client_for, start, end, found):
    """From every point that has its history, by point and distance."""
    query = {"predictionsStartDate": start, "predictionsEndDate": end}
    answer = await client_for().post("/predictions", params=query, content=as_csv(rows_of("a")), headers=CSV)

    assert answer.text.splitlines()[1:] == [
        f"a,{day(origin)}T00:00:00Z,{day(row)},{distance},{100.0 + origin + distance}"
        for origin, row, distance in found
    ]


async def test_a_large_body_answers_as_small_ones(client_for):
    """Read in blocks, on a thread, and streamed."""
    shops = [f"shop {number}" for number in range(400)]
    rows = [row | {"shop": shop} for shop in shops for row in rows_of("a", n=60)]
    query = {"predictionsStartDate": day(0), "predictionsEndDate": day(99)}
    client = client_for()

    in_csv = await client.post("/predictions", params=query, content=as_csv(rows), headers=CSV)
    in_json = await client.post("/predictions", params=query, content=json.dumps(rows), headers=JSON)
    alone = await client.post("/predictions", params=query, content=as_csv(rows[:63]), headers=CSV)

    lines = in_csv.text.splitlines()
    assert len(lines) == 1 + 400 * 58 * 3
    assert lines[: 1 + 58 * 3] == alone.text.splitlines()
    found = in_json.json()["data"]
    assert len(found) == 400 * 58 * 3
    assert found[-1]["rowId"] == len(rows) - 1
    assert [row["seriesId"] for row in found[:: 58 * 3]] == shops


async def test_an_estimator_that_is_not_compiled_forecasts_too(packages, make_client):
    model = replace(load_model(packages["trees"]), path="estimator")
    client = make_client(create_app(model, Settings()))

    answer = await client.post("/predictions", content=as_csv(rows_of()), headers=CSV)

    assert len(answer.text.splitlines()) == 7


REFUSALS = [
    pytest.param(rows_of("a", n=2), "", 422, "series 'a': too little history: the forecast point 2024-01-02 needs it from 2023-12-31 to 2024-01-02, found from 2024-01-01 to 2024-01-02", id="short history"),
    pytest.param(rows_of("a", ahead=0), "", 422, "no rows to forecast: the forecast point 2024-01-05 needs rows from 2024-01-06 to 2024-01-08, found rows from 2024-01-01 to 2024-01-05", id="nothing to forecast"),
    pytest.param(rows_of("a"), "forecastPoint=2025-01-01", 422, "the forecast point 2025-01-01 is later than the last row, 2024-01-08", id="point beyond the rows"),
    pytest.param(rows_of("a"), "forecastPoint=2024-01-04T12:00", 422, "'forecastPoint': 2024-01-04T12:00:00 is not on the time step of the model, one day; the step before it is 2024-01-04", id="point off the step"),
    pytest.param(rows_of("a"), "forecastPoint=2024-01-04T00:00%2B02:00", 422, "'forecastPoint': 2024-01-04T00:00:00+02:00 has an offset, and the model has no time zone; write the wall clock's time", id="offset"),
    pytest.param(rows_of("a"), "forecastPoint=2024-01-04&predictionsStartDate=2024-01-04&predictionsEndDate=2024-01-05", 422, "'forecastPoint' and 'predictionsStartDate' exclude each other: give one of them", id="point and range"),
    pytest.param(rows_of("a"), "predictionsStartDate=2024-01-04", 422, "'predictionsStartDate' and 'predictionsEndDate' are only allowed together", id="half a range"),
    pytest.param(rows_of("a"), "predictionsStartDate=2024-02-04&predictionsEndDate=2024-02-05", 422, "no rows to forecast: needs rows from 2024-02-04T00:00:00 to before 2024-02-05T00:00:00, found rows from 2024-01-01 to 2024-01-08", id="range beyond the rows"),
    pytest.param(rows_of("a", promo=None), "", 422, "row 5, column 'promo': is missing in a row to forecast, where it should be known in advance; relaxKnownInAdvanceFeaturesCheck=true forecasts without it", id="not known"),
    pytest.param([*rows_of("a"), *rows_of("a")[:1]], "", 422, "row 8, column 'day': row 0 of series 'a' has the same time", id="a time twice"),
    pytest.param(rows_of("a", day="soon"), "", 422, "row 0, column 'day': 'soon' is not a date or time in ISO 8601", id="no time"),
    pytest.param([{"day": day(0), "shop": "a", "sales": 1.0}], "", 400, "missing columns: promo", id="known column absent"),
    pytest.param([{"day": day(0), "promo": 1, "sales": 1.0}], "", 400, "missing columns: shop", id="series column absent"),
    pytest.param([{"day": day(step), "shop": "a", "promo": 0} for step in range(9)], "", 422, "series 'a': too little history: the forecast point 2024-01-06 needs it from 2024-01-04 to 2024-01-06, found none", id="target column absent"),
    pytest.param(rows_of("a"), "explanationAlgorithm=shap", 422, "SHAP explanations are not available for time series models; explanationAlgorithm=xemp is, with maxExplanations from 1 to 10", id="SHAP"),
    pytest.param(rows_of("a"), "maxExplanations=all", 422, "SHAP explanations are not available for time series models; explanationAlgorithm=xemp is, with maxExplanations from 1 to 10", id="all explanations"),
    pytest.param(rows_of("a"), "maxExplanations=11", 422, "'maxExplanations': value is not a whole number from 0 to 10; more only with explanationAlgorithm=shap", id="too many explanations"),
    pytest.param(rows_of("a"), "passthroughColumns=nothing", 400, "passthroughColumns do not match columns, columns expected but not found: ['nothing']", id="passthrough"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize(("rows", "query", "status", "message"), REFUSALS)
async def test_refusals(client_for, kind, rows, query, status, message):
    """Each names what is needed and what was found."""
    body, headers = (json.dumps(rows), JSON) if kind == "json" else (as_csv(rows), CSV)
    answer = await client_for().post(f"/predictions?{query}", content=body, headers=headers)

    assert (answer.status_code, answer.json()) == (status, {"message": message})


@pytest.mark.parametrize("rows", [rows_of("a", promo=None), [{name: row[name] for name in ("day", "shop", "sales")} for row in rows_of("a")]], ids=["empty cells", "no column"])  # fmt: skip
async def test_relaxed(client_for, rows):
    """A model that takes missing values forecasts without what is not known."""
    query = "relaxKnownInAdvanceFeaturesCheck=true"
    answer = await client_for("trees").post(f"/predictions?{query}", content=as_csv(rows), headers=CSV)
    strict = await client_for("many").post(f"/predictions?{query}", content=as_csv(rows), headers=CSV)

    assert answer.status_code == 200
    assert strict.status_code == 422
    assert strict.json()["message"] == "row 5, column 'promo': is missing, and the model takes no missing values here"


async def test_new_series(client_for):
    known = await client_for("closed").post("/predictions", content=as_csv(rows_of("ab")), headers=CSV)
    new = await client_for("closed").post("/predictions", content=as_csv(rows_of("az")), headers=CSV)

    assert known.status_code == 200
    assert (new.status_code, new.json()["message"]) == (422, "row 8, column 'shop': the model does not know the series 'z', and takes no new ones")  # fmt: skip


async def test_the_packages_interval(client_for):
    """The backtest of an exact model leaves next to no residual."""
    client = client_for("interval")

    in_json = (await client.post("/predictions?decimalsNumber=3", content=as_csv(rows_of("a")), headers=AS_JSON)).json()
    in_csv = (await client.post("/predictions?decimalsNumber=3", content=as_csv(rows_of("a")), headers=CSV)).text

    assert in_json["data"][0]["predictionIntervals"] == {"80": {"low": 105.0, "high": 105.0}}
    header, first, *_ = in_csv.splitlines()
    assert header.endswith(",sales_PREDICTION,PREDICTION_80_PERCENTILE_LOW,PREDICTION_80_PERCENTILE_HIGH")
    assert first.endswith(",105.0,105.0,105.0")


@pytest.mark.parametrize(
    ("kind", "config", "percentile"),
    [
        pytest.param("many", "prediction_intervals: {enabled: true, percentiles: [90]}", 90, id="of the deployment"),
        pytest.param(
            "interval", "prediction_intervals: {enabled: true, percentiles: [50]}", 50, id="the deployment's wins"
        ),
        pytest.param("interval", "prediction_intervals: {enabled: false, percentiles: [80]}", None, id="switched off"),
        pytest.param("interval", "deployment_id: other", 80, id="of the package"),
        pytest.param("many", "deployment_id: other", None, id="of nobody"),
    ],
)
async def test_intervals_among_many_models(tmp_path, packages, make_client, kind, config, percentile):
    (tmp_path / "shops").mkdir()
    (tmp_path / "shops" / "m.mlpkg").write_bytes(packages[kind].read_bytes())
    (tmp_path / "shops" / "config.yml").write_text(config)
    settings = Settings(model_repository_path=tmp_path)
    repository = Repository(tmp_path, build=Deployer(settings), places=2, ttl=0, patience=60)
    client = make_client(create_app_of_many(repository, settings))

    answer = await client.post("/deployments/shops/predictions", content=as_csv(rows_of("a")), headers=AS_JSON)
    info = await client.get("/deployments/shops/info")

    rows = answer.json()["data"]
    found = [row.pop("predictionIntervals", None) for row in rows]
    assert [None if one is None else list(one) for one in found] == [
        None if percentile is None else [str(percentile)]
    ] * 3
    assert rows == ALL[:3]
    assert info.json()["modelKind"]["isTimeSeries"] is True


async def test_info(client_for):
    """What a client has to know to ask."""
    info = (await client_for("closed").get("/info")).json()

    assert info["modelKind"]["isTimeSeries"] is True
    assert info["modelKind"]["isMultiseries"] is True
    assert [feature["name"] for feature in info["features"]] == ["day", "shop", "sales", "promo"]
    assert info["timeseries"] == {
        "datetimeColumnName": "day",
        "datetimeColumnFormat": None,
        "timeZone": None,
        "seriesColumnName": "shop",
        "forecastPointColumnName": "FORECAST_POINT",
        "forecastDistanceColumnName": "FORECAST_DISTANCE",
        "forecastDistances": [1, 2, 3],
        "forecastDistancesTimeUnit": "DAY",
        "timeStep": 1,
        "featureDerivationWindowStart": -2,
        "featureDerivationWindowEnd": 0,
        "effectiveFeatureDerivationWindowStart": -2,
        "effectiveFeatureDerivationWindowEnd": 0,
        "knownInAdvance": ["promo"],
        "isCrossSeries": False,
        "isNewSeriesSupport": False,
        "isTraditionalTimeSeries": False,
    }


async def test_openapi_says_what_it_takes(client_for):
    document = (await client_for().get("/openapi.json")).json()

    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == ["day", "shop", "sales", "promo"]
    answer = document["components"]["schemas"]["Prediction"]
    assert set(ALL[0]) <= set(answer["properties"])
    parameters = {one["name"] for one in document["paths"]["/predictions"]["post"]["parameters"]}
    assert {"forecastPoint", "predictionsStartDate", "predictionsEndDate"} <= parameters


async def test_the_association_id_is_asked_of_rows_to_forecast(client_for):
    """History has none."""
    rows = [row | {"id": "" if row["sales"] is not None else row["note"]} for row in rows_of("a")]
    client = client_for(mlops_association_id_column="id", mlops_deployment_id="d", mlops_model_id="m")

    good = await client.post("/predictions", content=as_csv(rows), headers=CSV)
    bad = await client.post("/predictions", content=as_csv([row | {"id": ""} for row in rows]), headers=CSV)

    assert good.status_code == 200
    assert bad.status_code == 422


def test_numbers_of_an_interval_that_is_not_known():
    assert finite_texts(np.array([1.25, np.nan]), 1, b"null") == [b"1.2", b"null"]
    assert finite_texts(np.array([1.25, np.nan]), 0, b"null") == [b"1", b"null"]


def test_a_forecaster_has_a_scorer_of_its_own(packages):
    assert isinstance(scorer_for(load_model(packages["many"]), Lanes.for_worker()), ForecastScorer)

"""Whole jobs of time series over real files: each forecast is what the server says of the whole table at once."""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from batch.definition import definition_from
from batch.errors import IntakeError, JobError, RowRefused
from batch.job import Job
from batch.report import Report
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from model_repository import SeriesSettings, fit_time_series_package
from model_repository.explanations import gathered
from model_repository.repository import load_model
from prediction_api.app import create_app
from prediction_api.settings import Settings
from tests.batch.jobs import read_csv

SHOPS = [f"shop {number:02}" for number in range(30)]
Row = dict[str, Any]


def day(step: int) -> str:
    return (date(2024, 1, 1) + timedelta(days=step)).isoformat()


def rows_of(shops: list[str] | None = None, n: int = 20, ahead: int = 3) -> list[Row]:
    return [
        {"shop": shop, "day": day(step), "promo": step % 2, "sales": 100 * level + step if step < n else "", "note": f'{shop}, "{step}"'}
        for level, shop in enumerate(shops or SHOPS, 1)
        for step in range(n + ahead)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "m.mlpkg"
    spec = SeriesSettings(target="sales", datetime_column="day", series_column="shop", known_in_advance=["promo"], feature_derivation_window=(-2, 0), forecast_window=(1, 3), lags=[1, 3], windows=[3], statistics=["mean"])  # fmt: skip
    training = pd.DataFrame(rows_of(SHOPS[:3], n=60, ahead=0))
    fit_time_series_package(path, training, spec, estimator=LinearRegression())
    return path


@pytest.fixture
async def client(package: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(load_model(package), Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


@pytest.fixture
def run(client: httpx.AsyncClient, tmp_path: Path) -> Callable[..., Any]:
    """Score a table in the test's directory into ``out.csv``; keys of the definition on top."""

    async def go(rows: list[Row] | None, options: RunOptions | None = None, **keys: Any) -> Report:
        if rows is not None:
            (tmp_path / "in.csv").write_text(as_csv(rows), newline="")
        job = job_of(tmp_path, **keys)
        return await run_job(job, Credentials(), client=client, options=options)

    return go


def job_of(folder: Path, **keys: Any) -> Job:
    stores = {
        "intake_settings": {"type": "filesystem", "path": str(folder / "in.csv")},
        "output_settings": {"type": "filesystem", "path": str(folder / "out.csv")},
    }
    return definition_from({"prediction_endpoint": "http://server", **stores, **keys}).job


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


async def whole(client: httpx.AsyncClient, rows: list[Row], **query: str) -> list[list[str]]:
    headers = {"content-type": "text/csv", "accept": "text/csv"}
    answer = await client.post("/predictions", content=as_csv(rows), headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.text)))


@pytest.mark.parametrize("size", [{"mini_batch_size": 7}, {"mini_batch_size": 100}, {"chunk_size": 900}, {}], ids=str)
async def test_forecasts_of_many_series(run, client, tmp_path, size):
    """However the table is cut, series stay whole, in their order, beside what was passed through."""
    rows = rows_of()

    report = await run(rows, passthrough_columns=["note"], num_concurrent=3, **size)

    predicted = await whole(client, rows)
    notes = ["note", *(row["note"] for row in rows if row["sales"] == "")]
    assert read_csv(tmp_path / "out.csv") == [[*line, note] for line, note in zip(predicted, notes, strict=True)]
    assert (report.rows_read, report.rows_scored, report.rows_skipped, report.rows_failed) == (690, 90, 600, 0)


async def test_all_series_have_one_forecast_point(run, client, tmp_path):
    """That of the table, which only its last series has."""
    rows = [*rows_of(SHOPS[:4], n=20, ahead=4), *rows_of(SHOPS[4:5], n=21)]
    for row in rows:
        row["sales"] = 1 if row["day"] == day(20) and row["sales"] == "" else row["sales"]

    await run(rows, mini_batch_size=5)

    assert {line[1] for line in read_csv(tmp_path / "out.csv")[1:]} == {f"{day(20)}T00:00:00Z"}
    assert read_csv(tmp_path / "out.csv") == await whole(client, rows)


async def test_a_range_of_the_past(run, client, tmp_path):
    """A row has as many forecasts as points before it; without dates, all there are."""
    rows = rows_of(SHOPS[:5], ahead=0)
    ends = {"predictions_start_date": day(5), "predictions_end_date": day(9)}

    some = await run(
        rows, timeseries_settings={"type": "historical", **ends}, mini_batch_size=10, passthrough_columns_set="all"
    )
    found = read_csv(tmp_path / "out.csv")
    every = await run(rows, timeseries_settings={"type": "historical"}, mini_batch_size=10)

    predicted = await whole(client, rows, predictionsStartDate=day(5), predictionsEndDate=day(9))
    assert [line[:5] for line in found] == predicted
    assert found[0][5:] == ["promo", "sales", "note"]
    assert (some.rows_scored, some.rows_skipped) == (5 * 4, 5 * 16)
    assert every.rows_scored == 5 * 17
    assert len(read_csv(tmp_path / "out.csv")) == 1 + 5 * (17 + 16 + 15)


@pytest.mark.parametrize("historical", [False, True], ids=["point", "range"])
async def test_explanations(run, client, tmp_path, historical):
    """As over HTTP, in as many columns, however the table is cut."""
    rows = rows_of(SHOPS[:6], n=8)
    settings = {"timeseries_settings": {"type": "historical", "predictions_start_date": day(5), "predictions_end_date": day(8)}}  # fmt: skip
    query = {"predictionsStartDate": day(5), "predictionsEndDate": day(8)}
    keys = {"max_explanations": 3, "threshold_high": 250, "passthrough_columns": ["note"], "mini_batch_size": 20}

    report = await run(rows, **keys, **(settings if historical else {}))

    options = {"maxExplanations": "3", "thresholdHigh": "250", "passthroughColumns": "note"}
    found = read_csv(tmp_path / "out.csv")
    assert found == await whole(client, rows, **options, **(query if historical else {}))
    assert found[0].count("EXPLANATION_3_QUALITATIVE_STRENGTH") == 1
    assert {line[found[0].index("EXPLANATION_1_FEATURE_NAME")] for line in found[1:]} == {"", "sales (lag 1)"}
    assert (report.rows_scored, report.rows_failed) == (18, 0)


async def test_more_explanations_than_a_server_holds_at_once(run, client, tmp_path, monkeypatch):
    """Are asked for series by series."""
    rows = rows_of(SHOPS[:4])
    query = {"maxExplanations": "2"}
    expected = await whole(client, rows, **query)
    monkeypatch.setattr(gathered, "MOST_EXPLANATIONS", 2 * 3 * 1)

    report = await run(rows, max_explanations=2)

    assert read_csv(tmp_path / "out.csv") == expected
    assert (report.rows_scored, report.rows_failed) == (12, 0)


async def test_explanations_without_reference_rows(tmp_path):
    """Said before anything is scored."""
    (tmp_path / "in.csv").write_text(as_csv(rows_of(SHOPS[:1])), newline="")
    bare = tmp_path / "bare.mlpkg"
    spec = SeriesSettings(target="sales", datetime_column="day", series_column="shop", feature_derivation_window=(-2, 0), forecast_window=(1, 3), lags=[1], windows=[])  # fmt: skip
    training = pd.DataFrame(rows_of(SHOPS[:3], n=60, ahead=0))
    fit_time_series_package(bare, training, spec, estimator=LinearRegression(), reference=False)
    transport = httpx.ASGITransport(app=create_app(load_model(bare), Settings()))

    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        with pytest.raises(JobError, match="max_explanations: the package of the server's model has not what"):
            await run_job(job_of(tmp_path, max_explanations=3), Credentials(), client=client)


async def test_a_series_without_rows_to_forecast_is_history_only(run, tmp_path):
    report = await run([*rows_of(SHOPS[:1], ahead=0), *rows_of(SHOPS[1:3])], mini_batch_size=5)

    assert {line[0] for line in read_csv(tmp_path / "out.csv")[1:]} == set(SHOPS[1:3])
    assert (report.rows_scored, report.rows_skipped, report.rows_failed) == (6, 20 + 40, 0)


async def test_a_point_that_moves_with_the_run(run, tmp_path):
    """The latest time of the table that is not after it."""
    policy = {"forecast_point_policy": {"configuration": {"offset": "-P1D"}}}

    await run(rows_of(SHOPS[:2]), timeseries_settings=policy | {"relax_known_in_advance_features_check": True}, abort_on_error=False)  # fmt: skip

    assert read_csv(tmp_path / "out.csv")[1:] == []  # the table ended years ago: nothing stands behind its last row


async def test_a_given_point(run, client, tmp_path):
    rows = rows_of(SHOPS[:3])

    await run(rows, timeseries_settings={"forecast_point": day(10)})

    assert read_csv(tmp_path / "out.csv") == await whole(client, rows, forecastPoint=day(10))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_other_formats(run, client, tmp_path, kind):
    rows = [row | {"sales": None if row["sales"] == "" else row["sales"]} for row in rows_of(SHOPS[:6])]
    if kind == "jsonl":
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).assign(day=lambda table: pd.to_datetime(table["day"])).to_parquet(tmp_path / "in.parquet")
    source = {"type": "filesystem", "path": str(tmp_path / f"in.{kind}")}
    target = {"type": "filesystem", "path": str(tmp_path / "out.jsonl")}

    await run(None, intake_settings=source, output_settings=target, mini_batch_size=11, passthrough_columns=["note"])

    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    predicted = await whole(client, rows_of(SHOPS[:6]))
    assert [
        (row["shop"], row["FORECAST_POINT"], row["FORECAST_DISTANCE"], row["sales_PREDICTION"]) for row in found
    ] == [(line[0], line[1], int(line[3]), float(line[4])) for line in predicted[1:]]
    assert [row["note"] for row in found] == [row["note"] for row in rows if row["sales"] is None]


def out_of_order(*moves: tuple[int, int]) -> list[Row]:
    rows = rows_of(SHOPS[:3])
    for source, target in moves:
        rows.insert(target, rows.pop(source))
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(out_of_order((10, 5)), "in.csv, row 6: is not later than the row of series 'shop 00' before it; order the table by series, then by time", id="times"),
        pytest.param(out_of_order((3, 60)), "in.csv, row 60: series 'shop 00' begins again, after others; order the table by series, then by time", id="series"),
        pytest.param(rows_of(SHOPS[:1]) + rows_of(SHOPS[:1])[-1:], "in.csv, row 23: is not later than the row of series 'shop 00' before it; order the table by series, then by time", id="a time twice"),
    ],
)  # fmt: skip
async def test_a_table_out_of_order_names_its_first_bad_row(run, tmp_path, rows, message):
    with pytest.raises(IntakeError) as refusal:
        await run(rows, mini_batch_size=7)

    assert str(refusal.value).removeprefix(f"{tmp_path}/") == message
    assert not (tmp_path / "out.csv").exists()


async def test_a_series_that_cannot_be_forecast_ends_the_job(run, tmp_path):
    rows = [row for row in rows_of(SHOPS[:4]) if row["shop"] != SHOPS[2] or row["day"] >= day(19)]

    with pytest.raises(RowRefused) as refusal:
        await run(rows)

    assert str(refusal.value).removeprefix(f"{tmp_path}/") == (
        f"in.csv, row 46: series 'shop 02': too little history: the forecast point {day(19)} needs it from {day(17)} to "
        f"{day(19)}, found from {day(19)} to {day(19)}"
    )


async def test_a_bad_cell_is_named_where_it_stands(run, tmp_path):
    rows = rows_of(SHOPS[:4])
    rows[23 * 2 + 21]["promo"] = ""

    with pytest.raises(RowRefused) as refusal:
        await run(rows, mini_batch_size=7)

    assert str(refusal.value).removeprefix(f"{tmp_path}/").startswith("in.csv, row 67: column 'promo': is missing in a row to forecast")  # fmt: skip


async def test_the_other_series_are_forecast_where_the_job_says_so(run, tmp_path):
    rows = [row for row in rows_of(SHOPS[:4]) if row["shop"] != SHOPS[2] or row["day"] >= day(19)]

    report = await run(rows, abort_on_error=False, errors={"mode": "skip", "path": str(tmp_path / "errors.jsonl")})

    assert (report.rows_scored, report.rows_failed, report.rows_skipped) == (9, 1, 63)
    assert {line[0] for line in read_csv(tmp_path / "out.csv")[1:]} == set(SHOPS[:4]) - {SHOPS[2]}
    error = json.loads((tmp_path / "errors.jsonl").read_text())
    assert (error["row"], error["code"], error["input"]["shop"]) == (46, 422, SHOPS[2])


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        pytest.param({"include_row_id": True}, None, "include_row_id: not for models of time series", id="row id"),
        pytest.param({}, RunOptions(limit=5), "--limit: not for models of time series", id="limit"),
        pytest.param({"explanation_algorithm": "shap"}, None, "explanation_algorithm: the server's model is not explained by shap, only by xemp", id="shap"),
        pytest.param({"max_explanations": "all"}, None, "is not explained by shap, only by xemp", id="all"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_of_series(run, keys, options, message):
    with pytest.raises(JobError, match=message):
        await run(rows_of(SHOPS[:1]), options, **keys)


async def test_validation_leaves_nothing(run, tmp_path):
    await run(rows_of(SHOPS[:1]), RunOptions(validate=True), passthrough_columns_set="all")

    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]

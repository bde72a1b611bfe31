"""From rows of the past to a package that forecasts, through the public door."""

import contextlib
import json
import re
import zipfile
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from examples import sea
from model_repository import SeriesSettings, fit_time_series_package
from model_repository.errors import CannotPackage, InvalidPackage, PackageMismatch
from model_repository.manifest import Manifest, manifest_from
from model_repository.mlpkg import write_package
from model_repository.predictions import ForecastOptions
from model_repository.repository import load_model
from model_repository.tables import Table, encoded
from model_repository.timeseries_settings import settings_from
from prediction_api.cli import main

DAILY = {"target": "sales", "datetime_column": "day", "series_column": "shop", "known_in_advance": ["promo", "kind"], "estimator": "linear", "feature_derivation_window": (-13, 0), "forecast_window": (1, 3), "date_parts": ["day_of_week"]}  # fmt: skip


def rows_of(n: int = 60, start: str = "2024-01-15", shops: str = "ab") -> pd.DataFrame:
    """A week's rhythm, more on days with a promotion."""
    rng = np.random.default_rng(0)
    days = pd.date_range(start, periods=n).strftime("%Y-%m-%d")
    frames = []
    for level, shop in enumerate(shops, 10):
        promo = rng.random(n) < 0.3
        sales = level + np.arange(n) % 7 + 3 * promo + rng.normal(0, 0.1, n)
        frames.append(pd.DataFrame({"day": days, "shop": shop, "sales": sales, "promo": promo, "kind": rng.choice(["x", "y"], n)}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def settings(**changes) -> SeriesSettings:
    return SeriesSettings(**{**DAILY, **changes})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "shops.mlpkg"
    fit_time_series_package(path, rows_of(), settings(prediction_interval=80))
    return path


def test_a_package_forecasts(package: Path):
    """By its plan, close to what it was made to learn, with an interval that holds it."""
    model = load_model(package)
    table = request(rows_of(20))

    assert model.path == "compiled"
    assert model.manifest.format_version == 2
    assert model.golden_difference <= 1e-9
    assert model.forecasting is not None
    found = model.forecasting.forecaster.forecast(table, ForecastOptions(), 90)
    actual = rows_of(20)["sales"].to_numpy()[found.rows]
    assert found.rows.tolist() == [17, 18, 19, 37, 38, 39]
    np.testing.assert_allclose(found.values[:, 0], actual, atol=1.5)
    assert found.interval is not None
    assert (found.interval.low < found.values[:, 0]).all()
    assert (found.interval.high > found.values[:, 0]).all()


def request(rows: pd.DataFrame, ahead: int = 3) -> Table:
    """The rows as a request, the target of the last days of each shop not known."""
    last = rows.groupby("shop").cumcount(ascending=False) < ahead
    numbers = {"sales": rows["sales"].where(~last).to_numpy(), "promo": rows["promo"].to_numpy(np.float64)}
    return Table(len(rows), numbers, {name: encoded(rows[name].tolist()) for name in ("day", "shop", "kind")})


def test_backtest_intervals_are_honest(package: Path):
    """About as many actual values as they say lie in them, on days that nobody has seen."""
    model = load_model(package)
    rows = rows_of(300)
    numbers = {"sales": rows["sales"].to_numpy(), "promo": rows["promo"].to_numpy(np.float64)}
    table = Table(len(rows), numbers, {name: encoded(rows[name].tolist()) for name in ("day", "shop", "kind")})
    asked = ForecastOptions(start=datetime(2024, 4, 1), end=datetime(2025, 1, 1))
    assert model.forecasting is not None

    found = model.forecasting.forecaster.forecast(table, asked, 80)

    assert found.interval is not None
    actual = rows["sales"].to_numpy()[found.rows]
    inside = (found.interval.low <= actual) & (actual <= found.interval.high)
    assert 0.6 < inside.mean() < 0.95


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        pytest.param({"time_step": "15 minutes"}, pd.date_range("2024-02-28", periods=60, freq="15min"), id="15 minutes"),
        pytest.param({"time_step": "1 hour", "time_zone": "Europe/Oslo"}, pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Oslo"), id="hours over a change of clocks"),
        pytest.param({"time_step": "week"}, pd.date_range("2023-12-27", periods=60, freq="7D"), id="weeks"),
        pytest.param({"time_step": "month"}, pd.date_range("2020-01-31", periods=60, freq="ME"), id="month ends"),
        pytest.param({"time_step": "3 months"}, pd.date_range("2010-03-31", periods=60, freq="QE"), id="quarters"),
        pytest.param({"time_step": "1 day", "datetime_format": "%d.%m.%Y"}, pd.date_range("2024-01-01", periods=60).strftime("%d.%m.%Y"), id="a format of its own"),
    ],
)  # fmt: skip
def test_steps_of_every_kind(tmp_path: Path, changes, times):
    """A single series with holes; dates as datetimes or texts."""
    rows = pd.DataFrame({"t": times, "y": np.arange(60.0) % 5}).drop(index=[20, 21, 33])
    spec = SeriesSettings(target="y", datetime_column="t", estimator="linear", feature_derivation_window=(-9, -1), forecast_window=(2, 4), **changes)  # fmt: skip

    manifest = fit_time_series_package(tmp_path / "m.mlpkg", rows, spec)

    assert manifest.timeseries is not None
    assert list(manifest.timeseries.distances) == [2, 3, 4]
    assert load_model(tmp_path / "m.mlpkg").path == "compiled"


def test_a_target_of_two_classes(tmp_path: Path):
    rows = rows_of()
    rows["sales"] = np.where(rows["sales"] > 13, "high", "low")

    fit_time_series_package(tmp_path / "m.mlpkg", rows, settings(positive_class="high"))

    model = load_model(tmp_path / "m.mlpkg")
    assert model.manifest.target.class_labels == ["high", "low"]
    assert model.forecasting is not None
    assert model.forecasting.contents.intervals is None


def test_an_estimator_of_ones_own(tmp_path: Path):
    """Derived features under their names, known values as they were in training."""
    estimator = make_pipeline(SimpleImputer(), LinearRegression())
    spec = settings(
        known_in_advance=["promo"], new_series_allowed=False, lags=[7], windows=[7], statistics=["mean"], date_parts=[]
    )

    manifest = fit_time_series_package(tmp_path / "m.mlpkg", rows_of(), spec, estimator=estimator)

    assert manifest.schema.names == ["sales (lag 7)", "sales (mean of 7)", "FORECAST_DISTANCE", "promo"]
    forecasting = load_model(tmp_path / "m.mlpkg").forecasting
    assert forecasting is not None
    assert forecasting.contents.series == ["a", "b"]


@pytest.mark.parametrize("target", ["number", "class"])
def test_a_model_for_each_distance(tmp_path: Path, target):
    """Each learns its own distance: here, from the last value alone, what a week's rhythm makes of it."""
    rows = pd.DataFrame(
        {"day": pd.date_range("2024-01-01", periods=70).strftime("%Y-%m-%d"), "sales": np.arange(70.0) % 7}
    )
    if target == "class":
        rows["sales"] = np.where(rows["sales"] > 4, "high", "low")
    spec = settings(
        series_column=None,
        known_in_advance=[],
        models="per_distance",
        lags=list(range(1, 8)),
        windows=[],
        date_parts=[],
    )
    estimator = LinearRegression() if target == "number" else LogisticRegression(C=1000)
    fit_time_series_package(tmp_path / "m.mlpkg", rows, spec, estimator=estimator)
    table = table_of(rows.assign(sales=rows["sales"].where(rows.index < 67)), target)

    model = load_model(tmp_path / "m.mlpkg")

    assert model.path == "estimator"
    assert model.reason == "PerDistance: no plan for this estimator"
    assert model.forecasting is not None
    found = model.forecasting.forecaster.forecast(table, ForecastOptions())
    expected = [[4.0], [5.0], [6.0]] if target == "number" else [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(found.values, expected, atol=0.05)


def table_of(rows: pd.DataFrame, target: str) -> Table:
    days = encoded(rows["day"].tolist())
    if target == "number":
        return Table(len(rows), {"sales": rows["sales"].to_numpy()}, {"day": days})
    labels = [label if isinstance(label, str) else None for label in rows["sales"]]
    return Table(len(rows), {}, {"day": days, "sales": encoded(labels)})


def test_more_training_rows_than_allowed_are_drawn_alike(tmp_path: Path):
    golden = []
    for name in ("one.mlpkg", "two.mlpkg"):
        fit_time_series_package(tmp_path / name, rows_of(), settings(training_rows=100))
        forecasting = load_model(tmp_path / name).forecasting
        assert forecasting is not None
        golden.append(forecasting.contents.golden.values)

    assert golden[0] == golden[1]


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        pytest.param({}, {"target": "profit"}, "the training rows lack columns: profit", id="no such column"),
        pytest.param({}, {"time_step": "fortnight"}, "time_step 'fortnight': expected a number and minutes, hours, days, weeks or months, such as '15 minutes'", id="step"),
        pytest.param({}, {"time_zone": "Mars/Base"}, "time_zone: 'Mars/Base' is not one, expected a name such as 'Europe/Oslo'", id="zone"),
        pytest.param({}, {"feature_derivation_window": (0, -3)}, "feature_derivation_window: 0 is after -3", id="window"),
        pytest.param({}, {"lags": [20]}, "timeseries.lags: 20 is more than the 14 steps of the derivation window", id="lag"),
        pytest.param({}, {"history": ["kind"]}, "column 'kind': is of type categorical, and history is numeric", id="history of texts"),
        pytest.param({}, {"feature_derivation_window": (-200, 0)}, "0 pairs of forecast point and distance can be learned from, expected 20 or more: a series needs 204 steps, and some more", id="too short"),
        pytest.param({"day": "soon"}, {}, "column 'day': 'soon' is not a date or time in ISO 8601", id="no time"),
        pytest.param({"shop": "a"}, {}, "the training rows: row 60, column 'day': row 0 of series 'a' has the same time", id="a time twice"),
        pytest.param({"sales": "many"}, {}, "column 'sales': 1 classes, a time series may have two", id="one class"),
        pytest.param({"sales": np.inf}, {}, "the training rows: row 0, column 'sales': is infinite, and history has finite numbers only", id="infinite"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, change, changes, message):
    with pytest.raises(CannotPackage) as refusal:
        fit_time_series_package(tmp_path / "m.mlpkg", rows_of().assign(**change), settings(**changes))

    assert str(refusal.value) == message
    assert not list(tmp_path.iterdir())


def test_the_example_forecasts_the_sea(tmp_path: Path):
    """Real measurements: less than a degree off, and most of them within the interval."""
    sea.write(tmp_path)
    spec = settings_from((tmp_path / "ts.yml").read_bytes(), "ts.yml")
    fit_time_series_package(tmp_path / "sea.mlpkg", pd.read_csv(tmp_path / "past.csv"), spec)
    asked = pd.read_csv(tmp_path / "ask.csv")
    table = Table(len(asked), {"degrees": asked["degrees"].to_numpy()}, {"month": encoded(asked["month"].tolist())})
    forecasting = load_model(tmp_path / "sea.mlpkg").forecasting
    assert forecasting is not None

    found = forecasting.forecaster.forecast(table, ForecastOptions(), 80)

    measured = pd.read_csv(tmp_path / "measured.csv")["degrees"].to_numpy()
    assert np.abs(found.values[:, 0] - measured).mean() < 1
    assert found.interval is not None
    assert ((found.interval.low <= measured) & (measured <= found.interval.high)).sum() >= 4


def changed(source: Path, path: Path, *, of_manifest=None, of_contents=None) -> Path:
    """A copy with other fields."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    raw = json.loads(members.pop("manifest.json"))
    raw["timeseries"] |= of_manifest or {}
    manifest = msgspec.json.decode(json.dumps(raw), type=Manifest)
    contents = json.loads(members["timeseries.json"])
    for key, value in (of_contents or {}).items():
        contents["golden"][key] = value
    members["timeseries.json"] = json.dumps(contents).encode()
    write_package(path, manifest, members)
    return path


@pytest.mark.parametrize(
    ("of_manifest", "of_contents", "error", "message"),
    [
        pytest.param({"lags": [500]}, None, InvalidPackage, "manifest.json: timeseries.lags: 500 is more than the 14 steps", id="lag beyond the window"),
        pytest.param({"lags": [1, 2]}, None, InvalidPackage, "the features are not those that timeseries derives", id="other features"),
        pytest.param({"time_zone": "../../etc/passwd"}, None, InvalidPackage, "timeseries.time_zone: '../../etc/passwd' is not known here", id="zone that is a path"),
        pytest.param({"unit": "MONTH"}, None, InvalidPackage, "timeseries.month_day: belongs to steps of months", id="month without a day"),
        pytest.param({"member": "other.json"}, None, InvalidPackage, "member 'other.json' is used but not listed", id="member"),
        pytest.param({"series_column": None}, None, InvalidPackage, "timeseries.inputs: expected the columns day, kind, promo, sales", id="column for nothing"),
        pytest.param(None, {"columns": {"day": ["2024-01-01"]}}, InvalidPackage, "timeseries.json: the columns of the golden forecast are not the inputs", id="golden columns"),
        pytest.param(None, {"values": [[1.0]]}, InvalidPackage, "timeseries.json: the golden forecast has not one row", id="golden length"),
        pytest.param(None, {"rows": [0, 1, 2, 3, 4, 5]}, PackageMismatch, "differs by inf", id="other rows"),
    ],
)  # fmt: skip
def test_damaged_packages_are_refused(package: Path, tmp_path: Path, of_manifest, of_contents, error, message):
    path = changed(package, tmp_path / "bad.mlpkg", of_manifest=of_manifest, of_contents=of_contents)

    with pytest.raises(error, match=re.escape(message)):
        load_model(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"format_version": 1}, "timeseries belongs to format 2, and to no other", id="older format"),
        pytest.param({"target": {"name": "sales", "type": "Multiclass", "class_labels": ["a", "b", "c"]}},
                     "a time series has a Regression or Binary target", id="classes"),
    ],
)  # fmt: skip
def test_manifests_that_fit_no_time_series_are_refused(package: Path, fields, message: str):
    with zipfile.ZipFile(package) as archive:
        raw = json.loads(archive.read("manifest.json")) | fields

    with pytest.raises(InvalidPackage, match=message):
        manifest_from(json.dumps(raw).encode())


def test_a_package_that_derives_otherwise_is_refused(package: Path, tmp_path: Path):
    """The golden forecast holds the derivation: here the step is shifted by a day, and its rows are not on it."""
    path = changed(package, tmp_path / "bad.mlpkg", of_manifest={"anchor": "2024-01-15T12:00:00"})

    with pytest.raises(PackageMismatch, match="not on the time step"):
        load_model(path)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_uploads_are_tried_out_with_their_golden_forecast(package: Path, tmp_path: Path, validator, shift: float):
    """A forecast that the package does not make again is found before anybody is served."""
    forecasting = load_model(package).forecasting
    assert forecasting is not None
    values = [[value + shift for value in row] for row in forecasting.contents.golden.values]
    path = changed(package, tmp_path / "sent.mlpkg", of_contents={"values": values})
    refused = pytest.raises(PackageMismatch, match="differs by") if shift else contextlib.nullcontext()

    with path.open("rb") as file, refused:
        validator.check(file.fileno())


def test_reference_rows_are_of_the_derived_features(package: Path):
    """Explanations need them; they bring the model's own features, the texts among them."""
    model = load_model(package)

    assert model.reference is not None
    assert list(model.reference.columns) == model.manifest.schema.names
    assert {"sales (lag 1)", "day (day of week)", "FORECAST_DISTANCE", "promo", "kind"} <= set(model.reference.columns)
    assert set(model.reference.columns["kind"]) == {"x", "y"}
    assert set(model.reference.columns["FORECAST_DISTANCE"]) == {1.0, 2.0, 3.0}
    assert (model.reference.n_rows, max(model.reference.impact)) == (200, 1.0)
    assert model.explainer.algorithms == ("xemp",)


def test_a_package_without_reference_rows(tmp_path: Path):
    """Whoever does not want rows of the past in it; forecasts are the same."""
    rows_of().to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "ts.yml").write_text(
        "target: sales\ndatetime_column: day\nseries_column: shop\nestimator: linear\nforecast_window: [1, 3]\n"
        "feature_derivation_window: [-13, 0]\n"
    )
    arguments = ["package", "create-time-series", str(tmp_path / "train.csv"), "--config", str(tmp_path / "ts.yml")]

    made = [main([*arguments, *more, "-o", str(tmp_path / name)]) for name, more in [("with", []), ("without", ["--no-reference"])]]  # fmt: skip

    full, bare = (load_model(tmp_path / name) for name in ("with", "without"))
    assert made == [0, 0]
    assert full.reference is not None
    assert (bare.reference, bare.manifest.reference, bare.explainer.algorithms) == (None, None, ())
    assert "create-time-series" in str(bare.explainer.problem("xemp"))
    assert bare.forecasting is not None
    assert full.forecasting is not None
    assert bare.forecasting.contents.golden == full.forecasting.contents.golden


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Codes with leading zeros stay texts; the package verifies and says what it takes."""
    rows = rows_of().assign(shop=lambda table: table["shop"].map({"a": "007", "b": "011"}))
    rows.to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "ts.yml").write_text(
        "target: sales\ndatetime_column: day\nseries_column: shop\nknown_in_advance: [promo, kind]\nestimator: linear\n"
        "feature_derivation_window: [-13, 0]\nforecast_window: [1, 3]\nnew_series_allowed: false\n"
    )
    out = str(tmp_path / "out.mlpkg")

    made = main(
        ["package", "create-time-series", str(tmp_path / "train.csv"), "--config", str(tmp_path / "ts.yml"), "-o", out]
    )
    shown = capsys.readouterr().out
    verified = main(["package", "verify", out])
    inspected = main(["package", "inspect", out])
    told = capsys.readouterr().out

    assert (made, verified, inspected) == (0, 0, 0)
    assert "Regression model of 'sales'" in shown
    assert "compiled   equal on" in told
    assert "forecasts  1 to 3 steps of one day ahead, from those -13 to 0" in told
    assert "takes      day, shop, sales, promo, kind" in told
    forecasting = load_model(out).forecasting
    assert forecasting is not None
    assert forecasting.contents.series == ["007", "011"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param("target: [", "while parsing a flow node", id="no yaml"),
        pytest.param("- target", "expected `key: value` lines", id="a list"),
        pytest.param("target: sales", "Object missing required field `datetime_column`", id="key missing"),
        pytest.param(
            "{target: y, datetime_column: d, windws: [3]}", "Object contains unknown field `windws`", id="key unknown"
        ),
    ],
)
def test_configurations_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, message: str
):
    (tmp_path / "ts.yml").write_text(config)
    rows_of().to_csv(tmp_path / "train.csv", index=False)

    status = main(["package", "create-time-series", str(tmp_path / "train.csv"), "--config", str(tmp_path / "ts.yml"), "-o", str(tmp_path / "o.mlpkg")])  # fmt: skip

    assert status == 1
    assert message in capsys.readouterr().err

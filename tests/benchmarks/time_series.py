"""
Forecasts beside those of mlforecast, and a small one over HTTP:  python -m tests.benchmarks.time_series

1,000 series of 200 days, 14 days ahead: the same lags, rolling windows and linear model on both sides, without exogenous
columns; the forecasts must be equal. Then what a request of one series of 60 rows costs beside one of a single tabular row.
"""

import asyncio
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from model_repository import SeriesSettings, create_package, fit_time_series_package
from model_repository.estimators import load_estimator
from model_repository.mlpkg import Package
from model_repository.predictions import ForecastOptions
from model_repository.repository import Model, load_model
from model_repository.tables import Table, encoded
from prediction_api.app import create_app
from prediction_api.settings import Settings

FOLDER: Final = Path(".tools/bench/time-series")
PEER: Final = "mlforecast==1.1.0"
SERIES, DAYS, AHEAD = 1000, 200, 14
LAGS, WINDOWS, STATISTICS = [1, 2, 3, 7, 14, 28], [7, 28], ["mean", "min", "max", "std"]
ROUNDS: Final = 7
SETTINGS: Final[dict[str, Any]] = {
    "target": "sales",
    "datetime_column": "day",
    "series_column": "shop",
    "feature_derivation_window": (-27, 0),
    "forecast_window": (1, AHEAD),
    "lags": LAGS,
    "windows": WINDOWS,
    "statistics": STATISTICS,
    "date_parts": [],
    "backtests": 0,
}


def main() -> None:
    """Measure and print."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = history()
    fit_time_series_package(
        FOLDER / "m.mlpkg", rows[: 100 * DAYS], SeriesSettings(**SETTINGS), estimator=LinearRegression()
    )
    model = load_model(FOLDER / "m.mlpkg")
    seconds, values = forecast_all(model, rows)
    peer = of_peer(rows, model)
    distance = coefficients(model)["FORECAST_DISTANCE"]
    theirs = np.array(peer["values"]) + distance * np.arange(1, AHEAD + 1)
    difference = float((np.abs(values - theirs) / np.maximum(1, np.abs(theirs))).max())
    print(f"{SERIES} series x {DAYS} days x {AHEAD} ahead, {len(LAGS) + len(WINDOWS) * len(STATISTICS)} features")
    print(f"  prediction-api {seconds * 1e3:7.1f} ms   {SERIES * DAYS / seconds / 1e6:5.2f} M history rows/s")
    print(f"  {PEER:14} {peer['seconds'] * 1e3:7.1f} ms   {peer['seconds'] / seconds:5.1f} times as long")
    print(f"  largest relative difference of {values.size} forecasts: {difference:.1e}")
    asyncio.run(small_requests(model, rows))


def history() -> pd.DataFrame:
    """A level and a week's rhythm for each series."""
    rng = np.random.default_rng(0)
    day, level = np.tile(np.arange(DAYS), SERIES), np.repeat(rng.uniform(10, 60, SERIES), DAYS)
    sales = level + 10 * np.sin(2 * np.pi * day / 7) + rng.normal(size=SERIES * DAYS)
    days = pd.date_range("2025-01-01", periods=DAYS).strftime("%Y-%m-%d").to_numpy()
    shops = np.repeat([f"s{number:04}" for number in range(SERIES)], DAYS)
    return pd.DataFrame({"shop": shops, "day": days[day], "sales": sales})


def with_ahead(rows: pd.DataFrame) -> pd.DataFrame:
    """Each series with rows to forecast behind it."""
    shops = rows["shop"].unique()
    days = pd.date_range("2025-01-01", periods=DAYS + AHEAD)[DAYS:].strftime("%Y-%m-%d")
    ahead = pd.DataFrame({"shop": np.repeat(shops, AHEAD), "day": np.tile(days, len(shops)), "sales": np.nan})
    return pd.concat([rows, ahead]).sort_values(["shop", "day"], ignore_index=True)


def forecast_all(model: Model, rows: pd.DataFrame) -> tuple[float, np.ndarray]:
    """Seconds from columns in memory to forecasts, and the forecasts, a row per series."""
    asked = with_ahead(rows)
    texts = {name: encoded(asked[name].tolist()) for name in ("shop", "day")}
    table = Table(len(asked), {"sales": asked["sales"].to_numpy()}, texts)
    assert model.forecasting is not None
    forecaster = model.forecasting.forecaster
    seconds = median(lambda: forecaster.forecast(table, ForecastOptions()))
    return seconds, forecaster.forecast(table, ForecastOptions()).values.reshape(SERIES, AHEAD)


def median(work: Callable[[], object]) -> float:
    """Seconds."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[ROUNDS // 2]


def coefficients(model: Model) -> dict[str, float]:
    """Of the linear model, by feature, and its intercept under no name."""
    with Package.open(FOLDER / "m.mlpkg") as package:
        estimator = load_estimator(package.member(model.manifest.estimator.member), "skops")
    return dict(zip(model.manifest.schema.names, estimator.coef_.tolist(), strict=True)) | {
        "": float(estimator.intercept_)
    }


def of_peer(rows: pd.DataFrame, model: Model) -> dict[str, Any]:
    """What mlforecast says and how long it takes, in an environment of its own."""
    place = FOLDER / "mlforecast"
    stamp = place / "requirements.txt"
    if not (stamp.exists() and stamp.read_text() == PEER):
        print(f"installing {PEER} into {place}", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "-qq", PEER, "scikit-learn"], check=True)
        stamp.write_text(PEER)
    rows.to_csv(FOLDER / "history.csv", index=False)
    found = coefficients(model)
    asked = {
        "lags": LAGS,
        "windows": WINDOWS,
        "statistics": STATISTICS,
        "horizon": AHEAD,
        "rounds": ROUNDS,
        "intercept": found.pop(""),
        "coefficients": [value for name, value in found.items() if name != "FORECAST_DISTANCE"],
    }
    (FOLDER / "model.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("time_series_peer.py")
    command = [place / "bin" / "python", script, FOLDER / "history.csv", FOLDER / "model.json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def small_requests(model: Model, rows: pd.DataFrame) -> None:
    """One series of 60 rows beside one tabular row, through the app in this process."""
    sample = pd.DataFrame({"x": np.arange(50.0), "y": np.arange(50.0) * 2})
    create_package(FOLDER / "row.mlpkg", LinearRegression().fit(sample[["x"]], sample["y"]), sample, target="y")
    one = with_ahead(rows[:DAYS])[-60:].to_csv(index=False).encode()
    seconds = {
        "60 rows of a series": await of_request(model, one),
        "one tabular row": await of_request(load_model(FOLDER / "row.mlpkg"), b"x\n3\n"),
    }
    for name, taken in seconds.items():
        print(f"  {name:20} {taken * 1e6:7.0f} us per request")
    print(f"  {seconds['60 rows of a series'] / seconds['one tabular row']:.1f} times as long")


async def of_request(model: Model, body: bytes) -> float:
    """Seconds, the client's included."""
    transport = httpx.ASGITransport(app=create_app(model, Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        seconds = []
        for _ in range(300):
            began = time.perf_counter()
            answer = await client.post("/predictions", content=body, headers={"Content-Type": "text/csv"})
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
    return sorted(seconds)[150]


if __name__ == "__main__":
    main()

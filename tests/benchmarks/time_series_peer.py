"""
The other side of `time_series.py`, run in mlforecast's own environment:  python time_series_peer.py HISTORY COEFFICIENTS

Prints seconds per forecast of all series, and the forecasts, as JSON.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from mlforecast import MLForecast
from mlforecast.lag_transforms import RollingMax, RollingMean, RollingMin, RollingStd
from sklearn.base import BaseEstimator, RegressorMixin

ROLLING = {"mean": RollingMean, "min": RollingMin, "max": RollingMax, "std": RollingStd}


class Given(RegressorMixin, BaseEstimator):
    """A linear model that is given and not fitted, so that both sides have the same."""

    def __init__(self, coefficients=None, intercept=0.0):
        self.coefficients = coefficients
        self.intercept = intercept

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X, dtype=np.float64) @ np.array(self.coefficients) + self.intercept


def main(history: str, model: str) -> None:
    """Forecast, check the columns, measure."""
    warnings.simplefilter("ignore")
    asked = json.loads(Path(model).read_text())
    table = pd.read_csv(history, parse_dates=["day"]).rename(columns={"shop": "unique_id", "day": "ds", "sales": "y"})
    forecast = MLForecast(
        models={"given": Given(asked["coefficients"], asked["intercept"])},
        freq="D",
        lags=asked["lags"],
        lag_transforms={
            1: [ROLLING[name](window_size=length) for length in asked["windows"] for name in asked["statistics"]]
        },
    )
    forecast.fit(table, static_features=[], max_horizon=asked["horizon"])
    seconds = []
    for _ in range(asked["rounds"]):
        began = time.perf_counter()
        found = forecast.predict(asked["horizon"], new_df=table)
        seconds.append(time.perf_counter() - began)
    values = found.sort_values(["unique_id", "ds"])["given"].to_numpy().reshape(-1, asked["horizon"])
    names = list(forecast.ts.features)
    print(json.dumps({"seconds": sorted(seconds)[len(seconds) // 2], "names": names, "values": values.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:3])

"""The features of a time series from their definition: one value at a time, nothing shared with the product's code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from model_repository.predictions import Target
from model_repository.tables import Feature, FloatArray, Rows, Table, encoded
from model_repository.timeseries.spec import DISTANCE, TimeSeries

TARGET = Target(name="y", type="Regression")


@dataclass(frozen=True)
class Row:
    """One row of a table whose times are steps of a day."""

    series: str
    step: int
    y: float | None
    ahead: float | None = 0.0

    @property
    def text(self) -> str:
        """Its time."""
        return str(np.datetime64("2024-01-31") + self.step)


def spec_of(**changes: Any) -> TimeSeries:
    """Daily, of several series, with a window of four days and three distances."""
    settings: dict[str, Any] = {
        "member": "timeseries.json",
        "inputs": [
            Feature(name="day", type="date", dtype="str"),
            Feature(name="shop", type="categorical", dtype="str"),
            Feature(name="y", type="numeric", dtype="float64"),
            Feature(name="ahead", type="numeric", dtype="float64"),
        ],
        "datetime_column": "day",
        "unit": "DAY",
        "anchor": datetime(2024, 1, 31),
        "series_column": "shop",
        "derivation_start": -3,
        "forecast_end": 3,
        "known_in_advance": ["ahead"],
        "history": ["y"],
        "lags": [1, 2, 4],
        "windows": [2, 4],
        "statistics": ["mean", "min", "max", "std"],
        "date_parts": ["day_of_week", "day"],
    }
    return TimeSeries(**{**settings, **changes})


def table_of(rows: Sequence[Row]) -> Table:
    """The rows as a request would bring them."""
    numbers = {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("y", "ahead")}
    texts = {"day": encoded([row.text for row in rows]), "shop": encoded([row.series for row in rows])}
    return Table(len(rows), numbers, texts)


def features(rows: Sequence[Row], spec: TimeSeries, row: Row, origin: int) -> dict[str, float]:
    """What the model must be given for *row* from the forecast point *origin*."""
    known = {(one.series, one.step): one.y for one in rows if one.step <= origin}
    newest_first = [known.get((row.series, origin + spec.derivation_end - age)) for age in range(spec.window_length)]
    found = {f"y (lag {lag})": _number(newest_first[lag - 1]) for lag in spec.lags}
    for length in spec.windows:
        values = [value for value in newest_first[:length] if value is not None]
        for statistic in spec.statistics:
            found[f"y ({statistic} of {length})"] = _statistic(values, statistic)
    day = np.datetime64("2024-01-31") + row.step
    date: datetime = day.astype(object)
    parts: Mapping[str, float] = {"day_of_week": date.weekday(), "day": date.day}
    found |= {f"day ({part.replace('_', ' ')})": parts[part] for part in spec.date_parts}
    return found | {DISTANCE: row.step - origin, "ahead": _number(row.ahead)}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _statistic(newest_first: Sequence[float], statistic: str) -> float:
    """Sums are made one by one from the newest on: their last bit depends on the order."""
    if len(newest_first) < (2 if statistic == "std" else 1):
        return math.nan
    if statistic in ("min", "max"):
        return {"min": min, "max": max}[statistic](newest_first)
    mean = _total(newest_first) / len(newest_first)
    if statistic == "mean":
        return mean
    return math.sqrt(_total([(value - mean) * (value - mean) for value in newest_first]) / (len(newest_first) - 1))


def _total(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


class Spy:
    """A runtime that remembers what it was given, and predicts the row's number in it."""

    def __init__(self) -> None:
        self.tables: list[Table] = []

    def predict(self, table: Table) -> FloatArray:
        """Numbers from 0 over all calls."""
        before = sum(one.n_rows for one in self.tables)
        self.tables.append(table)
        return np.arange(before, before + table.n_rows, dtype=np.float64)[:, None]

    def predict_rows(self, rows: Rows) -> FloatArray:
        """Forecasts are always tables."""
        raise NotImplementedError

    def seen(self) -> dict[str, FloatArray]:
        """All columns of all calls, one after another."""
        return {name: np.concatenate([one.numeric[name] for one in self.tables]) for name in self.tables[0].numeric}

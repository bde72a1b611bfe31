"""
From a table of the past to a package that forecasts.

The features are derived by the code that will serve, the model is tried on the end of the past that it was not fitted
on, and the intervals come from how wrong it was there. Then it is fitted on everything and packaged as any other model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from threadpoolctl import threadpool_limits

from model_repository.cells import category_text
from model_repository.errors import CannotPackage, InvalidPackage, RequestError, UnforecastableTable, UnscorableValue
from model_repository.features import raw_cells
from model_repository.manifest import Manifest, Serializer
from model_repository.packaging import create_package
from model_repository.per_distance import PerDistance
from model_repository.predictions import ClassLabel, ForecastOptions, Target
from model_repository.reference_rows import Progress
from model_repository.runtimes.estimator import EstimatorRuntime, estimator_inputs
from model_repository.tables import Feature, FloatArray, Schema
from model_repository.targets import target_of
from model_repository.timeseries.calendar import Calendar, Moments
from model_repository.timeseries.contents import Contents, GoldenForecast
from model_repository.timeseries.features import Pairs, pairs_of
from model_repository.timeseries.forecaster import Derived, Forecaster
from model_repository.timeseries.intervals import FEWEST, Intervals, intervals_of
from model_repository.timeseries.panel import Panel
from model_repository.timeseries.spec import TimeSeries, check_spec
from model_repository.timeseries_settings import (
    CONTENTS,
    SeriesSettings,
    default_estimator,
    input_features,
    spec_of,
    step_of,
    table_of,
    training_rows,
)

SAMPLE_ROWS: Final = 20_000
"""Of the derived features, from which golden rows and the range of usual predictions are taken."""
FEWEST_TRAINING_ROWS: Final = 20
MANY_ROWS: Final = 100_000
"""Of training, from which on trees are grown on several threads."""
GOLDEN_SERIES: Final = 2
GOLDEN_TRIALS: Final = 20
"""Forecast points that are tried, the one with the most forecasts first."""
_ANY_ANCHOR: Final = datetime(2000, 1, 1)


def fit_time_series_package(
    path: str | Path,
    training: pd.DataFrame,
    settings: SeriesSettings,
    *,
    estimator: Any = None,
    name: str | None = None,
    serializer: Serializer = "skops",
    reference: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """
    Derive features, backtest, fit, and write the package.

    Args:
        path: of the package; an existing one is replaced when the new one is complete.
        training: one row per series and step with all columns that *settings* names; in any
            order, steps may be missing.
        estimator: not fitted; a regressor or a classifier of two classes that takes a DataFrame with missing values.
            Without one, what *settings* says.
        name: of the model; the file's name if not given.
        serializer: as for `create_package`.
        reference: as for `create_package`; the rows are of the derived features.
        progress: as for `create_package`.

    Raises:
        CannotPackage: what is wrong with the table or the settings, and what to change.
    """
    # Threads that meet after every tree do not pay for few rows; on a busy machine they took 30 times as long as one.
    first, last = settings.forecast_window
    few = len(training) * (last - first + 1) < MANY_ROWS
    try:
        with threadpool_limits(1 if few else None, "openmp"):
            fit = _Fit(training, settings, estimator)
            return fit.packaged(Path(path), name, serializer, progress, reference=reference)
    except RequestError as exc:  # what a request is refused for, training rows are too
        raise CannotPackage(f"the training rows: {exc}") from exc
    except InvalidPackage as exc:
        raise CannotPackage(str(exc)) from exc


@dataclass(frozen=True)
class _Fitted:
    estimator: Any
    target: Target
    frame: pd.DataFrame
    derived: Derived
    actual: NDArray[Any]


class _Fit:
    """One training table on its way to a package."""

    def __init__(self, training: pd.DataFrame, settings: SeriesSettings, estimator: Any) -> None:
        self.settings = settings
        trees = estimator is None and settings.estimator == "gradient_boosting"
        self.training = training_rows(training, settings, as_categories=trees)
        self.inputs = input_features(self.training, settings)
        self.table = table_of(self.training, self.inputs)
        self.spec = self._spec()
        check_spec(self.spec, settings.target)
        is_known = {feature.name: feature for feature in self.inputs if feature.name in settings.known_in_advance}
        self.features = [
            is_known.get(column, Feature(name=column, type="numeric", dtype="float64"))
            for column in self.spec.derived_names()
        ]
        template = estimator if estimator is not None else default_estimator(settings, binary=self._is_binary())
        self.template = PerDistance(template) if settings.models == "per_distance" else template

    def packaged(
        self, path: Path, name: str | None, serializer: Serializer, progress: Progress | None, *, reference: bool
    ) -> Manifest:
        """Everything, in the order in which it depends on each other."""
        fitted = self._fitted()
        intervals = self._intervals(fitted)
        contents = Contents(series=self._known_series(), intervals=intervals, golden=self._golden(fitted))
        chosen = _spread(len(fitted.frame), SAMPLE_ROWS)
        sample = fitted.frame.iloc[chosen].assign(**{self.settings.target: fitted.actual[chosen]})
        return create_package(
            path,
            fitted.estimator,
            sample,
            target=self.settings.target,
            name=name,
            positive_class=fitted.target.class_labels[0] if fitted.target.class_labels else None,
            threshold=fitted.target.threshold,
            serializer=serializer,
            reference=reference,
            progress=progress,
            timeseries=(self.spec, {CONTENTS: msgspec.json.encode(contents)}),
        )

    def _is_binary(self) -> bool:
        feature = next(feature for feature in self.inputs if feature.name == self.settings.target)
        return self.settings.positive_class is not None or feature.type != "numeric"

    def _spec(self) -> TimeSeries:
        """With the grid that the training rows are on."""
        any_day = {"month_day": 1} if step_of(self.settings)[0] == "MONTH" else {}
        spec = spec_of(self.settings, self.inputs, anchor=_ANY_ANCHOR, **any_day)
        calendar = Calendar(spec)
        try:
            times = [calendar.read(text) for text in self.table.strings[spec.datetime_column].values]
        except ValueError as exc:
            raise CannotPackage(f"column {spec.datetime_column!r}: {exc}") from exc
        if not times:
            raise CannotPackage(f"column {spec.datetime_column!r}: has no times")
        return msgspec.structs.replace(spec, **_grid(spec, calendar.moments(times)))

    def _known_series(self) -> list[str] | None:
        if self.spec.new_series_allowed or self.spec.series_column is None:
            return None
        return sorted(self.table.strings[self.spec.series_column].values)

    def _fitted(self) -> _Fitted:
        """The model, fitted on all pairs of the past."""
        provisional = Target(
            name=self.settings.target, type="Binary" if self._is_binary() else "Regression",
            class_labels=self._labels(), threshold=0.5,
        )  # fmt: skip
        derived = Forecaster(self.spec, provisional, None).derived(self.table, self._training_pairs)
        if len(derived.pairs) < FEWEST_TRAINING_ROWS:
            needed = self.spec.window_length - self.spec.derivation_end + self.spec.forecast_end
            raise CannotPackage(
                f"{len(derived.pairs)} pairs of forecast point and distance can be learned from, expected "
                f"{FEWEST_TRAINING_ROWS} or more: a series needs {needed} steps, and some more"
            )
        frame = estimator_inputs(derived.table, Schema(tuple(self.features)), "dataframe")
        actual = self.training[self.settings.target].to_numpy()[derived.panel.rows[derived.pairs.places]]
        estimator = _fit(self.template, frame, actual)
        if is_classifier(estimator) != (provisional.type == "Binary"):
            raise CannotPackage(
                f"the target is {provisional.type.lower()}, which {type(estimator).__name__} does not predict"
            )
        sample = frame.assign(**{self.settings.target: actual})
        positive = provisional.class_labels[0] if provisional.class_labels else None
        target = target_of(estimator, sample, self.settings.target, positive, 0.5)
        return _Fitted(estimator, target, frame, derived, actual)

    def _labels(self) -> list[ClassLabel] | None:
        """The two classes, the positive one first."""
        if not self._is_binary():
            return None
        counts = self.training[self.settings.target].value_counts()  # missing values are none
        labels: list[ClassLabel] = list(reversed(counts.index.tolist()))  # the rarer one first
        if len(labels) != 2:
            raise CannotPackage(f"column {self.settings.target!r}: {len(labels)} classes, a time series may have two")
        asked = self.settings.positive_class
        if asked is not None and category_text(asked) != category_text(labels[0]):
            labels.reverse()
            if category_text(asked) != category_text(labels[0]):
                raise CannotPackage(f"positive_class {asked!r}: the classes are {labels[0]!r} and {labels[1]!r}")
        return labels

    def _training_pairs(self, panel: Panel, observed: NDArray[np.bool_]) -> Pairs:
        """Every row with a target from every distance, or as many of them as there may be."""
        pairs = pairs_of(panel, np.flatnonzero(observed), self.spec)
        share = self.settings.training_rows / max(1, len(pairs))
        if share >= 1:
            return pairs
        return pairs.where(np.random.default_rng(0).random(len(pairs)) < share)

    def _intervals(self, fitted: _Fitted) -> Intervals | None:
        """What the residuals of the backtests say; only a number has any."""
        if fitted.target.type != "Regression" or not self.settings.backtests:
            return None
        found = list(self._residuals(fitted))
        if not found:
            return None
        residuals, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return intervals_of(residuals, distances, self.spec.distances, self.settings.prediction_interval)

    def _residuals(self, fitted: _Fitted) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """
        Of each backtest, actual minus forecast, and the distances.

        A backtest is fitted on what was known before its first forecast point, and on nothing after.
        """
        pairs, steps = fitted.derived.pairs, fitted.derived.panel.steps
        times, origins = steps[pairs.places], pairs.origins
        length = max(self.spec.forecast_end, FEWEST)
        end = int(times.max())
        for number in range(self.settings.backtests):
            cut = end - (number + 1) * length
            known = times <= cut
            held = (origins >= cut) & (origins < cut + length)
            learned = np.isin(fitted.derived.distances[held], fitted.derived.distances[known])
            if known.sum() < FEWEST_TRAINING_ROWS or not held.any() or not learned.all():
                return
            model = _fit(self.template, fitted.frame[known], fitted.actual[known])
            said = np.asarray(model.predict(fitted.frame[held]), dtype=np.float64).ravel()
            yield fitted.actual[held].astype(np.float64) - said, fitted.derived.distances[held]

    def _golden(self, fitted: _Fitted) -> GoldenForecast:
        """The end of the past of a few series as a request, and what the estimator says of it."""
        free = [msgspec.structs.replace(feature, missing_allowed=True) for feature in self.features]
        runtime = EstimatorRuntime(fitted.estimator, Schema(tuple(free)), fitted.target)
        forecaster = Forecaster(self.spec, fitted.target, runtime)
        panel, problem = fitted.derived.panel, "too few rows"
        for n_series in range(GOLDEN_SERIES, 0, -1):
            for places in self._endings(fitted, n_series):
                try:
                    return self._golden_of(forecaster, panel, places)
                except (UnforecastableTable, UnscorableValue) as exc:  # something is missing just there
                    problem = str(exc)
        raise CannotPackage(f"no forecast of the training rows can be made to prove the package with: {problem}")

    def _endings(self, fitted: _Fitted, n_series: int) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Places of rows around one of the last forecast points, of several series."""
        panel, pairs = fitted.derived.panel, fitted.derived.pairs
        origins, counts = np.unique(pairs.origins, return_counts=True)
        best = sorted(zip(counts.tolist(), origins.tolist(), strict=True), reverse=True)[:GOLDEN_TRIALS]
        for _, origin in best:
            series = np.unique(panel.series[pairs.places[pairs.origins == origin]])[:n_series]
            inside = np.isin(panel.series, series) & (panel.steps <= origin + self.spec.forecast_end)
            first = {int(one): self._reach(panel, int(one), origin) for one in series}
            inside &= panel.steps >= np.array([first.get(one, 0) for one in panel.series.tolist()])
            yield np.flatnonzero(inside), origin

    def _reach(self, panel: Panel, series: int, origin: int) -> int:
        """The last row at or before the beginning of the derivation window."""
        steps = panel.steps[panel.starts[series] : panel.starts[series + 1]]
        before = steps[steps <= origin + self.spec.derivation_start]
        return int(before[-1]) if before.size else int(steps[0])

    def _golden_of(self, forecaster: Forecaster, panel: Panel, ending: tuple[NDArray[np.intp], int]) -> GoldenForecast:
        places, origin = ending
        rows = self.training.iloc[panel.rows[places]]
        cells = {feature.name: raw_cells(rows[feature.name], feature) for feature in self.inputs}
        ahead = (panel.steps[places] > origin).tolist()
        target = self.settings.target
        cells[target] = [None if later else cell for cell, later in zip(cells[target], ahead, strict=True)]
        wall, instant = Calendar(self.spec).at(np.array([origin], dtype=np.int64))
        point = wall[0].item() if self.spec.time_zone is None else instant[0].item().replace(tzinfo=UTC)
        golden = GoldenForecast(columns=cells, point=point, rows=[], distances=[], values=[])
        said = forecaster.forecast(golden.table(self.spec.input_schema), ForecastOptions(point=point))
        return msgspec.structs.replace(
            golden, rows=said.rows.tolist(), distances=said.distances.tolist(), values=said.values.tolist()
        )


def _grid(spec: TimeSeries, moments: Moments) -> dict[str, Any]:
    """The grid through some times, beginning with the first of them."""
    first = (moments.instant if spec.unit in ("MINUTE", "HOUR") else moments.wall).min().item()
    if spec.unit != "MONTH":
        return {"anchor": first}
    days = moments.wall.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    if ((months + 1).astype("datetime64[D]") - 1 == days).all():
        return {"anchor": first, "month_day": 31}
    return {"anchor": first, "month_day": int((days - months.astype("datetime64[D]")).astype(np.int64).max()) + 1}


def _fit(template: Any, frame: pd.DataFrame, actual: NDArray[Any]) -> Any:
    try:
        return clone(template).fit(frame, actual)
    except Exception as exc:
        raise CannotPackage(
            f"{type(template).__name__} cannot be fitted on the derived features ({type(exc).__name__}: {exc})"
        ) from exc


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """At most so many places, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.intp))

"""
A table with history and rows to forecast, to forecasts.

One forecast point for all series (forecast mode): each row within the forecast window behind it is forecast once. A
range of times (bulk mode): each row in it is forecast from every forecast point of which it is within the window, as
far as the history reaches back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_repository.errors import InvalidParameter, UnforecastableTable, UnscorableValue
from model_repository.predictions import ForecastOptions, Runtime, Target
from model_repository.tables import FloatArray, Strings, Table
from model_repository.timeseries.calendar import Calendar, Steps, Times
from model_repository.timeseries.features import Pairs, Past, blocks_of, derived_table, pairs_of
from model_repository.timeseries.intervals import Intervals
from model_repository.timeseries.panel import Panel, Places, panel_of
from model_repository.timeseries.spec import TimeSeries

MAX_FORECASTS: Final = 5_000_000
"""In one answer of bulk mode."""
MISSING_AHEAD: Final = (
    "is missing in a row to forecast, where it should be known in advance; relaxKnownInAdvanceFeaturesCheck=true "
    "forecasts without it"
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the actual value will be, so many times in a hundred."""

    percentile: int
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts by series, forecast point and distance; one element of each array for each."""

    rows: Places
    """Where the row that is forecast stands in the request."""
    series: Places
    names: list[str | None]
    """Of the series, by their number."""
    points: Times
    """Forecast points, UTC."""
    times: Times
    """What is forecast, UTC."""
    distances: Steps
    values: FloatArray
    """Shape ``(n_forecasts, target.n_outputs)``."""
    interval: Interval | None = None


@dataclass(frozen=True)
class Derived:
    """What a model is fitted on, and what it predicts."""

    table: Table
    panel: Panel
    pairs: Pairs
    distances: Steps


class Forecaster:
    """
    Forecasts with one model.

    Args:
        spec: what the model's features are derived from, and how.
        runtime: the model over derived features; without one there is only `derived`.
        known_series: if given, no others are forecast.
    """

    def __init__(
        self,
        spec: TimeSeries,
        target: Target,
        runtime: Runtime | None,
        intervals: Intervals | None = None,
        known_series: frozenset[str] | None = None,
    ) -> None:
        self.spec = spec
        self.intervals = intervals
        self._target = target
        self._runtime = runtime
        self._known_series = known_series
        self._calendar = Calendar(spec)

    def forecast(
        self,
        table: Table,
        asked: ForecastOptions,
        percentile: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
        told: Callable[[Table, FloatArray, int], None] = lambda derived, values, most: None,
    ) -> Forecast:
        """
        The forecasts that are asked for.

        Args:
            table: all inputs; the target and, if *relaxed*, what is known in advance may be absent.
            percentile: of the interval around each forecast, if any; see `Intervals`.
            stopped: asked between blocks of a long work; after a yes the result means nothing.
            told: gets the derived features of each block of forecasts, in their order, what the model says of them, and
                how many forecasts there are at most in all blocks together.

        Raises:
            UnscorableValue: a time, series, or known value that cannot be used.
            UnforecastableTable: too little history, nothing to forecast, or a forecast point that is not there.
            InvalidParameter: a forecast point that is not on the time step.
        """
        panel = panel_of(table, self.spec, self._calendar)
        table = self._with_known(table, asked.relaxed)
        observed, history = self._history(table)
        observed = observed[panel.rows]
        self._check_series(panel)
        pairs = self._in_range(panel, asked) if asked.is_bulk else self._from_point(panel, observed, asked.point)
        pairs = self._covered(panel, observed, pairs, refuse=not asked.is_bulk)
        if not asked.relaxed:
            self._check_known(table, panel.rows[pairs.places])
        past = Past(self.spec, panel, {name: column[panel.rows] for name, column in history.items()})
        kept, values = [], []
        for block in blocks_of(self.spec, pairs):
            if stopped():
                break
            derived, some = derived_table(self.spec, panel, past, block, table)
            if not some.all():
                if not asked.is_bulk:
                    raise self._too_little(panel, observed, block, int((~some).argmax()))
                block = block.where(some)
                if not len(block):
                    continue
                derived, _ = derived_table(self.spec, panel, past, block, table)
            kept.append(block)
            values.append(self._predicted(derived, panel.rows[block.places]))
            told(derived, values[-1], len(pairs))
        if not kept:
            raise self._nothing(panel, observed)
        return self._answer(panel, _joined(kept), np.concatenate(values), percentile)

    def derived(self, table: Table, choose: Callable[[Panel, NDArray[np.bool_]], Pairs]) -> Derived:
        """
        The features of pairs that the caller chooses, for training: the same code as for scoring.

        Args:
            choose: gets the panel and which of its rows have a target.
        """
        panel = panel_of(table, self.spec, self._calendar)
        observed, history = self._history(table)
        past = Past(self.spec, panel, {name: column[panel.rows] for name, column in history.items()})
        pairs = self._covered(panel, observed[panel.rows], choose(panel, observed[panel.rows]), refuse=False)
        tables, kept = [], []
        for block in blocks_of(self.spec, pairs):
            derived, some = derived_table(self.spec, panel, past, block, table)
            if not some.all():
                block = block.where(some)
                if not len(block):
                    continue
                derived, _ = derived_table(self.spec, panel, past, block, table)
            tables.append(derived)
            kept.append(block)
        pairs = _joined(kept)
        return Derived(stacked(tables), panel, pairs, panel.steps[pairs.places] - pairs.origins)

    def _with_known(self, table: Table, relaxed: bool) -> Table:
        """Columns that are known in advance and absent, as missing values."""
        absent = [
            feature
            for feature in self.spec.inputs
            if feature.name not in table.numeric and feature.name not in table.strings
            and feature.name in self.spec.known_in_advance
        ]  # fmt: skip
        if not absent:
            return table
        if not relaxed:
            raise UnscorableValue(absent[0].name, None, MISSING_AHEAD)
        nothing = np.full(table.n_rows, np.nan)
        nowhere = Strings(np.full(table.n_rows, -1, dtype=np.int32), [])
        return Table(
            table.n_rows,
            table.numeric | {feature.name: nothing for feature in absent if feature.is_numeric},
            table.strings | {feature.name: nowhere for feature in absent if not feature.is_numeric},
            table.kept,
        )

    def _history(self, table: Table) -> tuple[NDArray[np.bool_], dict[str, FloatArray]]:
        """Which rows have a target, and the columns that windows are taken of; in the order of the table."""
        target = self.target_numbers(table)
        columns = {name: target if name == self._target.name else table.numeric[name] for name in self.spec.history}
        for name, column in columns.items():
            infinite = np.isinf(column)
            if infinite.any():
                raise UnscorableValue(name, int(infinite.argmax()), "is infinite, and history has finite numbers only")
        return ~np.isnan(target), columns

    def target_numbers(self, table: Table) -> FloatArray:
        """The target as numbers, 1 and 0 for the positive class and the other one; NaN where it is not known."""
        name, labels = self._target.name, self._target.class_labels
        if name in table.numeric:
            numbers = table.numeric[name]
            if labels is None:
                return numbers
            positive = float(labels[0])
            return np.where(np.isnan(numbers), np.nan, (numbers == positive).astype(np.float64))
        if name not in table.strings:
            return np.full(table.n_rows, np.nan)
        strings = table.strings[name]
        texts = [str(label) for label in labels or ()]
        for code, text in enumerate(strings.values):
            if text not in texts and (strings.codes == code).any():
                row = int((strings.codes == code).argmax())
                raise UnscorableValue(name, row, f"{text!r} is neither {' nor '.join(map(repr, texts))}")
        return np.array([*(float(text == texts[0]) for text in strings.values), np.nan])[strings.codes]

    def _check_series(self, panel: Panel) -> None:
        if self._known_series is None:
            return
        for number, name in enumerate(panel.names):
            if name is not None and name not in self._known_series:
                row = int(panel.rows[panel.starts[number]])
                raise UnscorableValue(
                    str(self.spec.series_column),
                    row,
                    f"the model does not know the series {name!r}, and takes no new ones",
                )

    def _check_known(self, table: Table, rows: Places) -> None:
        for name in self.spec.known_in_advance:
            if name in table.numeric:
                missing = np.isnan(table.numeric[name][rows])
            else:
                missing = table.strings[name].codes[rows] < 0
            if missing.any():
                raise UnscorableValue(name, int(rows[missing].min()), MISSING_AHEAD)

    def _from_point(self, panel: Panel, observed: NDArray[np.bool_], point: datetime | None) -> Pairs:
        """Each row that is one of the distances behind the forecast point."""
        origin = self._default_origin(panel, observed) if point is None else self._origin(panel, point)
        ahead = panel.steps - origin
        places = np.flatnonzero((ahead >= self.spec.forecast_start) & (ahead <= self.spec.forecast_end))
        if not places.size:
            first, last = origin + self.spec.forecast_start, origin + self.spec.forecast_end
            raise UnforecastableTable(
                f"no rows to forecast: the forecast point {self._shown(origin)} needs rows from {self._shown(first)} "
                f"to {self._shown(last)}, {self._found_rows(panel)}"
            )
        return Pairs(places, np.full(places.size, origin, dtype=np.int64))

    def _default_origin(self, panel: Panel, observed: NDArray[np.bool_]) -> int:
        """The latest time with a target; where there is none, so that the last row is the last that can be forecast."""
        if observed.any():
            return int(panel.steps[observed].max())
        return int(panel.steps.max()) - self.spec.forecast_end

    def _origin(self, panel: Panel, point: datetime) -> int:
        moments = self._calendar.moments([self._placed(point, "forecastPoint")])
        origin, last = int(moments.steps[0]), int(panel.steps.max())
        if moments.off_step[0]:
            raise InvalidParameter(
                f"'forecastPoint': {point.isoformat()} is not on the time step of the model, one "
                f"{self._calendar.step_name}; the step before it is {self._shown(origin)}"
            )
        if origin > last:
            raise UnforecastableTable(
                f"the forecast point {self._shown(origin)} is later than the last row, {self._shown(last)}"
            )
        return origin

    def _placed(self, moment: datetime, parameter: str) -> datetime:
        try:
            return self._calendar.placed(moment, moment.isoformat())
        except ValueError as exc:
            raise InvalidParameter(f"'{parameter}': {exc}") from None

    def _in_range(self, panel: Panel, asked: ForecastOptions) -> Pairs:
        """Each row of the range from each distance before it."""
        assert asked.start is not None
        assert asked.end is not None
        placed = [self._placed(asked.start, "predictionsStartDate"), self._placed(asked.end, "predictionsEndDate")]
        start, end = self._calendar.moments(placed).instant
        if start >= end:
            raise InvalidParameter("'predictionsEndDate': is not later than predictionsStartDate")
        instants = panel.moments.instant
        places = np.flatnonzero((instants >= start) & (instants < end))
        if not places.size:
            raise UnforecastableTable(
                f"no rows to forecast: needs rows from {asked.start.isoformat()} to before {asked.end.isoformat()}, "
                f"{self._found_rows(panel)}"
            )
        n_distances = len(self.spec.distances)
        if places.size * n_distances > MAX_FORECASTS:
            raise UnforecastableTable(
                f"{places.size} rows times {n_distances} distances are more than the {MAX_FORECASTS} forecasts of one "
                "answer: ask for a shorter range"
            )
        return pairs_of(panel, places, self.spec)

    def _covered(self, panel: Panel, observed: NDArray[np.bool_], pairs: Pairs, *, refuse: bool) -> Pairs:
        """Pairs whose derivation window lies within what is known of the series; others are left out or refused."""
        if not self.spec.history or not len(pairs):
            return pairs
        firsts, lasts = self._found(panel, observed)
        series = panel.series[pairs.places]
        covered = (firsts[series] <= pairs.origins + self.spec.derivation_start) & (
            lasts[series] >= pairs.origins + self.spec.derivation_end
        )
        if covered.all():
            return pairs
        if refuse:
            raise self._too_little(panel, observed, pairs, int((~covered).argmax()))
        return pairs.where(covered)

    def _found(self, panel: Panel, observed: NDArray[np.bool_]) -> tuple[Steps, Steps]:
        """By series, the first row and the last that has a target; where only other columns matter, the last row."""
        firsts, lasts = panel.first_steps, panel.last_steps
        if self._target.name in self.spec.history:
            known = np.where(observed, panel.steps, np.iinfo(np.int64).min)
            lasts = np.maximum.reduceat(known, panel.starts[:-1])
        return firsts, lasts

    def _too_little(self, panel: Panel, observed: NDArray[np.bool_], pairs: Pairs, place: int) -> UnforecastableTable:
        origin, series = int(pairs.origins[place]), int(panel.series[pairs.places[place]])
        firsts, lasts = self._found(panel, observed)
        first, last = int(firsts[series]), int(lasts[series])
        found = f"from {self._shown(first)} to {self._shown(last)}" if first <= last else "none"
        whose = "" if panel.names[series] is None else f"series {panel.names[series]!r}: "
        return UnforecastableTable(
            f"{whose}too little history: the forecast point {self._shown(origin)} needs it from "
            f"{self._shown(origin + self.spec.derivation_start)} to {self._shown(origin + self.spec.derivation_end)}, "
            f"found {found}"
        )

    def _nothing(self, panel: Panel, observed: NDArray[np.bool_]) -> UnforecastableTable:
        needed = 1 - self.spec.derivation_start + self.spec.forecast_start
        return UnforecastableTable(
            f"no rows to forecast in the range: needs at least {needed} steps of one {self._calendar.step_name} in "
            f"a series, the last of them in the range, {self._found_rows(panel)}, {int(observed.sum())} of them with a "
            "target"
        )

    def _predicted(self, derived: Table, rows: Places) -> FloatArray:
        """What the model says; the rows of its errors are those of the request."""
        assert self._runtime is not None
        try:
            return self._runtime.predict(derived)
        except UnscorableValue as exc:
            row = None if exc.row is None else int(rows[exc.row])
            raise UnscorableValue(exc.column, row, exc.problem) from exc

    def _answer(self, panel: Panel, pairs: Pairs, values: FloatArray, percentile: int | None) -> Forecast:
        distinct, places = np.unique(pairs.origins, return_inverse=True)
        distances = panel.steps[pairs.places] - pairs.origins
        interval = None
        if percentile is not None and self.intervals is not None:
            low, high = self.intervals.around(values[:, 0], distances, percentile)
            interval = Interval(percentile, low, high)
        return Forecast(
            rows=panel.rows[pairs.places],
            series=panel.series[pairs.places],
            names=panel.names,
            points=self._calendar.at(distinct)[1][places],
            times=panel.moments.instant[pairs.places],
            distances=distances,
            values=values,
            interval=interval,
        )

    def _found_rows(self, panel: Panel) -> str:
        return f"found rows from {self._shown(panel.steps.min())} to {self._shown(panel.steps.max())}"

    def _shown(self, step: int) -> str:
        return self._calendar.shown(int(step))


def stacked(tables: list[Table]) -> Table:
    """Tables of the same columns one after another."""
    if len(tables) < 2:
        return tables[0] if tables else Table(0, {}, {})
    first = tables[0]
    return Table(
        sum(table.n_rows for table in tables),
        {name: np.concatenate([table.numeric[name] for table in tables]) for name in first.numeric},
        {name: _chained([table.strings[name] for table in tables]) for name in first.strings},
    )


def _chained(parts: list[Strings]) -> Strings:
    """One dictionary for all parts."""
    places: dict[str, int] = {}
    codes = []
    for part in parts:
        lookup = [places.setdefault(value, len(places)) for value in part.values]
        codes.append(np.array([*lookup, -1], dtype=np.int32)[part.codes])
    return Strings(np.concatenate(codes), list(places))


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.int64))
    return Pairs(np.concatenate([part.places for part in parts]), np.concatenate([part.origins for part in parts]))

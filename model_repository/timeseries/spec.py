"""What a manifest says of a time series: its columns, its steps, and which features are derived from them."""

import zoneinfo
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from model_repository.errors import InvalidPackage
from model_repository.tables import Feature, Schema

Unit = Literal["MINUTE", "HOUR", "DAY", "WEEK", "MONTH"]
Statistic = Literal["mean", "min", "max", "std"]
DatePart = Literal["year", "quarter", "month", "day", "day_of_week", "day_of_year", "hour", "minute"]

DISTANCE: Final = "FORECAST_DISTANCE"
"""Name of the derived feature that says how many steps ahead a row is."""
MAX_WINDOW: Final = 5000
MAX_DISTANCE: Final = 1000

Back = Annotated[int, msgspec.Meta(ge=1, le=MAX_WINDOW)]
"""Steps, counted backwards from the end of the derivation window, which is 1."""
Ahead = Annotated[int, msgspec.Meta(ge=1, le=MAX_DISTANCE)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class TimeSeries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``timeseries`` of a manifest. Windows and distances are counted in steps of ``step`` times ``unit``."""

    member: str
    """Member with the known series, the intervals and the golden forecast."""
    inputs: list[Feature]
    """Columns of a request: the time, the series if there are several, the target, then all others."""
    datetime_column: Name
    datetime_format: str | None = None
    """As ``strptime`` has it; without one, ISO 8601."""
    time_zone: str | None = None
    """Where days begin and wall clocks change; without one, times are as they are written."""
    unit: Unit
    step: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    anchor: datetime
    """A time on the step: UTC for minutes and hours, the wall clock for all else."""
    month_day: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None
    """Months only: the day of each step; in a month that is too short, its last."""
    series_column: Name | None = None
    derivation_start: Annotated[int, msgspec.Meta(ge=-MAX_WINDOW, le=0)]
    derivation_end: Annotated[int, msgspec.Meta(ge=-MAX_WINDOW, le=0)] = 0
    """The derivation window, both ends included, in steps from the forecast point."""
    forecast_start: Ahead = 1
    forecast_end: Ahead
    """The forecast window, both ends included, in steps from the forecast point."""
    known_in_advance: list[Name] = []
    history: list[Name] = []
    """Numeric columns, the target perhaps among them, of which windows are taken."""
    lags: list[Back] = []
    windows: list[Back] = []
    """Lengths of the rolling windows."""
    statistics: list[Statistic] = []
    """Of each rolling window; missing values do not count."""
    date_parts: list[DatePart] = []
    new_series_allowed: bool = True

    @property
    def window_length(self) -> int:
        """Steps in the derivation window."""
        return self.derivation_end - self.derivation_start + 1

    @property
    def distances(self) -> range:
        """The forecast distances."""
        return range(self.forecast_start, self.forecast_end + 1)

    @property
    def input_schema(self) -> Schema:
        """The columns of a request."""
        return Schema(tuple(self.inputs))

    def derived_names(self) -> list[str]:
        """The features that the model takes, in order."""
        return [*self._window_names(), *self._date_names(), DISTANCE, *self.known_in_advance]

    def _window_names(self) -> Iterator[str]:
        for source in self.history:
            yield from window_names(source, self.lags, self.windows, self.statistics)

    def _date_names(self) -> Iterator[str]:
        for part in self.date_parts:
            yield date_name(self.datetime_column, part)


def window_names(source: str, lags: list[int], windows: list[int], statistics: list[Statistic]) -> Iterator[str]:
    """Names of what is derived from the past of a column, in the order of `derivation.window_features`."""
    for lag in lags:
        yield f"{source} (lag {lag})"
    for length in windows:
        for statistic in statistics:
            yield f"{source} ({statistic} of {length})"


def date_name(column: str, part: DatePart) -> str:
    """Name of a part of the time that is forecast."""
    return f"{column} ({part.replace('_', ' ')})"


def check_spec(spec: TimeSeries, target: str) -> None:
    """
    What types alone cannot say.

    Raises:
        InvalidPackage: naming the field.
    """
    for problem in _problems(spec, target):
        raise InvalidPackage(f"timeseries.{problem}")


def _problems(spec: TimeSeries, target: str) -> Iterator[str]:
    if spec.derivation_start > spec.derivation_end:
        yield "derivation_start: is after derivation_end"
    if spec.forecast_start > spec.forecast_end:
        yield "forecast_start: is after forecast_end"
    for field, lengths in (("lags", spec.lags), ("windows", spec.windows)):
        if len(set(lengths)) != len(lengths):
            yield f"{field}: one stands twice"
        if lengths and max(lengths) > spec.window_length:
            yield f"{field}: {max(lengths)} is more than the {spec.window_length} steps of the derivation window"
    if (spec.unit == "MONTH") != (spec.month_day is not None):
        yield "month_day: belongs to steps of months, and to no others"
    if spec.anchor.tzinfo is not None:
        yield "anchor: expected one without a time zone"
    if spec.time_zone is not None and not is_time_zone(spec.time_zone):
        yield f"time_zone: {spec.time_zone!r} is not known here"
    yield from _wrong_names(spec, target)


def _wrong_names(spec: TimeSeries, target: str) -> Iterator[str]:
    names = [feature.name for feature in spec.inputs]
    if len(set(names)) != len(names):
        yield "inputs: a name stands twice"
    wanted = {spec.datetime_column, target, *spec.known_in_advance, *spec.history}
    wanted |= {spec.series_column} if spec.series_column is not None else set()
    if wanted != set(names):
        yield f"inputs: expected the columns {', '.join(sorted(wanted))}"
    special = {spec.datetime_column, spec.series_column, target}
    if special & set(spec.known_in_advance):
        yield "known_in_advance: has the time, the series or the target"
    numeric = {feature.name for feature in spec.inputs if feature.is_numeric} | {target}
    if not set(spec.history) <= numeric - {spec.datetime_column, spec.series_column}:
        yield "history: has a column that is not numeric"
    if not {feature.name for feature in spec.inputs if feature.is_numeric}.isdisjoint(
        {spec.datetime_column, spec.series_column}
    ):
        yield "inputs: the time and the series are text"
    derived = spec.derived_names()
    if len(set(derived)) != len(derived):
        yield "known_in_advance: has a name that a derived feature has"


def is_time_zone(name: str) -> bool:
    """Whether the system's database of time zones has it."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True

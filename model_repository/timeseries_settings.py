"""What a time series model is made of: its settings, and the training rows under them."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import pandas as pd
import yaml
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_repository.cells import category_text
from model_repository.errors import CannotPackage
from model_repository.features import described
from model_repository.tables import Feature, FloatArray, Strings, Table, encoded
from model_repository.timeseries.spec import (
    MAX_WINDOW,
    Ahead,
    Back,
    DatePart,
    Name,
    Statistic,
    TimeSeries,
    Unit,
    is_time_zone,
)

CONTENTS: Final = "timeseries.json"
_STEP: Final = re.compile(r"(?:(\d{1,4}) +)?(minute|hour|day|week|month)s?", re.IGNORECASE)
_SEASONS: Final[dict[Unit, tuple[int, ...]]] = {
    "MINUTE": (60, 1440),
    "HOUR": (24, 168),
    "DAY": (7, 14, 28),
    "WEEK": (4, 52),
    "MONTH": (12, 24),
}
"""How many of a unit make the cycles that values often have."""
_DATE_PARTS: Final[dict[Unit, list[DatePart]]] = {
    "MINUTE": ["month", "day_of_week", "hour", "minute"],
    "HOUR": ["month", "day_of_week", "hour"],
    "DAY": ["month", "day", "day_of_week", "day_of_year"],
    "WEEK": ["month", "day_of_year"],
    "MONTH": ["month", "quarter"],
}
_STATISTICS: Final[list[Statistic]] = ["mean", "min", "max", "std"]
_NEAR: Final = (1, 2, 3)
"""Lags that every series has."""

Offset = Annotated[int, msgspec.Meta(ge=-MAX_WINDOW, le=0)]


class SeriesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a time series model is made of: the keys of ``ts.yml``."""

    target: Name
    datetime_column: Name
    datetime_format: str | None = None
    """As ``strptime`` has it; without one, ISO 8601."""
    time_zone: str | None = None
    time_step: str = "1 day"
    """A number and a unit: minutes, hours, days, weeks or months."""
    series_column: Name | None = None
    feature_derivation_window: tuple[Offset, Offset] = (-27, 0)
    """First and last step of the past that features are derived from, counted from the forecast point."""
    forecast_window: tuple[Ahead, Ahead] = (1, 7)
    """First and last step that is forecast, counted from the forecast point."""
    known_in_advance: list[Name] = []
    history: list[Name] = []
    """Numeric columns, beside the target, whose past matters."""
    lags: list[Back] | None = None
    windows: list[Back] | None = None
    statistics: list[Statistic] | None = None
    date_parts: list[DatePart] | None = None
    new_series_allowed: bool = True
    positive_class: str | int | bool | None = None
    """Of a target with two classes."""
    estimator: Literal["gradient_boosting", "linear"] = "gradient_boosting"
    models: Literal["one", "per_distance"] = "one"
    """One model that knows the distance, or one for each."""
    prediction_interval: Annotated[int, msgspec.Meta(ge=1, le=99)] | None = None
    """Given with each forecast where the deployment does not say otherwise."""
    backtests: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    """How many times the end of the past is held out; none: no intervals."""
    training_rows: Annotated[int, msgspec.Meta(ge=100)] = 200_000
    """Pairs of forecast point and distance to fit on at most; of more, so many are drawn, always the same."""


def settings_from(raw: bytes, origin: str) -> SeriesSettings:
    """
    The settings that a ``ts.yml`` holds.

    Raises:
        CannotPackage: with the line or the key that is wrong.
    """
    try:
        content = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise CannotPackage(f"{origin}: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise CannotPackage(f"{origin}: expected `key: value` lines")
    try:
        return msgspec.convert(content, SeriesSettings)
    except msgspec.ValidationError as exc:
        raise CannotPackage(f"{origin}: {exc}") from exc


def step_of(settings: SeriesSettings) -> tuple[Unit, int]:
    """
    The unit of a step, and how many of it make one.

    Raises:
        CannotPackage: it is not written as one.
    """
    match = _STEP.fullmatch(settings.time_step.strip())
    if match is None or match[1] == "0":
        raise CannotPackage(
            f"time_step {settings.time_step!r}: expected a number and minutes, hours, days, weeks or months, such as "
            "'15 minutes'"
        )
    unit: Any = match[2].upper()
    return unit, int(match[1] or 1)


def spec_of(settings: SeriesSettings, inputs: list[Feature], **grid: Any) -> TimeSeries:
    """
    The manifest's description, with usual lags, windows and date parts where the settings name none.

    Args:
        grid: ``anchor`` and ``month_day``.

    Raises:
        CannotPackage: a window that ends before it begins, or a time zone that nobody knows.
    """
    unit, step = step_of(settings)
    (start, end), (first, last) = settings.feature_derivation_window, settings.forecast_window
    for name, low, high in (("feature_derivation_window", start, end), ("forecast_window", first, last)):
        if low > high:
            raise CannotPackage(f"{name}: {low} is after {high}")
    if settings.time_zone is not None and not is_time_zone(settings.time_zone):
        raise CannotPackage(f"time_zone: {settings.time_zone!r} is not one, expected a name such as 'Europe/Oslo'")
    length = end - start + 1
    cycles = [cycle // step for cycle in _SEASONS[unit] if cycle % step == 0 and cycle // step > max(_NEAR)]
    seasons = [cycle for cycle in cycles if cycle <= length]
    return TimeSeries(
        member=CONTENTS,
        inputs=inputs,
        datetime_column=settings.datetime_column,
        datetime_format=settings.datetime_format,
        time_zone=settings.time_zone,
        unit=unit,
        step=step,
        series_column=settings.series_column,
        derivation_start=start,
        derivation_end=end,
        forecast_start=first,
        forecast_end=last,
        known_in_advance=settings.known_in_advance,
        history=[settings.target, *settings.history],
        lags=_given(settings.lags, [*(lag for lag in _NEAR if lag <= length), *seasons]),
        windows=_given(settings.windows, sorted({length, *seasons})),
        statistics=_given(settings.statistics, _STATISTICS),
        date_parts=_given(settings.date_parts, _DATE_PARTS[unit]),
        new_series_allowed=settings.new_series_allowed,
        **grid,
    )


def _given(given: list[Any] | None, otherwise: list[Any]) -> list[Any]:
    return otherwise if given is None else given


def training_rows(training: pd.DataFrame, settings: SeriesSettings, *, as_categories: bool) -> pd.DataFrame:
    """
    The columns that matter; the time and the series as the texts that a request would have.

    Args:
        as_categories: texts that are known in advance become pandas categories, which trees take as they are.

    Raises:
        CannotPackage: columns are missing.
    """
    if not isinstance(training, pd.DataFrame):
        raise CannotPackage(f"the training rows must be a pandas DataFrame, not {type(training).__name__}")
    names = [settings.datetime_column, settings.series_column, settings.target, *settings.history]
    wanted = [name for name in dict.fromkeys([*names, *settings.known_in_advance]) if name is not None]
    if missing := [name for name in wanted if name not in training.columns]:
        raise CannotPackage(f"the training rows lack columns: {', '.join(missing)}")
    rows = training[wanted].reset_index(drop=True)
    if rows.empty:
        raise CannotPackage("there are no training rows")
    rows[settings.datetime_column] = _time_texts(rows[settings.datetime_column], settings.datetime_format)
    if settings.series_column is not None:
        rows[settings.series_column] = _texts(rows[settings.series_column])
    for name in settings.known_in_advance if as_categories else ():
        if described(rows[name]).type in ("categorical", "text"):
            rows[name] = rows[name].astype("category")
    return rows


def input_features(rows: pd.DataFrame, settings: SeriesSettings) -> list[Feature]:
    """
    The columns of a request.

    Raises:
        CannotPackage: a column of a type that cannot be used.
    """
    found = []
    for name in rows.columns:
        if name == settings.datetime_column:
            found.append(Feature(name=name, type="date", dtype="str"))
        elif name == settings.series_column:
            found.append(Feature(name=name, type="categorical", dtype="str"))
        else:
            found.append(_input(rows[name], settings))
    return found


def _input(column: pd.Series, settings: SeriesSettings) -> Feature:
    name = str(column.name)
    feature = described(column)
    if name in settings.history and not feature.is_numeric:
        raise CannotPackage(f"column {name!r}: is of type {feature.type}, and history is numeric")
    if feature.type == "date":
        raise CannotPackage(f"column {name!r}: is a date, of which only the time column is one")
    return feature


def table_of(rows: pd.DataFrame, inputs: list[Feature]) -> Table:
    """The rows as a request would bring them."""
    numeric: dict[str, FloatArray] = {}
    strings: dict[str, Strings] = {}
    for feature in inputs:
        column = rows[feature.name]
        if feature.is_numeric:
            numeric[feature.name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            strings[feature.name] = encoded(_texts(column).tolist())
    return Table(len(rows), numeric, strings)


def _texts(column: pd.Series) -> pd.Series:
    """As a request writes them; ``None`` is missing."""
    return _mapped(column, category_text)


def _time_texts(column: pd.Series, layout: str | None) -> pd.Series:
    if column.dtype.kind != "M":
        return _texts(column)
    return _mapped(column, lambda time: time.isoformat() if layout is None else time.strftime(layout))


def _mapped(column: pd.Series, text: Any) -> pd.Series:
    texts = {value: text(value) for value in column.dropna().unique().tolist()} if column.dtype.kind != "M" else {
        value: text(value) for value in column.dropna().unique()
    }  # fmt: skip
    return pd.Series([None if value is None else texts[value] for value in _plain(column)], dtype=object)


def _plain(column: pd.Series) -> Iterator[Any]:
    missing = column.isna().tolist()
    values = column.tolist()
    return (None if is_missing else value for value, is_missing in zip(values, missing, strict=True))


def default_estimator(settings: SeriesSettings, *, binary: bool) -> Any:
    """What the settings name, not fitted; takes numbers with missing values, and texts."""
    if settings.estimator == "gradient_boosting":
        return (HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor)(
            categorical_features="from_dtype", random_state=0
        )
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    columns = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include=["number", "bool"])),
            ("texts", OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=["number", "bool"])),
        ]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1000) if binary else Ridge())

"""Which forecasts are made, and what is said where they cannot be."""

from datetime import UTC, datetime

import numpy as np
import pytest

from model_repository.errors import InvalidParameter, RequestError, UnforecastableTable, UnscorableValue
from model_repository.predictions import ForecastOptions, Target
from model_repository.tables import Feature, Table, encoded
from model_repository.timeseries.forecaster import Forecaster
from model_repository.timeseries.intervals import intervals_of
from tests.model_repository.timeseries.reference import TARGET, Row, Spy, spec_of, table_of

NOW = ForecastOptions()
DAYS = 10
"""Of history, from 31 January; then come four days to forecast."""


def shop(name: str = "a", days: int = DAYS, *, first: int = 0, ahead: int = 4) -> list[Row]:
    history = [Row(name, step, float(step)) for step in range(first, days)]
    return history + [Row(name, step, None) for step in range(days, days + ahead)]


def forecast(rows, asked=NOW, **changes):
    return Forecaster(spec_of(**changes), TARGET, Spy()).forecast(table_of(rows), asked)


def found(rows, asked=NOW, **changes) -> list[tuple[str, str, int]]:
    """Series, time and distance of each forecast."""
    answer = forecast(rows, asked, **changes)
    times = np.datetime_as_string(answer.times, unit="D").tolist()
    return [
        (str(answer.names[series]), time, distance)
        for series, time, distance in zip(answer.series, times, answer.distances.tolist(), strict=True)
    ]


def test_from_the_last_value_on():
    """One row per series and distance, in the order in which the request has the series, whatever the rows' order."""
    rows = [*reversed(shop("b")), *shop("a")]

    assert found(rows) == [(name, f"2024-02-{9 + distance:02}", distance) for name in "ba" for distance in (1, 2, 3)]
    answer = forecast(rows)
    assert answer.rows.tolist() == [3, 2, 1, 24, 25, 26]
    assert set(np.datetime_as_string(answer.points, unit="D")) == {"2024-02-09"}


@pytest.mark.parametrize("point", [datetime(2024, 2, 5), datetime(2024, 2, 5, tzinfo=UTC)], ids=["naive", "utc"])
def test_from_a_given_point(point):
    """What is known of the days behind it does not matter."""
    asked = ForecastOptions(point=point)

    assert found(shop(), asked) == [("a", "2024-02-06", 1), ("a", "2024-02-07", 2), ("a", "2024-02-08", 3)]


def test_the_latest_value_of_all_series_is_the_point():
    rows = [*shop("a"), *shop("b", DAYS + 1)]
    rows = [row for row in rows if not (row.series == "a" and row.y is None)] + [
        Row("a", DAYS, 1.0),
        Row("a", DAYS + 1, None),
    ]

    assert found(rows)[0] == ("a", "2024-02-11", 1)


def test_without_a_target_the_last_row_is_the_last_that_can_be_forecast():
    rows = [Row("a", step, None) for step in range(8)]

    assert [distance for _, _, distance in found(rows, history=[], lags=[], windows=[])] == [1, 2, 3]


def test_a_gap_before_the_point():
    """Blind history: the derivation window ends before the forecast point, and its last days need no values."""
    rows = [row if row.step < DAYS - 2 or row.y is None else Row("a", row.step, None) for row in shop()]
    asked = ForecastOptions(point=datetime(2024, 2, 9))

    assert len(found(rows, asked, derivation_start=-5, derivation_end=-2)) == 3


def test_a_forecast_window_that_begins_later():
    assert found(shop(), forecast_start=2) == [("a", "2024-02-11", 2), ("a", "2024-02-12", 3)]


def test_missing_steps_and_values_are_missing_features():
    rows = [row for row in shop() if row.step != DAYS - 2]
    spy = Spy()
    Forecaster(spec_of(), TARGET, spy).forecast(table_of(rows), NOW)

    assert spy.seen()["y (lag 1)"].tolist() == [9.0] * 3
    assert np.isnan(spy.seen()["y (lag 2)"]).all()
    assert spy.seen()["y (mean of 2)"].tolist() == [9.0] * 3


def test_a_range():
    """Every distance of every time in it; the end is not in it; from every point that has its history."""
    asked = ForecastOptions(start=datetime(2024, 2, 4), end=datetime(2024, 2, 6))

    assert found(shop(), asked) == [
        ("a", "2024-02-04", 1),
        ("a", "2024-02-05", 2),
        ("a", "2024-02-05", 1),
    ]


def test_the_ends_of_time_are_a_range():
    asked = ForecastOptions(start=datetime(1900, 1, 1), end=datetime(2262, 4, 11, 23, 47, 16, 854775, UTC))
    rows = shop(ahead=3)

    assert len(found(rows, asked)) == 3 * (DAYS - 3)


@pytest.mark.parametrize(
    ("rows", "asked", "error", "message"),
    [
        pytest.param(shop(first=8), NOW, UnforecastableTable, "series 'a': too little history: the forecast point 2024-02-09 needs it from 2024-02-06 to 2024-02-09, found from 2024-02-08 to 2024-02-09", id="short history"),
        pytest.param([*shop("a"), *shop("b", 8, ahead=6)], NOW, UnforecastableTable, "series 'b': too little history: the forecast point 2024-02-09 needs it from 2024-02-06 to 2024-02-09, found from 2024-01-31 to 2024-02-07", id="a series that ended"),
        pytest.param([Row("a", step, None) for step in range(8)], NOW, UnforecastableTable, "series 'a': too little history: the forecast point 2024-02-04 needs it from 2024-02-01 to 2024-02-04, found none", id="no values"),
        pytest.param(shop(ahead=0), NOW, UnforecastableTable, "no rows to forecast: the forecast point 2024-02-09 needs rows from 2024-02-10 to 2024-02-12, found rows from 2024-01-31 to 2024-02-09", id="nothing to forecast"),
        pytest.param(shop(), ForecastOptions(point=datetime(2025, 1, 1)), UnforecastableTable, "the forecast point 2025-01-01 is later than the last row, 2024-02-13", id="point beyond the rows"),
        pytest.param(shop(), ForecastOptions(point=datetime(2024, 2, 5, 6)), InvalidParameter, "'forecastPoint': 2024-02-05T06:00:00 is not on the time step of the model, one day; the step before it is 2024-02-05", id="point off the step"),
        pytest.param(shop(), ForecastOptions(start=datetime(2030, 1, 1), end=datetime(2031, 1, 1)), UnforecastableTable, "no rows to forecast: needs rows from 2030-01-01T00:00:00 to before 2031-01-01T00:00:00, found rows from 2024-01-31 to 2024-02-13", id="range beyond the rows"),
        pytest.param(shop(), ForecastOptions(start=datetime(2024, 2, 1), end=datetime(2024, 2, 2)), UnforecastableTable, "no rows to forecast in the range: needs at least 5 steps of one day in a series, the last of them in the range, found rows from 2024-01-31 to 2024-02-13, 10 of them with a target", id="range without history"),
        pytest.param(shop(), ForecastOptions(start=datetime(2024, 2, 2), end=datetime(2024, 2, 2)), InvalidParameter, "'predictionsEndDate': is not later than predictionsStartDate", id="empty range"),
        pytest.param([*shop(), Row("a", 3, 1.0)], NOW, UnscorableValue, "row 14, column 'day': row 3 of series 'a' has the same time", id="a time twice"),
        pytest.param([*shop()[:-3], Row("a", 11, None, None)], NOW, UnscorableValue, "row 11, column 'ahead': is missing in a row to forecast, where it should be known in advance; relaxKnownInAdvanceFeaturesCheck=true forecasts without it", id="not known in advance"),
        pytest.param([*shop()[1:], Row("a", 0, float("inf"))], NOW, UnscorableValue, "row 13, column 'y': is infinite, and history has finite numbers only", id="infinite"),
    ],
)  # fmt: skip
def test_refusals(rows, asked, error, message):
    """Each names what is needed and what was found, or the row."""
    with pytest.raises(RequestError) as refusal:
        forecast(rows, asked)

    assert type(refusal.value) is error
    assert str(refusal.value) == message
    assert refusal.value.status_hint == 422


@pytest.mark.parametrize(
    ("column", "texts", "message"),
    [
        pytest.param("day", ["2024-01-31", None], "row 1, column 'day': is missing", id="time missing"),
        pytest.param(
            "day",
            ["2024-01-31", "today"],
            "row 1, column 'day': 'today' is not a date or time in ISO 8601",
            id="no time",
        ),
        pytest.param(
            "day",
            ["2024-01-31", "2024-02-01T12:00"],
            "row 1, column 'day': '2024-02-01T12:00' is not on the time step: one day from 2024-01-31 to the next",
            id="off the step",
        ),
        pytest.param("shop", ["a", None], "row 1, column 'shop': is missing", id="series missing"),
    ],
)
def test_cells_that_cannot_be_placed(column, texts, message):
    table = table_of([Row("a", 0, 1.0), Row("a", 1, 1.0)])
    table.strings[column] = encoded(texts)

    with pytest.raises(UnscorableValue) as refusal:
        Forecaster(spec_of(), TARGET, Spy()).forecast(table, NOW)

    assert str(refusal.value) == message


@pytest.mark.parametrize("absent", [True, False], ids=["no column", "empty cells"])
def test_relaxed_forecasts_without_what_is_not_known(absent):
    rows = [Row("a", row.step, row.y, None) for row in shop()]
    table = table_of(rows)
    if absent:
        del table.numeric["ahead"]
    spy = Spy()

    answer = Forecaster(spec_of(), TARGET, spy).forecast(table, ForecastOptions(relaxed=True))

    assert len(answer.rows) == 3
    assert np.isnan(spy.seen()["ahead"]).all()


def test_absent_columns_are_refused_unless_relaxed():
    table = table_of(shop())
    del table.numeric["ahead"]

    with pytest.raises(UnscorableValue, match="column 'ahead': is missing in a row to forecast"):
        Forecaster(spec_of(), TARGET, Spy()).forecast(table, NOW)


def test_new_series_are_refused_by_name():
    forecaster = Forecaster(spec_of(new_series_allowed=False), TARGET, Spy(), None, frozenset({"a"}))

    with pytest.raises(UnscorableValue) as refusal:
        forecaster.forecast(table_of([*shop("a"), *shop("z")]), NOW)

    assert str(refusal.value) == "row 14, column 'shop': the model does not know the series 'z', and takes no new ones"


def test_a_cell_that_the_model_refuses_has_the_row_of_the_request():
    class Refusing(Spy):
        def predict(self, table: Table):
            raise UnscorableValue("y (lag 2)", 1, "is missing, and the model takes no missing values here")

    with pytest.raises(UnscorableValue, match=r"row 11, column 'y \(lag 2\)': is missing"):
        Forecaster(spec_of(), TARGET, Refusing()).forecast(table_of(shop()), NOW)


@pytest.mark.parametrize(
    ("target", "cells", "expected"),
    [
        pytest.param(Target(name="y", type="Binary", class_labels=["yes", "no"]), encoded(["yes", "no", None]), [1, 0, np.nan], id="texts"),
        pytest.param(Target(name="y", type="Binary", class_labels=[0, 1]), np.array([1, 0, np.nan]), [0, 1, np.nan], id="numbers"),
        pytest.param(Target(name="y", type="Binary", class_labels=[True, False]), np.array([1, 0, np.nan]), [1, 0, np.nan], id="booleans"),
        pytest.param(Target(name="y", type="Regression"), np.array([2.5, 0, np.nan]), [2.5, 0, np.nan], id="a number"),
    ],
)  # fmt: skip
def test_a_class_is_history_as_one_and_zero(target, cells, expected):
    table = Table(3, {"y": cells}, {}) if isinstance(cells, np.ndarray) else Table(3, {}, {"y": cells})

    numbers = Forecaster(spec_of(), target, None).target_numbers(table)

    np.testing.assert_array_equal(numbers, expected)


def test_a_class_that_is_none():
    target = Target(name="y", type="Binary", class_labels=["yes", "no"])

    with pytest.raises(UnscorableValue, match="row 1, column 'y': 'maybe' is neither 'yes' nor 'no'"):
        Forecaster(spec_of(), target, None).target_numbers(Table(2, {}, {"y": encoded(["yes", "maybe"])}))


def test_one_series_needs_no_name():
    spec = spec_of(series_column=None, inputs=[Feature(name="day", type="date", dtype="str"), Feature(name="y", type="numeric", dtype="float64"), Feature(name="ahead", type="numeric", dtype="float64")])  # fmt: skip
    answer = Forecaster(spec, TARGET, Spy()).forecast(table_of(shop()), NOW)

    assert answer.names == [None]
    with pytest.raises(UnforecastableTable, match=r"^too little history: the forecast point"):
        Forecaster(spec, TARGET, Spy()).forecast(table_of(shop(first=8)), NOW)


def test_intervals():
    """Half of what is left out lies on either side; a distance with few residuals has none."""
    residuals = np.concatenate([np.arange(-100.0, 101.0), [0.0] * 9])
    distances = np.array([1] * 201 + [2] * 9)
    intervals = intervals_of(residuals, distances, range(1, 3), 80)
    assert intervals is not None

    low, high = intervals.around(np.array([1000.0, 1000.0]), np.array([1, 2]), 80)

    np.testing.assert_allclose(low, [920, np.nan])
    np.testing.assert_allclose(high, [1080, np.nan])
    assert intervals_of(residuals[201:], distances[201:], range(1, 3)) is None


def test_an_interval_of_each_forecast():
    intervals = intervals_of(np.arange(30.0), np.array([1, 2, 3] * 10), range(1, 4))
    answer = Forecaster(spec_of(), TARGET, Spy(), intervals).forecast(table_of(shop()), NOW, percentile=50)

    assert answer.interval is not None
    assert answer.interval.percentile == 50
    assert (answer.interval.low < answer.interval.high).all()

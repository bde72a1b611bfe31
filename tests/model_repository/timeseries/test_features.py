"""The derived features against their definition, and against what they must not know."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.errors import UnforecastableTable
from model_repository.predictions import ForecastOptions
from model_repository.timeseries import features as features_module
from model_repository.timeseries.forecaster import Forecast, Forecaster
from tests.model_repository.timeseries.reference import TARGET, Row, Spy, features, spec_of, table_of

EVERYTHING = ForecastOptions(start=datetime(1900, 1, 1), end=datetime(2262, 4, 11), relaxed=True)

values = st.none() | st.floats(-1e6, 1e6)
cells = st.none() | st.tuples(values, values)
"""A step without a row, or its value and what is known in advance."""


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Up to three series with holes, in any order."""
    rows = [Row("a", 0, draw(values))]
    for series in draw(st.sampled_from(["a", "ab", "abc"])):
        first = draw(st.integers(1, 3))
        rows += [
            Row(series, step, *cell) for step, cell in enumerate(draw(st.lists(cells, max_size=15)), first) if cell
        ]
    return draw(st.permutations(rows))


windows = st.builds(
    lambda end, length, first, more: spec_of(
        derivation_start=end - length + 1,
        derivation_end=end,
        lags=[1, length] if length > 1 else [1],
        windows=[1, length] if length > 1 else [1],
        forecast_start=first,
        forecast_end=first + more,
    ),
    st.integers(-3, 0),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 3),
)


def forecast_of(rows, spec, asked) -> tuple[Forecast | None, dict[str, np.ndarray]]:
    spy = Spy()
    try:
        found = Forecaster(spec, TARGET, spy).forecast(table_of(rows), asked)
    except UnforecastableTable:
        return None, {}
    return found, spy.seen()


def expected_pairs(rows, spec) -> set[tuple[int, int]]:
    """Row and forecast point of every forecast there must be, by the definition."""
    pairs = set()
    for number, row in enumerate(rows):
        steps = [one.step for one in rows if one.series == row.series]
        known = [one.step for one in rows if one.series == row.series and one.y is not None]
        for distance in spec.distances:
            origin = row.step - distance
            start, end = origin + spec.derivation_start, origin + spec.derivation_end
            covered = bool(known) and min(steps) <= start and max(known) >= end
            if covered and any(start <= step <= end for step in known):
                pairs.add((number, origin))
    return pairs


@given(tables(), windows)
def test_equal_to_the_definition(rows, spec):
    """Every pair there must be and no other, in order, with exactly the features of the definition."""
    found, seen = forecast_of(rows, spec, EVERYTHING)

    pairs = expected_pairs(rows, spec)
    if found is None:
        assert not pairs
        return
    origins = [rows[row].step - distance for row, distance in zip(found.rows, found.distances, strict=True)]
    assert set(zip(found.rows.tolist(), origins, strict=True)) == pairs
    assert len(found.rows) == len(pairs)
    order = [
        (series, origin, distance)
        for series, origin, distance in zip(found.series, origins, found.distances, strict=True)
    ]
    assert order == sorted(order)
    assert [found.names[series] for series in found.series] == [rows[row].series for row in found.rows]
    assert (found.values[:, 0] == np.arange(len(pairs))).all()
    for place, (row, origin) in enumerate(zip(found.rows, origins, strict=True)):
        wanted = features(rows, spec, rows[row], origin)
        np.testing.assert_equal({name: column[place] for name, column in seen.items()}, wanted)


@given(tables(), windows, st.integers(-6, 12), st.floats(-1e6, 1e6))
def test_nothing_after_the_forecast_point_moves_a_feature(rows, spec, origin, other):
    """Of bulk forecasts, those up to a point stay the same to the last bit when every later value changes."""
    changed = [
        replace(row, y=None if row.y is None else row.y + other + 1) if row.step > origin else row for row in rows
    ]

    before, seen_before = forecast_of(rows, spec, EVERYTHING)
    after, seen_after = forecast_of(changed, spec, EVERYTHING)

    if before is None:
        assert after is None
        return
    assert after is not None
    until = np.array([rows[row].step for row in before.rows]) - before.distances <= origin
    for name in seen_before:
        np.testing.assert_array_equal(seen_before[name][until], seen_after[name][until])


@given(tables(), windows)
def test_a_series_does_not_know_the_others(rows, spec):
    """Alone or among others: the same features to the last bit."""
    together, seen_together = forecast_of(rows, spec, EVERYTHING)
    alone = [row for row in rows if row.series == rows[0].series]
    found, seen = forecast_of(alone, spec, EVERYTHING)

    if found is None:
        return
    assert together is not None
    own = np.array([together.names[series] == rows[0].series for series in together.series])
    for name in seen:
        np.testing.assert_array_equal(seen_together[name][own], seen[name])


@given(tables(), windows)
def test_one_point_says_what_the_range_says(rows, spec):
    """Forecast mode from a point gives the rows that bulk mode has for that point."""
    everything, seen_of_all = forecast_of(rows, spec, EVERYTHING)
    point = int(max(row.step for row in rows) - spec.forecast_start)
    asked = ForecastOptions(point=datetime(2024, 1, 31) + timedelta(days=point), relaxed=True)
    found, seen = forecast_of(rows, spec, asked)

    if found is None:
        return
    assert everything is not None
    same = np.array([rows[row].step for row in everything.rows]) - everything.distances == point
    assert found.rows.tolist() == everything.rows[same].tolist()
    for name in seen:
        np.testing.assert_array_equal(seen[name], seen_of_all[name][same])


@pytest.mark.parametrize("cells", [4, 40, 400])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, cells: int):
    """However small the parts in which a large request is derived."""
    rows = [
        Row(series, step, float(step * len(series) % 7) if step % 5 else None)
        for series in ("a", "bb")
        for step in range(40)
    ]
    whole, seen_whole = forecast_of(rows, spec_of(), EVERYTHING)
    monkeypatch.setattr(features_module, "WINDOW_CELLS", cells)

    parts, seen = forecast_of(rows, spec_of(), EVERYTHING)

    assert whole is not None
    assert parts is not None
    assert parts.rows.tolist() == whole.rows.tolist()
    for name in seen:
        np.testing.assert_array_equal(seen[name], seen_whole[name])

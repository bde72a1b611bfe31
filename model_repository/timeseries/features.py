"""From a panel and pairs of forecast point and row to the table that the model takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_repository.tables import FloatArray, Strings, Table
from model_repository.timeseries.calendar import Steps, date_part
from model_repository.timeseries.derivation import window_features
from model_repository.timeseries.panel import Panel, Places
from model_repository.timeseries.spec import DISTANCE, TimeSeries, date_name, window_names

WINDOW_CELLS: Final = 1 << 20
MOST_PAIRS: Final = 1 << 16
"""A block of pairs is as large as both allow: memory stays flat however many there are."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is forecast from where, in the order of the answer: by series, forecast point and distance."""

    places: Places
    """In the panel, of the rows that are forecast."""
    origins: Steps
    """The forecast points."""

    def __len__(self) -> int:
        return len(self.places)

    def part(self, start: int, stop: int) -> "Pairs":
        """Pairs *start* to *stop*."""
        return Pairs(self.places[start:stop], self.origins[start:stop])

    def where(self, chosen: NDArray[np.bool_]) -> "Pairs":
        """The chosen ones."""
        return Pairs(self.places[chosen], self.origins[chosen])


class Past:
    """The numeric history of a panel, to look into from any forecast point."""

    def __init__(self, spec: TimeSeries, panel: Panel, history: Mapping[str, FloatArray]) -> None:
        self._spec = spec
        self._panel = panel
        self._history = history
        self._first = int(panel.steps.min())
        self._span = int(panel.steps.max()) - self._first + 2
        self._keys = self._key(panel.series, panel.steps)

    def _key(self, series: Places, steps: Steps) -> Steps:
        """Rises with series and step; a step beyond those of the panel is the one next to them."""
        keys: Steps = series * self._span + np.clip(steps - self._first, 0, self._span - 1)
        return keys

    def windows(self, series: Places, origins: Steps) -> Iterator[tuple[str, FloatArray]]:
        """
        For each history column its name and the derivation windows, newest value first.

        Shape ``(window_length, n_origins)``, NaN where a step has no row or no value.
        """
        spec = self._spec
        low = np.searchsorted(self._keys, self._key(series, origins + spec.derivation_start))
        high = np.searchsorted(self._keys, self._key(series, origins + spec.derivation_end + 1))
        counts = high - low
        of_origin = np.repeat(np.arange(len(origins)), counts)
        places = np.arange(len(of_origin)) + np.repeat(low - (np.cumsum(counts) - counts), counts)
        ages = origins[of_origin] + spec.derivation_end - self._panel.steps[places]
        for name in spec.history:
            found = np.full((spec.window_length, len(origins)), np.nan)
            found[ages, of_origin] = self._history[name][places]
            yield name, found


def pairs_of(panel: Panel, places: Places, spec: TimeSeries) -> Pairs:
    """The rows at *places* from each distance before them."""
    distances = np.array(spec.distances, dtype=np.int64)
    rows = np.repeat(places, distances.size)
    origins = (panel.steps[places][:, None] - distances[None, :]).ravel()
    order = np.lexsort((rows, origins, panel.series[rows]))
    return Pairs(rows[order], origins[order])


def derived_table(
    spec: TimeSeries, panel: Panel, past: Past, pairs: Pairs, table: Table
) -> tuple[Table, NDArray[np.bool_]]:
    """
    The model's table, a row per pair; and per pair whether its window has any value at all.

    Args:
        pairs: in order; those of one series and forecast point share a look into the past.
        table: the request's, in its own order.
    """
    series = panel.series[pairs.places]
    new = np.ones(len(pairs), dtype=np.bool_)
    new[1:] = (series[1:] != series[:-1]) | (pairs.origins[1:] != pairs.origins[:-1])
    of_pair = np.cumsum(new) - 1
    numeric: dict[str, FloatArray] = {}
    some = np.full(int(of_pair[-1]) + 1, not spec.history)
    for name, window in past.windows(series[new], pairs.origins[new]):
        some |= ~np.isnan(window).all(axis=0)
        names = window_names(name, spec.lags, spec.windows, spec.statistics)
        found = window_features(window, spec.lags, spec.windows, spec.statistics)
        numeric.update((derived, values[of_pair]) for derived, values in zip(names, found, strict=True))
    wall = panel.moments.wall[pairs.places]
    for part in spec.date_parts:
        numeric[date_name(spec.datetime_column, part)] = date_part(wall, part)
    numeric[DISTANCE] = (panel.steps[pairs.places] - pairs.origins).astype(np.float64)
    strings: dict[str, Strings] = {}
    rows = panel.rows[pairs.places]
    for name in spec.known_in_advance:
        if name in table.numeric:
            numeric[name] = table.numeric[name][rows]
        else:
            strings[name] = Strings(table.strings[name].codes[rows], table.strings[name].values)
    return Table(len(pairs), numeric, strings), some[of_pair]


def blocks_of(spec: TimeSeries, pairs: Pairs) -> Iterator[Pairs]:
    """The pairs in parts that fit into memory."""
    size = max(1, min(MOST_PAIRS, WINDOW_CELLS // spec.window_length))
    for start in range(0, len(pairs), size):
        yield pairs.part(start, start + size)

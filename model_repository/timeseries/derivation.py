"""
Features of the past: one vectorised implementation for training and scoring.

The past of many origins lies side by side, newest value first, shape ``(n_steps, n_origins)``. Everything is
accumulated along the steps, one after another, so that an origin's features do not depend, to the last bit, on how many
others are derived with it; numpy's plain sums would add in another order for another shape.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from model_repository.tables import FloatArray
from model_repository.timeseries.spec import Statistic


def window_features(
    newest_first: FloatArray, lags: Sequence[int], windows: Sequence[int], statistics: Sequence[Statistic]
) -> Iterator[FloatArray]:
    """
    The features of one column in the order of `spec.window_names`, each of shape ``(n_origins,)``.

    Args:
        newest_first: shape ``(n_steps, n_origins)``; NaN is missing. Row 0 is the end of the derivation window.

    Lag k is row k - 1. A statistic of n is over the newest n rows without the missing ones: NaN if there are none; the
    standard deviation is the sample's and needs two.
    """
    for lag in lags:
        yield newest_first[lag - 1]
    if not windows:
        return
    rolling = _Rolling(newest_first[: max(windows)])
    for length in windows:
        for statistic in statistics:
            yield rolling.of(length, statistic)


class _Rolling:
    """Statistics of all lengths at once, by accumulation from the newest value on."""

    def __init__(self, newest_first: FloatArray) -> None:
        present = ~np.isnan(newest_first)
        self._values = newest_first
        self._present = present
        self._counts: NDArray[np.int64] = np.cumsum(present, axis=0, dtype=np.int64)
        self._totals: FloatArray = np.cumsum(np.where(present, newest_first, 0.0), axis=0)
        self._lowest: FloatArray | None = None
        self._highest: FloatArray | None = None

    def of(self, length: int, statistic: Statistic) -> FloatArray:
        """One statistic of the newest *length* values."""
        match statistic:
            case "mean":
                return self._mean(length)
            case "std":
                return self._deviation(length)
            case "min":
                if self._lowest is None:
                    self._lowest = np.fmin.accumulate(self._values, axis=0)
                lowest: FloatArray = self._lowest[length - 1]
                return lowest
            case "max":
                if self._highest is None:
                    self._highest = np.fmax.accumulate(self._values, axis=0)
                highest: FloatArray = self._highest[length - 1]
                return highest

    def _mean(self, length: int) -> FloatArray:
        counts = self._counts[length - 1]
        mean: FloatArray = self._totals[length - 1] / np.where(counts > 0, counts, np.nan)
        return mean

    def _deviation(self, length: int) -> FloatArray:
        counts = self._counts[length - 1]
        from_mean = np.where(self._present[:length], self._values[:length] - self._mean(length), 0.0)
        squares = np.cumsum(from_mean * from_mean, axis=0)[-1]
        deviation: FloatArray = np.sqrt(squares / np.where(counts > 1, counts - 1, np.nan))
        return deviation

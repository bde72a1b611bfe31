"""How far the actual values of a backtest were from its forecasts, and what that says of the next ones."""

from typing import Annotated, Final

import msgspec
import numpy as np

from model_repository.tables import FloatArray
from model_repository.timeseries.calendar import Steps

FEWEST: Final = 10
"""Residuals of a distance; with fewer it has no interval."""
N_QUANTILES: Final = 199
"""Of each distance: the percentiles 0.5, 1, 1.5 to 99.5, so that every interval from 1 to 99 can be looked up."""


class Intervals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Quantiles of the residuals, actual minus forecast, per distance."""

    percentile: Annotated[int, msgspec.Meta(ge=1, le=99)] | None = None
    """Interval that is given where the deployment does not say; ``None`` for none."""
    first_distance: int
    quantiles: list[list[float] | None]
    """By distance; ``None`` where the backtest had too few."""

    def around(self, values: FloatArray, distances: Steps, percentile: int) -> tuple[FloatArray, FloatArray]:
        """Low and high ends around forecasts: so many of a hundred actual values lie between; NaN where unknown."""
        nothing = [np.nan] * N_QUANTILES
        table = np.array([row if row is not None else nothing for row in self.quantiles])
        places = distances - self.first_distance
        return values + table[places, 99 - percentile], values + table[places, 99 + percentile]


def intervals_of(
    residuals: FloatArray, distances: Steps, span: range, percentile: int | None = None
) -> Intervals | None:
    """
    The intervals of a backtest; ``None`` if no distance has enough residuals.

    Args:
        residuals: actual minus forecast, and how far ahead each was.
        span: the distances of the model.
    """
    steps = np.arange(1, N_QUANTILES + 1) / (N_QUANTILES + 1)
    quantiles: list[list[float] | None] = []
    for distance in span:
        some = residuals[distances == distance]
        quantiles.append(np.quantile(some, steps).tolist() if some.size >= FEWEST else None)
    if all(row is None for row in quantiles):
        return None
    return Intervals(percentile=percentile, first_distance=span.start, quantiles=quantiles)

"""
One forecast, from a body to an answer, without HTTP.

A body of a time series is read whole before anything is derived from it: any row may be history of any other.
"""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import anyio
from starlette.requests import ClientDisconnect

from model_repository.csv_codec import SMALL_BODY
from model_repository.deployment_config import PredictionIntervals
from model_repository.errors import MissingColumns, ModelUnavailable
from model_repository.kept import KeptColumns
from model_repository.repository import Model
from model_repository.runtimes.forecasting import Forecasting
from model_repository.tables import Schema, Table
from model_repository.timeseries.forecaster import Forecaster, stacked
from prediction_api.accompaniment import Accompaniment
from prediction_api.forecast_columns import ForecastColumns
from prediction_api.scoring import (
    AssociationId,
    Codecs,
    Kept,
    Lanes,
    Left,
    Order,
    Scored,
    Scorer,
    unless_left,
)

SHORT_WINDOW: Final = 500
"""Steps. Few bytes can name many series, each of which has a window to be looked through; a range has many more."""

Stopped = Callable[[], bool]


def scorer_for(
    model: Model,
    lanes: Lanes,
    *,
    association: AssociationId | None = None,
    timeout: float = 60.0,
    intervals: PredictionIntervals | None = None,
) -> Scorer:
    """
    What scores with *model*.

    Args:
        intervals: what the deployment says of them; else the package rules.
    """
    if model.forecasting is None:
        return Scorer(model, lanes, association=association, timeout=timeout)
    percentile = _percentile(model.forecasting, intervals)
    return ForecastScorer(
        model, model.forecasting.forecaster, lanes, association=association, timeout=timeout, percentile=percentile
    )


def _percentile(forecasting: Forecasting, asked: PredictionIntervals | None) -> int | None:
    packaged = forecasting.contents.intervals
    if asked is None:
        return None if packaged is None else packaged.percentile
    return asked.percentiles[0] if asked.enabled and asked.percentiles else None


class ForecastScorer(Scorer):
    """Forecasts with one model."""

    def __init__(
        self,
        model: Model,
        forecaster: Forecaster,
        lanes: Lanes,
        *,
        association: AssociationId | None,
        timeout: float,
        percentile: int | None,
    ) -> None:
        super().__init__(model, lanes, association=association, timeout=timeout)
        self._forecaster = forecaster
        self._percentile = percentile
        self._inline = self._inline and forecaster.spec.window_length <= SHORT_WINDOW
        self._schema = forecaster.spec.input_schema
        self._without = lru_cache(maxsize=8)(self._codecs_without)

    async def score(self, order: Order, left: Left) -> Scored:
        """As `Scorer.score`; what is small and not explained on the event loop, the rest on a thread."""
        options = order.options
        plain = options.explain is None and not options.forecast.is_bulk
        if len(order.data) <= SMALL_BODY and self._inline and plain:
            return self._forecast(order, lambda: False)
        try:
            with anyio.fail_after(self._timeout):
                return await unless_left(lambda stop: self._work(order, stop), left, self._lanes.scoring)
        except TimeoutError:
            raise ModelUnavailable(f"the prediction took longer than {self._timeout:g} s") from None

    def _work(self, order: Order, stop: threading.Event) -> Scored:
        return self._forecast(order, stop.is_set)

    def _forecast(self, order: Order, stopped: Stopped) -> Scored:
        def proceed() -> None:
            if stopped():
                raise ClientDisconnect

        more = Accompaniment(self._model, order.options)
        table, kept = self._whole(order, stopped)
        found = self._forecaster.forecast(
            table,
            order.options.forecast,
            self._percentile,
            stopped,
            told=lambda derived, values, n_rows: more.add(derived, values, proceed, n_rows),
        )
        proceed()
        rows = found.rows.tolist()
        columns: Kept = {name: _chosen(column, rows) for name, column in kept.items()}
        beside = more.beside(order.answer, self._explanation_texts, found.values, columns)
        spec = self._forecaster.spec
        frame = ForecastColumns(found, spec, table.strings[spec.datetime_column])
        writer = self._codecs.json_writer if order.answer == "json" else self._codecs.csv_writer
        pieces = writer.chunks(found.values, order.options, self._kept(order, columns), beside, frame)
        return Scored.of(len(rows), pieces, beside)

    def _whole(self, order: Order, stopped: Stopped) -> tuple[Table, Kept]:
        """All rows; where a column may be absent and is, without it."""
        with self._reading(order):
            try:
                return self._read(order, self._codecs, self._schema, stopped)
            except MissingColumns as exc:
                if not set(exc.missing) <= self._optional(order):
                    raise
                codecs, schema = self._without(exc.missing)
                return self._read(order, codecs, schema, stopped)

    def _optional(self, order: Order) -> set[str]:
        known = self._forecaster.spec.known_in_advance if order.options.forecast.relaxed else []
        return {self._model.manifest.target.name, *known}

    def _codecs_without(self, missing: tuple[str, ...]) -> tuple[Codecs, Schema]:
        schema = Schema(tuple(feature for feature in self._schema.features if feature.name not in missing))
        return Codecs(schema, self._model.manifest.target), schema

    def _read(self, order: Order, codecs: Codecs, schema: Schema, stopped: Stopped) -> tuple[Table, Kept]:
        if len(order.data) <= SMALL_BODY:
            rows = order.rows(codecs, self._keep(order))
            return Table.from_rows(rows, schema), rows.kept
        tables: list[Table] = []
        kept = KeptColumns()
        blocks = order.tables(codecs, self._keep(order))
        while not stopped():
            with self._lanes.reading:
                table = next(blocks, None)
            if table is None:
                return stacked(tables), kept.columns()
            kept.add(table.n_rows, table.kept)
            tables.append(table)
        raise ClientDisconnect


def _chosen(column: Sequence[Any], rows: list[int]) -> list[Any]:
    values = list(column)  # a column of many blocks is slow to take single values from
    return [values[row] for row in rows]

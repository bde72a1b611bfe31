"""``timeseries.json``: what a package of a time series holds beside the model and the manifest."""

from datetime import datetime
from typing import Final

import msgspec

from model_repository.errors import InvalidPackage
from model_repository.tables import Feature, Rows, Schema, Table
from model_repository.timeseries.intervals import N_QUANTILES, Intervals
from model_repository.timeseries.spec import TimeSeries

MAX_GOLDEN_INPUTS: Final = 20_000


class GoldenForecast(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Real history and rows to forecast, with what the original estimator forecast."""

    columns: dict[str, list[float | str | bool | None]]
    """Per input; ``null`` is missing."""
    point: datetime
    """The forecast point."""
    rows: list[int]
    """Of the columns, those that are forecast, in the order of the answer."""
    distances: list[int]
    values: list[list[float]]
    """Shape ``(n_forecasts, n_outputs)``."""

    def table(self, schema: Schema) -> Table:
        """The rows as a request would bring them."""
        columns = [
            [float(cell) if isinstance(cell, bool) else cell for cell in self.columns[feature.name]]
            for feature in schema.features
        ]
        return Table.from_rows(Rows(list(zip(*columns, strict=True))), schema)


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it."""

    series: list[str] | None = None
    """The series that the model knows; ``None``: any."""
    intervals: Intervals | None = None
    golden: GoldenForecast


def contents_from(raw: bytes, spec: TimeSeries, n_outputs: int) -> Contents:
    """
    Parse and check.

    Raises:
        InvalidPackage: naming what does not fit the manifest.
    """
    try:
        contents = msgspec.json.decode(raw, type=Contents)
    except msgspec.DecodeError as exc:
        raise InvalidPackage(f"{spec.member}: {exc}") from exc
    problem = _problem(contents, spec, n_outputs)
    if problem:
        raise InvalidPackage(f"{spec.member}: {problem}")
    return contents


def _problem(contents: Contents, spec: TimeSeries, n_outputs: int) -> str | None:
    intervals, golden = contents.intervals, contents.golden
    if (contents.series is None) != (spec.new_series_allowed or spec.series_column is None):
        return "the known series are there if, and only if, the model takes no new ones"
    if intervals is not None and (
        intervals.first_distance != spec.forecast_start
        or len(intervals.quantiles) != len(spec.distances)
        or any(row is not None and len(row) != N_QUANTILES for row in intervals.quantiles)
    ):
        return f"expected {N_QUANTILES} quantiles, or null, for each of {len(spec.distances)} distances"
    if list(golden.columns) != [feature.name for feature in spec.inputs]:
        return "the columns of the golden forecast are not the inputs of the manifest"
    lengths = {len(column) for column in golden.columns.values()}
    if len(lengths) != 1 or not 0 < max(lengths) <= MAX_GOLDEN_INPUTS:
        return f"expected 1 to {MAX_GOLDEN_INPUTS} rows in every column of the golden forecast"
    for feature in spec.inputs:
        if not all(_fits(cell, feature) for cell in golden.columns[feature.name]):
            return f"column {feature.name!r} of the golden forecast holds other than {feature.type} cells"
    if not len(golden.rows) == len(golden.distances) == len(golden.values) > 0:
        return "the golden forecast has not one row and one distance for each of its values"
    if any(len(row) != n_outputs for row in golden.values):
        return f"expected {n_outputs} values in each golden forecast"
    return None


def _fits(cell: float | str | bool | None, feature: Feature) -> bool:
    return cell is None or isinstance(cell, float | bool if feature.is_numeric else str)

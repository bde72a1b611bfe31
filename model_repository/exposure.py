"""Models of a rate: the prediction times the row's exposure, where the package names the column that holds it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_repository.cells import number_from, number_from_json
from model_repository.errors import MissingColumns, UnscorableValue
from model_repository.tables import FloatArray, Rows, Schema, Table


def adjusted_predictions(predictions: FloatArray, inputs: Rows | Table, schema: Schema, column: str) -> FloatArray:
    """
    Each prediction times the exposure of its row.

    Args:
        predictions: shape ``(n_rows, 1)``.
        inputs: rows that hold the column *column*, as a feature of the model or kept (see `predictions.Keep`).

    Returns:
        Shape ``(n_rows,)``; NaN where the exposure is missing.

    Raises:
        MissingColumns: *column* is not there.
        UnscorableValue: an exposure is no number.
    """
    return np.asarray(predictions[:, 0] * _exposures(inputs, schema, column))


def _exposures(inputs: Rows | Table, schema: Schema, column: str) -> FloatArray:
    if column in schema.names:
        if isinstance(inputs, Table):
            return inputs.numeric[column]
        place = schema.names.index(column)
        return np.array([row[place] for row in inputs.values], dtype=np.float64)
    if column not in inputs.kept:
        raise MissingColumns([column])
    return _numbers(inputs.kept[column], column)


def _numbers(cells: Sequence[Any], column: str) -> FloatArray:
    out = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            number = number_from(cell) if isinstance(cell, str) else number_from_json(cell)
        except ValueError as exc:
            raise UnscorableValue(column, row, str(exc)) from exc
        out[row] = np.nan if number is None else number
    return out

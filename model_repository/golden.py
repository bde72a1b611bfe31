"""Golden rows: what was predicted when the package was made, and whether a runtime still says the same."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from model_repository.errors import InvalidPackage
from model_repository.manifest import GoldenRows, Manifest
from model_repository.predictions import Runtime
from model_repository.tables import NUMERIC_TYPES, Cell, Feature, FloatArray, Rows, Schema, Table

GOLDEN_NAME: Final = "golden.json"
MAX_GOLDEN_ROWS: Final = 1000
TOLERANCE: Final = 1e-9
"""Largest difference to the golden predictions, relative above 1 and absolute below."""


def golden_from(raw: bytes, manifest: Manifest) -> GoldenRows:
    """
    Parse and check the golden rows of a package.

    Raises:
        InvalidPackage: naming what does not fit the manifest.
    """
    try:
        golden = msgspec.json.decode(raw, type=GoldenRows)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidPackage(f"{manifest.golden}: {exc}") from exc
    n_rows = len(golden.values)
    if not 0 < n_rows <= MAX_GOLDEN_ROWS:
        raise InvalidPackage(f"{manifest.golden}: {n_rows} rows, expected 1 to {MAX_GOLDEN_ROWS}")
    if list(golden.columns) != manifest.schema.names:
        raise InvalidPackage(f"{manifest.golden}: its columns are not the features of the manifest")
    if any(len(row) != manifest.target.n_outputs for row in golden.values):
        raise InvalidPackage(f"{manifest.golden}: expected {manifest.target.n_outputs} predictions in each row")
    for feature in manifest.features:
        column = golden.columns[feature.name]
        if len(column) != n_rows or not all(cell_fits(cell, feature) for cell in column):
            raise InvalidPackage(
                f"{manifest.golden}: column {feature.name!r} does not hold {n_rows} {feature.type} cells"
            )
    return golden


def rows_of(golden: GoldenRows, schema: Schema) -> Rows:
    """The golden rows as a request would bring them."""
    return stored_rows(golden.columns, schema)


def stored_rows(stored: Mapping[str, Sequence[Cell | bool]], schema: Schema) -> Rows:
    """Rows that a package holds column by column, as a request would bring them."""
    columns = [[_cell(cell, feature) for cell in stored[feature.name]] for feature in schema.features]
    return Rows(list(zip(*columns, strict=True)))


def replay(runtime: Runtime, golden: GoldenRows, schema: Schema) -> float:
    """
    Largest difference between the golden predictions and what *runtime* says, row by row and all at once.

    Raises:
        ServingError: the runtime cannot score the rows at all.
    """
    rows = rows_of(golden, schema)
    expected = np.array(golden.values, dtype=np.float64)
    one_by_one = np.vstack([runtime.predict_rows(Rows([row])) for row in rows.values])
    together = runtime.predict(Table.from_rows(rows, schema))
    return max(largest_difference(one_by_one, expected), largest_difference(together, expected))


def largest_difference(found: FloatArray, expected: FloatArray) -> float:
    """Relative above 1, absolute below; infinite for a value that is not finite or a wrong shape."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))


def cell_fits(cell: Cell | bool, feature: Feature) -> bool:
    """Whether a cell that a package holds is of the feature's type."""
    return cell is None or isinstance(cell, float | bool if feature.type in NUMERIC_TYPES else str)


def _cell(cell: Cell | bool, feature: Feature) -> Cell:
    return cell if cell is None or isinstance(cell, str) else float(cell)

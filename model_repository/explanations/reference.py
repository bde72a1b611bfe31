"""What explanations need of a package: rows that stand for the training data, and what matters to the model."""

from typing import Final

import msgspec
import numpy as np

from model_repository.errors import InvalidPackage
from model_repository.golden import cell_fits, stored_rows
from model_repository.manifest import Manifest
from model_repository.tables import FloatArray, Schema, Table

REFERENCE_NAME: Final = "reference.json"
MOST_REFERENCE_ROWS: Final = 1000
MOST_EXEMPLARS: Final = 100


class ReferenceData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``reference.json``."""

    columns: dict[str, list[float | str | bool | None]]
    """Real rows, written as the golden rows are; in ascending order of their predictions."""
    exemplars: list[int]
    """Those of the rows whose values are put in place of a row's own, by their number."""
    impact: list[float]
    """Per feature, in their order: how much the predictions move when its values are shuffled; the largest is 1."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def table(self, schema: Schema) -> Table:
        """All rows."""
        return Table.from_rows(stored_rows(self.columns, schema), schema)

    def ranked(self, most: int) -> list[int]:
        """The features that matter at all, the one of the largest impact first, at most *most*."""
        impact: FloatArray = np.array(self.impact)
        order = np.argsort(-impact, kind="stable")[:most]
        return [place for place in order.tolist() if impact[place] > 0]


def reference_from(raw: bytes, manifest: Manifest) -> ReferenceData:
    """
    Parse and check the reference rows of a package.

    Raises:
        InvalidPackage: naming what does not fit the manifest.
    """
    name = manifest.reference
    try:
        reference = msgspec.json.decode(raw, type=ReferenceData)
    except msgspec.DecodeError as exc:
        raise InvalidPackage(f"{name}: {exc}") from exc
    if list(reference.columns) != manifest.schema.names:
        raise InvalidPackage(f"{name}: its columns are not the features of the manifest")
    n_rows = reference.n_rows
    if not 0 < n_rows <= MOST_REFERENCE_ROWS:
        raise InvalidPackage(f"{name}: {n_rows} rows, expected 1 to {MOST_REFERENCE_ROWS}")
    for feature in manifest.features:
        column = reference.columns[feature.name]
        if len(column) != n_rows or not all(cell_fits(cell, feature) for cell in column):
            raise InvalidPackage(f"{name}: column {feature.name!r} does not hold {n_rows} {feature.type} cells")
    exemplars = reference.exemplars
    if not 0 < len(exemplars) <= MOST_EXEMPLARS or not all(0 <= row < n_rows for row in exemplars):
        raise InvalidPackage(f"{name}: the exemplars are not 1 to {MOST_EXEMPLARS} of its {n_rows} rows")
    if len(reference.impact) != len(manifest.features) or not all(0 <= value <= 1 for value in reference.impact):
        raise InvalidPackage(f"{name}: the impact is not a number from 0 to 1 for each feature")
    return reference

"""Cells that a model cannot take are refused here, before a runtime sees them, so that every runtime says the same."""

from typing import Final

import numpy as np

from model_repository.errors import UnscorableValue
from model_repository.tables import Rows, Schema, Table

MISSING: Final = "is missing, and the model takes no missing values here"
INFINITE: Final = "is infinite, and the model takes finite numbers only here"
_INFINITIES: Final = frozenset({float("inf"), float("-inf")})


class CellRules:
    """Which cells of a table may be missing or infinite; made once per model: a row is scored in microseconds."""

    def __init__(self, schema: Schema) -> None:
        places = list(enumerate(schema.features))
        self._required = [(place, feature) for place, feature in places if not feature.missing_allowed]
        self._finite = [
            (place, feature) for place, feature in places if feature.is_numeric and not feature.infinite_allowed
        ]

    def check_table(self, table: Table) -> None:
        """
        Refuse a table that holds such a cell.

        Raises:
            UnscorableValue: naming the first row and its column.
        """
        for _, feature in self._required:
            name = feature.name
            bad = np.isnan(table.numeric[name]) if feature.is_numeric else table.strings[name].codes < 0
            if bad.any():
                raise UnscorableValue(name, int(bad.argmax()), MISSING)
        for _, feature in self._finite:
            bad = np.isinf(table.numeric[feature.name])
            if bad.any():
                raise UnscorableValue(feature.name, int(bad.argmax()), INFINITE)

    def check_rows(self, rows: Rows) -> None:
        """The same for a few rows."""
        for number, row in enumerate(rows.values):
            for place, feature in self._required:
                if row[place] is None:
                    raise UnscorableValue(feature.name, number, MISSING)
            for place, feature in self._finite:
                if row[place] in _INFINITIES:
                    raise UnscorableValue(feature.name, number, INFINITE)

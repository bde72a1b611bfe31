"""
The one table type between parsing and prediction.

A request of a few rows is kept as `Rows` (Python values, row by row): building arrays for it costs more than scoring
it. Anything larger is a `Table` (arrays, column by column). `Table.from_rows` is the only bridge, so both mean the
same.

Missing is ``None`` in `Rows`, NaN in numeric columns and code -1 in string columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
CodeArray = NDArray[np.int32]
FeatureType = Literal["numeric", "categorical", "boolean", "text", "date"]
Cell = float | str | None
"""A value of one feature: float for numeric and boolean features (0.0 and 1.0), str for the others."""

NUMERIC_TYPES: Final = frozenset({"numeric", "boolean"})


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input column of a model, as its training data had it."""

    name: str
    type: FeatureType
    dtype: str
    """pandas dtype to hand to the original estimator: ``float64``, ``int64``, ``bool``, ``str``, ``category``..."""
    missing_allowed: bool = True
    """Whether the estimator takes a missing value here (found by trying)."""
    infinite_allowed: bool = False
    """Whether the estimator takes an infinite number here (found by trying)."""
    missing_as: Literal["NaN", "None"] = "NaN"
    """What the estimator saw for a missing string in training."""
    categories: list[str | int | float | bool] | None = None
    """The categories of a pandas ``category`` column, in order."""

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers to us (booleans are 0 and 1)."""
        return self.type in NUMERIC_TYPES


@dataclass(frozen=True)
class Schema:
    """The input columns of a model, in the order in which `Rows` hold them."""

    features: tuple[Feature, ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [feature.name for feature in self.features]


@dataclass(slots=True)
class Strings:
    """A dictionary-encoded string column: ``values[codes[i]]`` is row *i*, code -1 is missing."""

    codes: CodeArray
    values: list[str]

    def decoded(self) -> list[str | None]:
        """The column as Python strings, ``None`` for missing."""
        lookup: list[str | None] = [*self.values, None]
        return [lookup[code] for code in self.codes.tolist()]


@dataclass(slots=True)
class Rows:
    """A few rows, each in the order of the schema's features."""

    values: list[Sequence[Cell]]
    kept: dict[str, Sequence[Any]] = field(default_factory=dict)
    """Columns to pass through, untouched: text as the client wrote it (CSV) or JSON values."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.values)


@dataclass(slots=True)
class Table:
    """Many rows, column by column."""

    n_rows: int
    numeric: dict[str, FloatArray]
    strings: dict[str, Strings]
    kept: dict[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Rows, schema: Schema) -> "Table":
        """The same rows as columns."""
        columns: Iterable[Sequence[Cell]] = zip(*rows.values, strict=True) if rows.values else ()
        numeric: dict[str, FloatArray] = {}
        strings: dict[str, Strings] = {}
        for feature, column in zip(schema.features, columns, strict=True):
            if feature.is_numeric:
                numeric[feature.name] = np.array(column, dtype=np.float64)  # None becomes NaN
            else:
                strings[feature.name] = encoded(column)
        return cls(rows.n_rows, numeric, strings, rows.kept)

    def taken(self, places: NDArray[np.intp]) -> "Table":
        """The features of these rows, in this order."""
        numeric = {name: column[places] for name, column in self.numeric.items()}
        strings = {name: Strings(column.codes[places], column.values) for name, column in self.strings.items()}
        return Table(len(places), numeric, strings)


def encoded(column: Iterable[Any]) -> Strings:
    """Dictionary-encode Python strings; ``None`` is missing."""
    places: dict[str, int] = {}
    codes = [-1 if value is None else places.setdefault(value, len(places)) for value in column]
    return Strings(np.array(codes, dtype=np.int32), list(places))

"""What a sample of training rows says of the columns that an estimator takes."""

import datetime
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from model_repository.cells import category_text
from model_repository.errors import CannotPackage
from model_repository.runtimes.estimator import Expects, is_known_dtype
from model_repository.tables import Feature, FeatureType

TEXT_MEAN_LENGTH: Final = 30
TEXT_DISTINCT_SHARE: Final = 0.5
"""A string column is text, not categorical, when its values are this long on average and mostly differ."""

RawCell = float | str | bool | None
Kind = Literal["str", "bool", "number"]
_KINDS: Final[dict[Kind, tuple[type, ...]]] = {
    "str": (str,),
    "bool": (bool, np.bool_),
    "number": (int, float, np.integer, np.floating),
}


def input_columns(estimator: Any, sample: pd.DataFrame, target: str) -> tuple[list[str], Expects]:
    """
    The columns of *sample* that the estimator needs, in its order, and what it was fitted on.

    Raises:
        CannotPackage: the sample lacks columns, or has another number of them than an estimator without names takes.
    """
    if not isinstance(sample, pd.DataFrame):
        raise CannotPackage(f"the sample must be a pandas DataFrame, not {type(sample).__name__}")
    if not all(isinstance(column, str) for column in sample.columns) or not sample.columns.is_unique:
        raise CannotPackage("the sample's column names must be strings, each of them once")
    others = [column for column in sample.columns if column != target]
    names = _fitted_names(estimator, others)
    if names is None:
        count = getattr(estimator, "n_features_in_", len(others))
        if count != len(others):
            raise CannotPackage(
                f"the estimator was fitted on an array of {count} columns, the sample has {len(others)} besides "
                f"{target!r}"
            )
        return others, "array"
    used = _used_names(estimator, names)
    if missing := [name for name in used if name not in sample.columns]:
        raise CannotPackage(f"the sample lacks columns that the estimator needs: {', '.join(missing)}")
    return used, "dataframe"


def described(column: pd.Series) -> Feature:
    """
    Name, type and dtype of a column, as far as its values tell.

    Raises:
        CannotPackage: values that no request could bring, or of several types.
    """
    name, dtype = str(column.name), str(column.dtype)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _described_category(name, column.dtype.categories)
    if dtype == "object":
        return _described_objects(column)
    if not is_known_dtype(dtype):
        raise CannotPackage(
            f"column {name!r}: dtype {dtype} is not supported; numbers, booleans, strings, pandas categories and dates "
            "(naive or UTC) are"
        )
    if dtype in ("bool", "boolean"):
        return Feature(name=name, type="boolean", dtype=dtype)
    if dtype.startswith("datetime64"):
        return Feature(name=name, type="date", dtype=dtype)
    if dtype in ("str", "string"):
        return Feature(name=name, type=_string_type(column), dtype=dtype)
    return Feature(name=name, type="numeric", dtype=dtype)


def raw_cells(column: pd.Series, feature: Feature) -> list[RawCell]:
    """The column as JSON values that a request could bring; ``None`` is missing."""
    missing = column.isna().tolist()
    return [
        None if is_missing else _raw_cell(value, feature)
        for value, is_missing in zip(column.tolist(), missing, strict=True)
    ]


def _raw_cell(value: Any, feature: Feature) -> RawCell:
    if feature.type == "boolean":
        return bool(value)
    if feature.type == "numeric":
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return category_text(value) if feature.dtype == "category" else str(value)


def _fitted_names(estimator: Any, columns: list[str]) -> list[str] | None:
    """The column names that the estimator was fitted with, or none if it was fitted on an array."""
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if not names or names == [f"Column_{place}" for place in range(len(names))]:  # LightGBM's names for an array
        return None
    spaced = {column.replace(" ", "_"): column for column in columns}  # LightGBM has no blanks in names
    return [name if name in columns else spaced.get(name, name) for name in names]


def _used_names(estimator: Any, names: list[str]) -> list[str]:
    """Without the columns that a ColumnTransformer in front drops."""
    first = estimator
    while isinstance(first, Pipeline):
        first = first.steps[0][1]
    if not isinstance(first, ColumnTransformer):
        return names
    used: set[int] = set()
    for name, transformer, _ in first.transformers_:
        if not (isinstance(transformer, str) and transformer == "drop"):
            used.update(first._transformer_to_input_indices[name])  # noqa: SLF001  # public nowhere
    return [name for place, name in enumerate(names) if place in used]


def _described_category(name: str, categories: pd.Index) -> Feature:
    values = categories.tolist()
    kind = _kind_of(values)
    if kind is None:
        raise CannotPackage(f"column {name!r}: its categories must be all strings, all numbers or all booleans")
    if len({category_text(value) for value in values}) != len(values):
        raise CannotPackage(f"column {name!r}: two of its categories are written alike")
    return Feature(name=name, type="categorical", dtype="category", categories=values)


def _described_objects(column: pd.Series) -> Feature:
    """A column of Python objects, which says by its values alone what it is."""
    name = str(column.name)
    values = column[column.notna()].tolist()
    kind = _kind_of(values)
    if kind is None:
        kinds = ", ".join(sorted({type(value).__name__ for value in values})) or "nothing but missing values"
        raise CannotPackage(
            f"column {name!r}: holds {kinds}; cast it to numbers, booleans, strings or datetime64 before fitting"
        )
    types: dict[Kind, FeatureType] = {"str": _string_type(column), "bool": "boolean", "number": "numeric"}
    missing = column[column.isna()].tolist()
    missing_as: Literal["NaN", "None"] = "None" if missing and missing[0] is None else "NaN"
    return Feature(name=name, type=types[kind], dtype="object", missing_as=missing_as)


def _kind_of(values: list[Any]) -> Kind | None:
    """The one kind that all *values* are of; booleans are not numbers here."""
    for kind, types in _KINDS.items():
        if values and all(isinstance(value, types) for value in values):
            return None if kind == "number" and any(isinstance(value, bool) for value in values) else kind
    return None


def _string_type(column: pd.Series) -> FeatureType:
    values = column[column.notna()]
    distinct = {str(value) for value in values.tolist()}
    if not distinct:
        return "categorical"
    mean_length = sum(map(len, distinct)) / len(distinct)
    is_text = mean_length >= TEXT_MEAN_LENGTH and len(distinct) >= TEXT_DISTINCT_SHARE * len(values)
    return "text" if is_text else "categorical"

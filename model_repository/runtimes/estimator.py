"""The original estimator behind the `Runtime` port: rows become the DataFrame that it saw in training."""

import re
import warnings
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from model_repository.cells import category_text
from model_repository.checks import CellRules
from model_repository.errors import ScoringFailed, UnscorableTable, UnscorableValue
from model_repository.predictions import Target
from model_repository.tables import Feature, FloatArray, Rows, Schema, Strings, Table

Expects = Literal["dataframe", "array"]

_INTEGER: Final = re.compile(r"u?int(8|16|32|64)")
_DATE: Final = re.compile(r"datetime64\[(s|ms|us|ns)(, UTC)?\]")
_STR: Final = "str" if int(pd.__version__.split(".", 1)[0]) >= 3 else "object"
"""pandas 2 has no string type of its own under this name: it would turn missing values into the text ``nan``."""
_PLAIN_DTYPES: Final = frozenset(
    {"float16", "float32", "float64", "bool", "boolean", "object", "str", "string", "category"}
)
_NULLABLE_NUMBERS: Final = frozenset(
    {"Float32", "Float64", *(f"{u}nt{n}" for u in ("I", "UI") for n in (8, 16, 32, 64))}
)
_LIBRARIES: Final = frozenset({"sklearn", "lightgbm", "xgboost"})
_LONGEST_MESSAGE: Final = 300


class EstimatorRuntime:
    """
    Scores by the estimator's own ``predict_proba``, ``predict`` or ``score_samples``, on one thread.

    Args:
        estimator: fitted; its ``n_jobs`` are changed.
        expects: what it was fitted on.
    """

    def __init__(self, estimator: Any, schema: Schema, target: Target, expects: Expects = "dataframe") -> None:
        _use_one_thread(estimator)
        self._estimator = estimator
        self._schema = schema
        self._target = target
        self._expects = expects
        self._rules = CellRules(schema)

    def predict(self, table: Table) -> FloatArray:
        """
        Score columns.

        Raises:
            UnscorableValue: a cell that the model cannot take.
            UnscorableTable: the estimator refused the rows with a ValueError.
            ScoringFailed: it raised anything else.
        """
        self._rules.check_table(table)
        inputs = estimator_inputs(table, self._schema, self._expects)
        try:
            return estimator_outputs(self._estimator, inputs, self._target)
        except ValueError as exc:
            message = (str(exc).splitlines() or [""])[0][:_LONGEST_MESSAGE]
            raise UnscorableTable(f"the model refused the rows: {message}") from exc
        except Exception as exc:
            raise ScoringFailed(f"the model failed with {type(exc).__name__}") from exc

    def predict_rows(self, rows: Rows) -> FloatArray:
        """Score a few rows; a DataFrame is made of them all the same."""
        return self.predict(Table.from_rows(rows, self._schema))


def estimator_inputs(table: Table, schema: Schema, expects: Expects) -> Any:
    """
    The features as a DataFrame with the dtypes of training, or as an array.

    Raises:
        UnscorableValue: a text that is not a date in a date column.
    """
    columns = {feature.name: _column(feature, table) for feature in schema.features}
    if expects == "array":
        return _as_array(columns, table.n_rows)
    return pd.DataFrame(columns, index=pd.RangeIndex(table.n_rows), copy=False)


def estimator_outputs(estimator: Any, inputs: Any, target: Target) -> FloatArray:
    """
    What the estimator answers for *inputs*, shape ``(n_rows, target.n_outputs)``.

    A classifier without ``predict_proba`` gives 1.0 to the class that it predicts and 0.0 to the others.
    """
    with warnings.catch_warnings():  # not thread-safe, but the worst that a race does is to show or hide a warning
        warnings.simplefilter("ignore")
        if target.type == "Regression":
            return np.asarray(estimator.predict(inputs), dtype=np.float64).reshape(len(inputs), 1)
        if target.type == "Anomaly":
            return -np.asarray(estimator.score_samples(inputs), dtype=np.float64).reshape(len(inputs), 1)
        classes = np.asarray(estimator.classes_).tolist()
        order = [classes.index(label) for label in target.class_labels or ()]
        if hasattr(estimator, "predict_proba"):
            return np.ascontiguousarray(np.asarray(estimator.predict_proba(inputs), dtype=np.float64)[:, order])
        predicted = np.asarray(estimator.predict(inputs)).reshape(len(inputs), 1)
        labels = np.asarray(estimator.classes_)[order]
        matches: FloatArray = (predicted == labels).astype(np.float64)
        return matches


def is_known_dtype(dtype: str) -> bool:
    """Whether a column of this pandas dtype can be made again."""
    known = dtype in _PLAIN_DTYPES or dtype in _NULLABLE_NUMBERS
    return known or _INTEGER.fullmatch(dtype) is not None or _DATE.fullmatch(dtype) is not None


def _column(feature: Feature, table: Table) -> Any:
    if feature.is_numeric:
        return _number_column(feature, table.numeric[feature.name])
    strings = table.strings[feature.name]
    if feature.type == "date":
        return _date_column(feature, strings)
    if feature.dtype == "category":
        return _category_column(feature, strings)
    missing = None if feature.missing_as == "None" else np.nan
    values = np.array([*strings.values, missing], dtype=object)[strings.codes]
    return pd.Series(values, dtype=_STR if feature.dtype == "str" else feature.dtype)


def _number_column(feature: Feature, values: FloatArray) -> Any:
    """
    Numbers or booleans as in training where the values fit, and as float64 (or objects) where they do not.

    That is what pandas itself would have made of such a column.
    """
    dtype = feature.dtype
    if dtype == "object" or (dtype == "bool" and np.isnan(values).any()):
        to_cell: Callable[[float], object] = bool if feature.type == "boolean" else float
        missing = None if feature.missing_as == "None" else np.nan
        cells = [missing if value != value else to_cell(value) for value in values.tolist()]  # NaN
        return pd.Series(cells, dtype=object)
    if dtype == "boolean":
        return pd.arrays.BooleanArray(values == 1.0, np.isnan(values))
    if dtype in _NULLABLE_NUMBERS:
        whole = dtype.startswith("Float") or _fits(values[~np.isnan(values)], dtype.lower())
        return pd.array(values, dtype=dtype if whole else "Float64")
    if _INTEGER.fullmatch(dtype):
        return values.astype(dtype) if _fits(values, dtype) else values
    return values.astype(dtype, copy=False)


def _fits(values: FloatArray, dtype: str) -> bool:
    """Whether all *values* are whole numbers of this integer type."""
    bounds = np.iinfo(dtype)
    in_range = (values >= float(bounds.min)) & (values < float(bounds.max) + 1)
    return bool((in_range & (values == np.trunc(values))).all())


def _category_column(feature: Feature, strings: Strings) -> Any:
    """A pandas categorical; a text that is none of the categories is missing, as pandas has it."""
    categories = feature.categories or []
    codes = {category_text(category): code for code, category in enumerate(categories)}
    lookup = np.array([*(codes.get(value, -1) for value in strings.values), -1], dtype=np.intp)
    return pd.Categorical.from_codes(lookup[strings.codes], categories=pd.Index(categories))


def _date_column(feature: Feature, strings: Strings) -> Any:
    # a zone-less text is taken as UTC, so that texts with and without zone can stand in one column
    parsed = pd.to_datetime(pd.Series(strings.values, dtype=object), format="ISO8601", utc=True, errors="coerce")
    bad = np.flatnonzero(parsed.isna())
    if bad.size:
        row = int(np.flatnonzero(strings.codes == bad[0])[0])
        raise UnscorableValue(feature.name, row, f"{strings.values[bad[0]]!r} is not a date in ISO 8601")
    dates = parsed if feature.dtype.endswith("UTC]") else parsed.dt.tz_localize(None)
    dates = dates.astype(feature.dtype)
    return pd.concat([dates, pd.Series([pd.NaT], dtype=feature.dtype)]).array[strings.codes]


def _as_array(columns: dict[str, Any], n_rows: int) -> Any:
    arrays = [np.asarray(column) for column in columns.values()]
    if any(array.dtype.kind not in "biuf" for array in arrays):
        stacked = np.empty((n_rows, len(arrays)), dtype=object)
        for place, array in enumerate(arrays):
            stacked[:, place] = array
        return stacked
    return np.column_stack(arrays)


def _use_one_thread(estimator: Any) -> None:
    """Set ``n_jobs=1`` wherever it stands: the server runs requests side by side and threads inside them only hurt."""
    waiting = [estimator]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
            waiting.extend(value)
        elif _root_module(value) in _LIBRARIES or hasattr(value, "get_params"):
            if _root_module(value) == "xgboost" and type(value).__name__ == "Booster":
                value.set_param({"nthread": 1})
            attributes = getattr(value, "__dict__", {})
            if "n_jobs" in attributes:
                value.n_jobs = 1
            waiting.extend(attributes.values())


def _root_module(value: object) -> str:
    return type(value).__module__.partition(".")[0]

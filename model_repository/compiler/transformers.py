"""
Fitted scikit-learn transformers, applied to symbolic columns.

Only exact types are taken: a subclass may do anything. Encoders are not re-implemented: the fitted encoder itself is
asked what it makes of each of its categories, of a missing and of an unknown value, and its answers become the table.
So every option of an encoder (drop, infrequent categories, unknown values...) is right by construction.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.cells import category_text
from model_repository.compiler.columns import Column, Fitted, Keys, Numbers, Source, States, Texts, elementwise, number
from model_repository.compiler.errors import NotCompilable
from model_repository.errors import CannotPackage
from model_repository.plan import UNARY_OPS, Edges, NumberKeys, Op, StringKeys

_UNKNOWN_TEXT: Final = "\0 a value that no training table holds"
_UFUNCS: Final = {"absolute": "abs"} | {
    name: name for name in UNARY_OPS if name not in {"isnan", "zero-as-missing", "float32", "abs"}
}


def transformed(step: Fitted, columns: list[Column]) -> list[Column]:
    """
    What *step* makes of *columns*.

    Raises:
        NotCompilable: it is no transformer that works column by column, or it has an option that is not supported.
    """
    if step is None or step == "passthrough":
        return columns
    if step == "drop":
        return []
    kind = type(step)
    name = kind.__name__
    if not kind.__module__.startswith("sklearn."):
        raise NotCompilable(f"{name}: not a scikit-learn transformer")
    if name in _TRANSFORMERS:
        return _TRANSFORMERS[name](step, columns)
    if kind.__module__.startswith("sklearn.feature_selection."):
        return [column for column, kept in zip(columns, step.get_support(), strict=True) if kept]
    raise NotCompilable(f"{name}: no plan for this transformer")


def _pipeline(step: Fitted, columns: list[Column]) -> list[Column]:
    for _, inner in step.steps:
        columns = transformed(inner, columns)
    return columns


def _column_transformer(step: Fitted, columns: list[Column]) -> list[Column]:
    out: list[Column] = []
    for _, inner, chosen in step.transformers_:
        out += transformed(inner, [columns[at] for at in _positions(chosen, columns, step)])
    return out


def _positions(chosen: Any, columns: list[Column], step: Fitted) -> Sequence[int]:
    """Which columns a ColumnTransformer hands to one of its parts."""
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            raise NotCompilable("ColumnTransformer: a slice of names")
        return range(len(columns))[chosen]
    chosen = [chosen] if isinstance(chosen, str | int) else list(chosen)
    if all(isinstance(one, bool | np.bool_) for one in chosen) and len(chosen) == len(columns):
        return [at for at, kept in enumerate(chosen) if kept]
    names = list(getattr(step, "feature_names_in_", [])) or [column.name for column in columns]
    try:
        return [names.index(one) if isinstance(one, str) else range(len(columns))[int(one)] for one in chosen]
    except (ValueError, IndexError) as exc:
        raise NotCompilable(f"ColumnTransformer: columns {chosen!r} are not columns of its input") from exc


def _feature_union(step: Fitted, columns: list[Column]) -> list[Column]:
    if step.transformer_weights:
        raise NotCompilable("FeatureUnion: transformer_weights")
    return [column for _, inner in step.transformer_list for column in transformed(inner, columns)]


def _simple_imputer(step: Fitted, columns: list[Column]) -> list[Column]:
    missing = step.missing_values
    is_nan = isinstance(missing, float) and np.isnan(missing)
    out: list[Column] = []
    for column, statistic in zip(columns, step.statistics_, strict=True):
        empty = isinstance(statistic, float) and np.isnan(statistic)
        if empty and not step.keep_empty_features:
            continue
        match column:
            case Texts(fill=None, missing_as=marker) if (missing is None and marker == "None") or (
                is_nan and marker == "NaN"
            ):
                out.append(replace(column, fill=str(statistic)))
            case Texts():
                raise NotCompilable(f"SimpleImputer: missing_values={missing!r} on strings")
            case _ if not is_nan:
                raise NotCompilable(f"SimpleImputer: missing_values={missing!r}")
            case _:
                out.append(elementwise(column, Op("fill", [float(0 if empty else statistic)])))
    if step.add_indicator:
        out += _missing_indicator(step.indicator_, columns)
    return out


def _missing_indicator(step: Fitted, columns: list[Column]) -> list[Column]:
    out: list[Column] = []
    for at in step.features_:
        column = columns[at]
        match column:
            case Texts(fill=None):
                source = Source(column.input, (), StringKeys([]), 2, ())
                out.append(States.from_dense(source, np.array([1.0, 0.0])))
            case Texts():
                raise NotCompilable("MissingIndicator: on strings that were imputed before")
            case _:
                out.append(elementwise(column, Op("isnan")))
    return out


def _per_column(ops: Callable[[Fitted, int], list[Op]]) -> "Handler":
    """A transformer that does the same few elementwise steps to each column, with numbers of its own."""

    def handle(step: Fitted, columns: list[Column]) -> list[Column]:
        return [elementwise(column, *ops(step, at)) for at, column in enumerate(columns)]

    return handle


def _standard_scaler(step: Fitted, at: int) -> list[Op]:
    shift = [Op("sub", [float(step.mean_[at])])] if step.with_mean else []
    return shift + ([Op("div", [float(step.scale_[at])])] if step.with_std else [])


def _min_max_scaler(step: Fitted, at: int) -> list[Op]:
    low, high = step.feature_range
    clip = [Op("clip", [float(low), float(high)])] if step.clip else []
    return [Op("mul", [float(step.scale_[at])]), Op("add", [float(step.min_[at])]), *clip]


def _max_abs_scaler(step: Fitted, at: int) -> list[Op]:
    clip = [Op("clip", [-1.0, 1.0])] if getattr(step, "clip", False) else []
    return [Op("div", [float(step.scale_[at])]), *clip]


def _robust_scaler(step: Fitted, at: int) -> list[Op]:
    shift = [Op("sub", [float(step.center_[at])])] if step.with_centering else []
    return shift + ([Op("div", [float(step.scale_[at])])] if step.with_scaling else [])


def _power_transformer(step: Fitted, at: int) -> list[Op]:
    ops = [Op(step.method, [float(step.lambdas_[at])])]
    return ops + (_standard_scaler(step._scaler, at) if step.standardize else [])  # noqa: SLF001  # no public name for it


def _function_transformer(step: Fitted, columns: list[Column]) -> list[Column]:
    if step.func is None or _only_checks(step.func):
        return columns
    name = _UFUNCS.get(getattr(step.func, "__name__", ""))
    if not isinstance(step.func, np.ufunc) or name is None or step.kw_args:
        raise NotCompilable(
            f"FunctionTransformer: {getattr(step.func, '__name__', step.func)!r} is not a known numpy ufunc"
        )
    return [elementwise(column, Op(name)) for column in columns]


def _only_checks(function: Any) -> bool:
    """HistGradientBoosting hands its numeric columns through ``check_array``, which changes nothing of them."""
    return isinstance(function, partial) and function.func.__module__ == "sklearn.utils.validation"


def _k_bins(step: Fitted, columns: list[Column]) -> list[Column]:
    out: list[Column] = []
    for column, edges in zip(columns, step.bin_edges_, strict=True):
        if not isinstance(number(column), Numbers):
            raise NotCompilable("KBinsDiscretizer: behind an encoder")
        assert isinstance(column, Numbers)
        n_bins = len(edges) - 1
        # Inner edges may repeat after rounding: equal ones become one key, behind which the bins are counted on.
        inner, counts = np.unique(np.asarray(edges[1:-1], dtype=np.float64), return_counts=True)
        ordinal = np.concatenate([[0], np.cumsum(counts), [0, 0]]).astype(np.float64)
        n_states = len(inner) + 3
        source = Source(column.input, column.ops, Edges(inner), n_states, (n_states - 2, n_states - 1))
        if step.encode == "ordinal":
            out.append(States.from_dense(source, ordinal))
        else:
            bins = ordinal[: len(inner) + 1]
            out += [
                States(source, 0.0, np.flatnonzero(bins == b), np.ones(int((bins == b).sum()))) for b in range(n_bins)
            ]
    return out


def _encoder(step: Fitted, columns: list[Column]) -> list[Column]:
    """OneHotEncoder, OrdinalEncoder, TargetEncoder: ask the fitted encoder."""
    if type(step).__name__ == "TargetEncoder" and step.target_type_ == "multiclass":
        raise NotCompilable("TargetEncoder: with several classes")
    out: list[Column] = []
    for at, column in enumerate(columns):
        source, states = _states(column, list(step.categories_[at]), type(step).__name__)
        answers, refused = _asked(step, at, states)
        known = replace(source, refused=(*source.refused, *refused))
        for j in range(answers.shape[1]):
            values = answers[:, [j]]
            filled = values.nonzero()[0]
            out.append(States(known, 0.0, filled, np.asarray(values[filled].todense(), dtype=np.float64).ravel()))
    return out


def _states(column: Column, categories: list[Any], encoder: str) -> tuple[Source, list[Any]]:
    """How a value finds its state, and for each state what to show to the encoder."""
    present = [value for value in categories if not _is_missing(value)]
    match column:
        case Texts():
            closed = column.categories is not None
            present = list(dict.fromkeys([*(column.categories or ()), *present]))
            if not closed and not all(isinstance(value, str) for value in present):
                raise NotCompilable(f"{encoder}: categories of a string column that are not strings")
            marker: Any = column.fill if column.fill is not None else {"NaN": np.nan, "None": None}[column.missing_as]
            by: Keys = StringKeys([category_text(value) for value in present])
            unknown: Any = marker if closed else _UNKNOWN_TEXT
            return Source(column.input, (), by, len(present) + 2, ()), [*present, marker, unknown]
        case Numbers():
            if any(isinstance(value, str) for value in present):
                raise CannotPackage(
                    f"column {column.name!r}: the sample holds numbers, but {encoder} was fitted on strings; give the "
                    "sample with the dtypes of the training data (Parquet keeps them, CSV does not)"
                )
            try:
                keys = np.array([float(value) for value in present])
            except (TypeError, ValueError) as exc:
                raise NotCompilable(f"{encoder}: categories of a number that are not numbers") from exc
            order = np.argsort(keys)
            present, keys = [present[i] for i in order], keys[order]
            other = float(np.ceil(keys[-1])) + 1.5 if len(keys) else 0.5
            return Source(column.input, column.ops, NumberKeys(keys), len(keys) + 2, ()), [*present, np.nan, other]
        case States():
            return column.source, column.dense().tolist()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _asked(step: Fitted, at: int, states: list[Any]) -> tuple[Any, tuple[int, ...]]:
    """The encoder's answer (sparse, shape ``(n_states, n_columns)``) for each state, and the states that it refuses."""
    from scipy import sparse  # only the compiler needs it

    first, n_columns = _slice_of(step, at)
    shown = np.empty((len(states), len(step.categories_)), dtype=object)
    for other, categories in enumerate(step.categories_):
        shown[:, other] = [categories[0]] * len(states)
    for row, state in enumerate(states):
        shown[row, at] = state
    known = {value for value in step.categories_[at].tolist() if not _is_missing(value)}
    n_known = next((row for row, state in enumerate(states) if _is_missing(state) or state not in known), len(states))
    rows, refused = [_answer(step, shown[:n_known], first, n_columns)] if n_known else [], []
    for state in range(n_known, len(states)):
        try:
            rows.append(_answer(step, shown[[state]], first, n_columns))
        except (ValueError, TypeError):
            refused.append(state)
            rows.append(sparse.csr_matrix((1, n_columns)))
    return sparse.vstack(rows).tocsr(), tuple(refused)


def _answer(step: Fitted, shown: NDArray[Any], first: int, n_columns: int) -> Any:
    from scipy import sparse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names and unknown categories, both on purpose
        answer = step.transform(shown)
    if hasattr(answer, "to_numpy"):
        answer = answer.to_numpy()
    matrix = sparse.csr_matrix(answer) if not sparse.issparse(answer) else answer.tocsr()
    return matrix[:, first : first + n_columns].astype(np.float64)


def _slice_of(step: Fitted, at: int) -> tuple[int, int]:
    """Where the columns of feature *at* stand in the encoder's output."""
    if type(step).__name__ != "OneHotEncoder":
        return at, 1
    widths = step._n_features_outs  # noqa: SLF001  # no public name for it; the golden rows would show a change
    return int(sum(widths[:at])), int(widths[at])


Handler = Callable[[Fitted, list[Column]], list[Column]]
_TRANSFORMERS: Final[dict[str, Handler]] = {
    "Pipeline": _pipeline,
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _feature_union,
    "SimpleImputer": _simple_imputer,
    "MissingIndicator": _missing_indicator,
    "StandardScaler": _per_column(_standard_scaler),
    "MinMaxScaler": _per_column(_min_max_scaler),
    "MaxAbsScaler": _per_column(_max_abs_scaler),
    "RobustScaler": _per_column(_robust_scaler),
    "PowerTransformer": _per_column(_power_transformer),
    "FunctionTransformer": _function_transformer,
    "KBinsDiscretizer": _k_bins,
    "OneHotEncoder": _encoder,
    "OrdinalEncoder": _encoder,
    "TargetEncoder": _encoder,
}


def gives_sparse(step: Fitted, sparse_input: bool = False) -> bool:
    """Whether a fitted transformer hands on a sparse matrix, in which a zero is no entry at all."""
    match type(step).__name__:
        case "Pipeline":
            for _, inner in step.steps:
                sparse_input = gives_sparse(inner, sparse_input)
            return sparse_input
        case "ColumnTransformer":
            return bool(step.sparse_output_)
        case "OneHotEncoder":
            return bool(step.sparse_output)
        case "KBinsDiscretizer":
            return bool(step.encode == "onehot")
        case _:
            return sparse_input

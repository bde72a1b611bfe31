"""What an explanation answers: arrays with one row per row of the request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from model_repository.predictions import Algorithm, ExplanationOptions, Target
from model_repository.tables import FloatArray

MOST_XEMP: Final = 10
"""Explanations per row that may be asked of the exemplar method."""


@dataclass(frozen=True, slots=True)
class ShapWarnings:
    """How far the sums missed the predictions."""

    mismatch_row_count: int
    """Rows whose base value and strengths do not add up to their prediction."""
    max_normalized_mismatch: float
    """The largest difference among them, relative where the prediction is above 1."""

    @classmethod
    def together(cls, warnings: Sequence["ShapWarnings"]) -> "ShapWarnings | None":
        """Those of several portions as one; ``None`` for none."""
        if not warnings:
            return None
        rows = sum(one.mismatch_row_count for one in warnings)
        return cls(rows, max(one.max_normalized_mismatch for one in warnings))


@dataclass(frozen=True, slots=True)
class Explanations:
    """
    The chosen features of each row, strongest first, per explained class.

    Shapes: *n* rows, *c* explained classes (1 unless multiclass), *k* explanations.
    """

    algorithm: Algorithm
    classes: NDArray[np.intp]
    """``(n, c)``: whose prediction a positive strength raises, as a place in ``target.class_labels`` (0 without)."""
    features: NDArray[np.int32]
    """``(n, c, k)``: place in the schema, -1 where there is no further explanation, or none for the row at all."""
    strengths: FloatArray
    """``(n, c, k)``; NaN where there is no explanation."""
    symbols: NDArray[np.int8] | None = None
    """``(n, c, k)``: places in `symbols.SYMBOLS`; not for SHAP."""
    base_value: float = 0.0
    """SHAP: what the strengths start from."""
    remaining: FloatArray | None = None
    """SHAP, ``(n,)``: what the features that were not chosen add up to."""
    standard_errors: FloatArray | None = None
    """SHAP by sampling, ``(n, c, k)``: standard error of each strength. ``None`` where the values are exact."""
    warnings: ShapWarnings | None = None
    """SHAP: set when base value, strengths and rest do not add up to the prediction."""


def strongest(strengths: FloatArray, count: int | None) -> NDArray[np.intp]:
    """
    Places of the largest by size along the last axis, the largest first; of all, equals in their order.

    Args:
        strengths: shape ``(..., n_features)``.
        count: how many, at most ``n_features``; ``None`` for all.
    """
    kind: Literal["stable", "quicksort"] = "stable" if count is None else "quicksort"  # half the time
    order: NDArray[np.intp] = np.argsort(-np.abs(strengths), axis=-1, kind=kind)
    return order[..., :count]


def n_explained_classes(target: Target, options: ExplanationOptions) -> int:
    """How many classes are explained in each row; 1 for models without."""
    return len(options.classes) or options.top_classes if target.type == "Multiclass" else 1


def explained_rows(predictions: FloatArray, target: Target, options: ExplanationOptions) -> NDArray[np.bool_]:
    """
    Which rows the thresholds leave: below the low or above the high one; all without thresholds.

    Args:
        predictions: shape ``(n_rows, n_outputs)``. Compared is the number, the probability of the positive class, or
            that of the likeliest class.
    """
    values = predictions.max(axis=1) if target.type == "Multiclass" else predictions[:, 0]
    low, high = options.threshold_low, options.threshold_high
    if options.algorithm == "shap" or (low is None and high is None):
        return np.ones(len(values), dtype=bool)
    below = values < low if low is not None else np.zeros(len(values), dtype=bool)
    above = values > high if high is not None else np.zeros(len(values), dtype=bool)
    return np.asarray(below | above)


def explained_classes(predictions: FloatArray, target: Target, options: ExplanationOptions) -> NDArray[np.intp]:
    """The classes to explain in each row, shape ``(n_rows, n_explained)``."""
    n_rows = len(predictions)
    if target.type != "Multiclass":
        return np.zeros((n_rows, 1), dtype=np.intp)
    if options.classes:
        return np.tile(np.array(options.classes, dtype=np.intp), (n_rows, 1))
    likeliest: NDArray[np.intp] = np.argsort(-predictions, axis=1, kind="stable")
    return likeliest[:, : options.top_classes]

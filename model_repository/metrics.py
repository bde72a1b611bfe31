"""How well outcomes are predicted, in a few figures that people know."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.predictions import Target, label_codes
from model_repository.tables import FloatArray

_LEAST_PROBABILITY: Final = 1e-15
"""A probability of 0 for what happened would be an infinite loss."""


def metrics_of(outcomes: Sequence[Any], predictions: FloatArray, target: Target) -> dict[str, float]:
    """
    Figures by name: of a regression ``RMSE``, ``MAE`` and ``R2``; of a classification ``log loss``, ``accuracy`` and,
    with two classes, ``AUC``. A figure that these rows do not define is left out, and an anomaly score has none.

    Args:
        outcomes: what happened; rows where it is missing, or no class of the model, do not count.
        predictions: shape ``(n_rows, target.n_outputs)``.
    """
    if target.type == "Anomaly":
        return {}
    if target.class_labels is None:
        found = _of_numbers(np.array(outcomes, dtype=np.float64), predictions[:, 0])
    else:
        places = {label: place for place, label in enumerate(target.class_labels)}
        codes = np.array([places.get(outcome, -1) for outcome in outcomes])
        known = codes >= 0
        found = _of_classes(codes[known], predictions[known], target) if known.any() else {}
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _of_numbers(outcomes: FloatArray, predictions: FloatArray) -> dict[str, float]:
    known = np.isfinite(outcomes)
    if not known.any():
        return {}
    outcomes, predictions = outcomes[known], predictions[known]
    errors = predictions - outcomes
    spread = np.square(outcomes - outcomes.mean()).sum()
    r2 = 1 - np.square(errors).sum() / spread if spread > 0 else np.nan
    return {"RMSE": np.sqrt(np.square(errors).mean()), "MAE": np.abs(errors).mean(), "R2": r2}


def _of_classes(codes: NDArray[np.intp], predictions: FloatArray, target: Target) -> dict[str, float]:
    of_outcome = np.clip(predictions[np.arange(len(codes)), codes], _LEAST_PROBABILITY, 1.0)
    found = {"log loss": float(-np.log(of_outcome).mean())}
    found["accuracy"] = float((label_codes(predictions, target) == codes).mean())
    if target.type == "Binary":
        found["AUC"] = _auc(codes == 0, predictions[:, 0])
    return found


def _auc(positive: NDArray[np.bool_], scores: FloatArray) -> float:
    """How often a positive row has a higher score than a negative one; a tie counts half."""
    above, below = scores[positive][:, None], scores[~positive][None]
    if not above.size or not below.size:
        return np.nan
    return float((above > below).mean() + (above == below).mean() / 2)

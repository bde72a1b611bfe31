"""What a model answers, and the port behind which it answers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_repository.tables import FloatArray, Rows, Table

TargetType = Literal["Regression", "Binary", "Multiclass", "Anomaly"]
ClassLabel = str | int | float | bool


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is predicted."""

    name: str
    type: TargetType
    class_labels: list[ClassLabel] | None = None
    """Classification only; for a binary target the positive class comes first."""
    threshold: float = 0.5
    """Binary only: a row is positive when its probability is *above* this."""
    usual_range: tuple[float, float] | None = None
    """Regression only: Tukey's fences of the predictions on the sample; outside them a prediction is an outlier."""

    @property
    def n_outputs(self) -> int:
        """Columns of the array that a runtime returns."""
        return len(self.class_labels) if self.class_labels else 1


Keep = tuple[str, ...] | Literal["all"]
"""Columns of the input to hand through to the output: by name, in that order, or all in input order."""
DEFAULT_DECIMALS: Final = 10

Algorithm = Literal["xemp", "shap"]


@dataclass(frozen=True, slots=True)
class ExplanationOptions:
    """What a request asks of its explanations."""

    algorithm: Algorithm
    count: int | None = 3
    """Most explanations per row (and class), 1 or more; ``None`` is one per feature, for SHAP only."""
    threshold_low: float | None = None
    """With either threshold only rows that are below the low or above the high one are explained; not for SHAP."""
    threshold_high: float | None = None
    top_classes: int = 1
    """Multiclass: how many of each row's likeliest classes to explain."""
    classes: tuple[int, ...] = ()
    """Multiclass: explain these (places in ``target.class_labels``), in this order, instead of the likeliest."""


@dataclass(frozen=True, slots=True)
class ForecastOptions:
    """Which forecasts of a time series are wanted: one forecast point, or all in a range."""

    point: datetime | None = None
    """Without one, the latest that the rows have."""
    start: datetime | None = None
    """First time that is forecast, with *end*, which is not any more: from every forecast point there is."""
    end: datetime | None = None
    relaxed: bool = False
    """Values that should be known in advance may be missing."""

    @property
    def is_bulk(self) -> bool:
        """Whether a range is wanted."""
        return self.start is not None


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """What a request asks for beyond the bare predictions."""

    keep: Keep = ()
    decimals: int = DEFAULT_DECIMALS
    """Most digits after the point; correctly rounded, never padded."""
    warn_outliers: bool = False
    """Say of each prediction whether it is outside ``target.usual_range``."""
    forecast: ForecastOptions = ForecastOptions()
    """Time series only."""
    adjusted: bool = False
    """Give beside each prediction its product with the row's exposure, where the package names an exposure column."""
    explain: ExplanationOptions | None = None
    """Say of each prediction why it is so."""


class Runtime(Protocol):
    """
    A loaded model.

    Both methods return float64 of shape ``(n_rows, target.n_outputs)``: the predicted number (regression), the
    anomaly score, or one probability per class in the order of ``target.class_labels``; the two agree to the last bit
    or within 1e-12.

    Raises:
        UnscorableValue: a cell that the model cannot take (its row counts from 0 within what was given).
        ScoringFailed: the estimator raised.
    """

    def predict(self, table: Table) -> FloatArray:
        """Score columns."""
        ...

    def predict_rows(self, rows: Rows) -> FloatArray:
        """Score a few rows with no array overhead."""
        ...


def label_codes(values: FloatArray, target: Target) -> NDArray[np.intp]:
    """
    Index into ``target.class_labels`` of the predicted class of each row; ties go to the negative or to the first
    class.

    Args:
        values: shape ``(n_rows, n_classes)``, full precision: rounding first could flip a label.
    """
    if target.type == "Binary":
        return np.where(values[:, 0] > target.threshold, 0, 1)
    return np.asarray(values.argmax(axis=1))

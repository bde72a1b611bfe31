"""What an estimator predicts, read from the estimator and a sample of its training rows."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from model_repository.errors import CannotPackage
from model_repository.predictions import ClassLabel, Target
from model_repository.tables import FloatArray


def unwrapped(estimator: Any) -> Any:
    """
    The fitted estimator itself: of a search, the best one.

    Raises:
        CannotPackage: not an estimator, not fitted, or a search that kept none.
    """
    if hasattr(estimator, "cv_results_") and not hasattr(estimator, "best_estimator_"):
        raise CannotPackage(f"{type(estimator).__name__} kept no estimator: fit it with refit=True")
    if not hasattr(estimator, "predict") and not hasattr(estimator, "score_samples"):
        raise CannotPackage(f"{type(estimator).__name__} is not an estimator that predicts")
    try:
        check_is_fitted(estimator)
    except NotFittedError as exc:
        raise CannotPackage(f"{type(estimator).__name__} is not fitted") from exc
    except TypeError as exc:
        raise CannotPackage(f"{type(estimator).__name__} is not a scikit-learn estimator") from exc
    return unwrapped(estimator.best_estimator_) if hasattr(estimator, "best_estimator_") else estimator


def target_of(
    estimator: Any, sample: pd.DataFrame, name: str, positive_class: ClassLabel | None, threshold: float
) -> Target:
    """
    The target of a fitted estimator.

    The positive class is the given one, else the rarer one in the sample's target column, else the estimator's second.

    Raises:
        CannotPackage: an estimator that is neither regressor, classifier nor outlier detector, or has several outputs.
    """
    if not 0 <= threshold <= 1:
        raise CannotPackage(f"threshold {threshold}: expected 0 to 1")
    if is_classifier(estimator):
        return _classification_target(estimator, sample, name, positive_class, threshold)
    if positive_class is not None:
        raise CannotPackage("positive_class is for binary classifiers only")
    if is_regressor(estimator):
        return Target(name=name, type="Regression")
    if is_outlier_detector(estimator) and hasattr(estimator, "score_samples"):
        return Target(name=name, type="Anomaly")
    raise CannotPackage(
        f"{type(estimator).__name__} is not supported: expected a regressor, a classifier or an outlier detector with "
        "score_samples"
    )


def usual_range(predictions: FloatArray) -> tuple[float, float]:
    """Tukey's fences: the quartiles, widened by one and a half times their distance."""
    low, high = np.quantile(predictions, [0.25, 0.75]).tolist()
    margin = 1.5 * (high - low)
    return low - margin, high + margin


def _classification_target(
    estimator: Any, sample: pd.DataFrame, name: str, positive_class: ClassLabel | None, threshold: float
) -> Target:
    classes = estimator.classes_
    if isinstance(classes, list) or np.ndim(classes) != 1:
        raise CannotPackage("an estimator with several outputs is not supported: package one per target")
    labels: list[ClassLabel] = np.asarray(classes).tolist()
    if not all(isinstance(label, str | int | float | bool) for label in labels):
        raise CannotPackage("class labels must be strings, numbers or booleans")
    if len(labels) < 2:
        raise CannotPackage(f"a classifier of {len(labels)} class predicts nothing: expected two or more")
    if len(labels) > 2:
        if positive_class is not None:
            raise CannotPackage(f"positive_class is for binary classifiers only, this one has {len(labels)} classes")
        return Target(name=name, type="Multiclass", class_labels=labels)
    positive = _positive_label(labels, sample[name] if name in sample.columns else None, positive_class)
    negative = labels[1 - labels.index(positive)]
    return Target(name=name, type="Binary", class_labels=[positive, negative], threshold=threshold)


def _positive_label(labels: list[ClassLabel], column: pd.Series | None, asked: ClassLabel | None) -> ClassLabel:
    if asked is not None:
        for label in labels:
            if asked == label or str(asked) == str(label):  # the command line knows strings only
                return label
        raise CannotPackage(f"positive class {asked!r}: the classes are {labels[0]!r} and {labels[1]!r}")
    counts = Counter(map(str, column.dropna().tolist())) if column is not None else Counter[str]()
    first, second = (counts[str(label)] for label in labels)
    return labels[0] if 0 < first < second else labels[1]

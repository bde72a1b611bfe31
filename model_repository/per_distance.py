"""A model for each forecast distance, behind the face of one."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from model_repository.timeseries.spec import DISTANCE


class PerDistance(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """
    Fits a clone of *estimator* on the rows of each distance, and asks it for those alone.

    It is what packages of "a model per distance" hold, so its attributes are part of their format.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: pd.DataFrame, y: NDArray[Any]) -> Self:  # noqa: N803 - scikit-learn's names
        """
        Raises:
            ValueError: a distance has fewer classes than the others.
        """
        distances = X[DISTANCE].to_numpy()
        self.distances_ = np.unique(distances)
        self.models_ = [clone(self.estimator).fit(X[distances == one], y[distances == one]) for one in self.distances_]
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        if hasattr(self.models_[0], "classes_"):
            self.classes_ = self.models_[0].classes_
            if any(len(model.classes_) != len(self.classes_) for model in self.models_):
                raise ValueError("a class does not occur at every distance")
        return self

    def predict(self, X: pd.DataFrame) -> NDArray[Any]:  # noqa: N803
        """By row, what the model of its distance says."""
        return self._asked(X, lambda model, rows: model.predict(rows))

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: pd.DataFrame) -> NDArray[Any]:  # noqa: N803
        """The same, of classifiers."""
        return self._asked(X, lambda model, rows: model.predict_proba(rows))

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    def _asked(self, X: pd.DataFrame, ask: Callable[[Any, pd.DataFrame], Any]) -> NDArray[Any]:  # noqa: N803
        distances = X[DISTANCE].to_numpy()
        found: NDArray[Any] | None = None
        for distance, model in zip(self.distances_, self.models_, strict=True):
            rows = distances == distance
            if not rows.any():
                continue
            said = np.asarray(ask(model, X[rows]))
            if found is None:
                found = np.empty((len(X), *said.shape[1:]), dtype=said.dtype)
            found[rows] = said
        if found is None or not np.isin(distances, self.distances_).all():
            raise ValueError("a distance that the model was not fitted for")
        return found

"""Linear estimators of scikit-learn as plans."""

from typing import Final

import numpy as np

from model_repository.compiler.columns import Fitted
from model_repository.compiler.errors import NotCompilable
from model_repository.plan import Linear, Link

IDENTITY_REGRESSORS: Final = frozenset({
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "Lars", "LarsCV",
    "LassoLars", "LassoLarsCV", "LassoLarsIC", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV",
    "SGDRegressor", "LinearSVR", "HuberRegressor", "BayesianRidge", "ARDRegression", "TheilSenRegressor",
    "PassiveAggressiveRegressor", "QuantileRegressor",
})  # fmt: skip
LOG_REGRESSORS: Final = frozenset({"PoissonRegressor", "GammaRegressor"})
LOGISTIC: Final = frozenset({"LogisticRegression", "LogisticRegressionCV"})
VOTERS: Final = frozenset(
    {"LinearSVC", "RidgeClassifier", "RidgeClassifierCV", "Perceptron", "PassiveAggressiveClassifier"}
)


def linear_model(estimator: Fitted) -> tuple[Linear, Link]:
    """
    Its coefficients and the link of its probabilities.

    Raises:
        NotCompilable: it is no linear estimator that is known here.
    """
    name = type(estimator).__name__
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    intercept = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64).ravel(), (len(coef),)).copy()
    return Linear(coef=coef, intercept=intercept), _link(estimator, name, len(coef))


def is_linear(estimator: Fitted) -> bool:
    """Whether `linear_model` takes it."""
    name = type(estimator).__name__
    known = IDENTITY_REGRESSORS | LOG_REGRESSORS | LOGISTIC | VOTERS | {"SGDClassifier", "TweedieRegressor"}
    return name in known and type(estimator).__module__.startswith(("sklearn.linear_model.", "sklearn.svm."))


def _link(estimator: Fitted, name: str, n_raw: int) -> Link:
    if name in IDENTITY_REGRESSORS:
        return Link("identity")
    if name in LOG_REGRESSORS:
        return Link("exp")
    if name == "TweedieRegressor":
        log = estimator.link == "log" or (estimator.link == "auto" and estimator.power > 0)
        return Link("exp" if log else "identity")
    if name in LOGISTIC:
        if n_raw == 1 and len(estimator.classes_) > 2:
            raise NotCompilable(f"{name}: one raw score for {len(estimator.classes_)} classes")
        return Link("expit" if n_raw == 1 else "softmax")
    if name == "SGDClassifier" and estimator.loss == "log_loss":
        return Link("expit" if n_raw == 1 else "one-vs-rest")
    if name == "SGDClassifier" and estimator.loss == "modified_huber":
        return Link("modified-huber")
    return Link("vote")

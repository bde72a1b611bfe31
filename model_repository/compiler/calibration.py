"""CalibratedClassifierCV as a plan: its members side by side in one matrix, each reading its own columns."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from model_repository.compiler.columns import Column, Fitted
from model_repository.compiler.errors import NotCompilable
from model_repository.plan import Calibrated, CalibratedMember, Isotonic, Linear, Link, Sigmoid, Trees

Compiled = tuple[Linear | Trees | Calibrated, Link, list[Column]]


def calibrated_model(
    estimator: Fitted, columns: list[Column], compile_member: Callable[[Fitted, list[Column]], Compiled]
) -> Compiled:
    """The mean of its calibrated members, with the columns that they read."""
    every: list[Column] = []
    members = []
    compiled = []
    for calibrated in estimator.calibrated_classifiers_:
        if calibrated.method not in {"sigmoid", "isotonic"}:
            raise NotCompilable(f"CalibratedClassifierCV: method={calibrated.method!r}")
        if calibrated.estimator.classes_.tolist() != estimator.classes_.tolist():
            raise NotCompilable("CalibratedClassifierCV: a member that has not seen every class")
        model, link, own = compile_member(calibrated.estimator, columns)
        if isinstance(model, Calibrated):
            raise NotCompilable("CalibratedClassifierCV: inside another")
        compiled.append((calibrated, model, link, len(every)))
        every += own
    for calibrated, model, link, start in compiled:
        scores = hasattr(calibrated.estimator, "decision_function")
        members.append(
            CalibratedMember(
                model=_shifted(model, start, len(every)),
                link=Link("identity") if scores else link,
                calibrators=[_calibrator(one) for one in calibrated.calibrators],
            )
        )
    n_classes = len(estimator.classes_)
    return Calibrated(members=members, n_classes=n_classes), Link("probability"), every


def _shifted(model: Linear | Trees, start: int, width: int) -> Linear | Trees:
    """The model on a wider matrix in which its columns start at *start*."""
    if isinstance(model, Trees):
        return msgspec.structs.replace(model, feature=model.feature + np.int32(start))
    coef = np.zeros((len(model.coef), width))
    coef[:, start : start + model.coef.shape[1]] = model.coef
    return Linear(coef=coef, intercept=model.intercept)


def _calibrator(fitted: Any) -> Sigmoid | Isotonic:
    if hasattr(fitted, "a_"):
        return Sigmoid(float(fitted.a_), float(fitted.b_))
    return Isotonic(
        np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)
    )

"""The mean of calibrated classifiers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model_repository.plan import Calibrated, CalibratedMember, Isotonic, Linear, Sigmoid, Trees
from model_repository.runtimes.encoding import Encoded
from model_repository.runtimes.links import linked
from model_repository.tables import FloatArray


class CalibratedScorer:
    """Each member's raw answer, calibrated per class and normalised, then averaged."""

    most_single_rows = 4

    def __init__(self, model: Calibrated, scorer_for: Callable[[Linear | Trees], Any]) -> None:
        self._members = [(member, scorer_for(member.model)) for member in model.members]
        self._n_classes = model.n_classes

    def raw(self, encoded: Encoded) -> FloatArray:
        """Mean probabilities, shape ``(n_rows, n_classes)``."""
        return self._mean([scorer.raw(encoded) for _, scorer in self._members])

    def raw_row(self, numbers: Sequence[float], states: Sequence[int]) -> Sequence[float]:
        """Mean probabilities of one row."""
        raws = [np.array([scorer.raw_row(numbers, states)]) for _, scorer in self._members]
        return self._mean(raws)[0].tolist()  # type: ignore[no-any-return]  # a list of floats

    def _mean(self, raws: list[FloatArray]) -> FloatArray:
        total = np.zeros((len(raws[0]), self._n_classes))
        for (member, _), raw in zip(self._members, raws, strict=True):
            total += self._calibrated(member, raw)
        return total / len(raws)

    def _calibrated(self, member: CalibratedMember, raw: FloatArray) -> FloatArray:
        scores = linked(member.link, raw)
        if self._n_classes == 2:
            positive = _calibrate(member.calibrators[0], scores[:, -1])
            out = np.stack([1.0 - positive, positive], axis=1)
        else:
            out = np.stack([_calibrate(one, scores[:, at]) for at, one in enumerate(member.calibrators)], axis=1)
            total = out.sum(axis=1, keepdims=True)
            out = np.divide(out, total, out=np.full_like(out, 1 / self._n_classes), where=total != 0)
        out[(out > 1.0) & (out <= 1.0 + 1e-5)] = 1.0
        return out


def _calibrate(calibrator: Sigmoid | Isotonic, scores: FloatArray) -> FloatArray:
    if isinstance(calibrator, Sigmoid):
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(calibrator.a * scores + calibrator.b)))
    return np.asarray(np.interp(scores, calibrator.x, calibrator.y))

"""A plan that scores: numpy only, no estimator, no native thread pools, equal to the estimator in float64."""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from model_repository.checks import CellRules
from model_repository.plan import Calibrated, Linear, Link, Plan, Trees
from model_repository.predictions import Target
from model_repository.runtimes.calibrated import CalibratedScorer
from model_repository.runtimes.encoding import Encoded, Encoding
from model_repository.runtimes.forest_shape import shape_of
from model_repository.runtimes.linear import LinearScorer
from model_repository.runtimes.links import linked
from model_repository.runtimes.masks import MaskScorer, fits
from model_repository.runtimes.walker import WalkScorer
from model_repository.tables import FloatArray, Rows, Schema, Table


class Scorer(Protocol):
    """One kind of model over encoded features."""

    most_single_rows: int
    """Up to so many rows are scored one by one; beyond it arrays are faster (measured)."""

    def raw(self, encoded: Encoded) -> FloatArray:
        """Shape ``(n_rows, n_raw)``."""
        ...

    def raw_row(self, numbers: Sequence[float], states: Sequence[int]) -> Sequence[float]:
        """The same for one row."""
        ...


class CompiledRuntime:
    """The `Runtime` of a plan."""

    def __init__(self, plan: Plan, schema: Schema, target: Target) -> None:
        self.plan = plan
        self._schema = schema
        self._rules = CellRules(schema)
        self.encoding = Encoding(plan, schema)
        self._scorer = _scorer_for(plan.model, self.encoding)
        self._link = plan.link
        self._order = plan.order
        self._positive_first = plan.order == [1, 0]
        self._n_outputs = target.n_outputs

    def predict(self, table: Table) -> FloatArray:
        """Score columns."""
        self._rules.check_table(table)
        answer = linked(self._link, self.raw(self.encoding.table(table)))
        return answer[:, self._order]

    def predict_rows(self, rows: Rows) -> FloatArray:
        """Score a few rows one by one; many as columns."""
        if rows.n_rows > self._scorer.most_single_rows:
            return self.predict(Table.from_rows(rows, self._schema))
        self._rules.check_rows(rows)
        raws = [self._scorer.raw_row(*self.encoding.row(cells, number)) for number, cells in enumerate(rows.values)]
        if self._link == _LOGIT:
            return np.array([self._two(raw[0]) for raw in raws])
        answer = linked(self._link, np.array(raws, dtype=np.float64).reshape(len(raws), -1))
        return answer[:, self._order]

    def raw(self, encoded: Encoded) -> FloatArray:
        """The sums before the link, shape ``(n_rows, n_raw)``."""
        return self._scorer.raw(encoded)

    def _two(self, z: float) -> tuple[float, float]:
        """The logistic link for one number: numpy needs ten times as long for it."""
        power = math.exp(-abs(z))
        positive = 1 / (1 + power) if z >= 0 else power / (1 + power)
        return (positive, 1 - positive) if self._positive_first else (1 - positive, positive)


_LOGIT: Final = Link("expit")


def _scorer_for(model: Linear | Trees | Calibrated, encoding: Encoding) -> Scorer:
    match model:
        case Linear():
            return LinearScorer(model, encoding)
        case Trees():
            shape = shape_of(model)
            return (MaskScorer if fits(model, encoding, shape) else WalkScorer)(model, encoding, shape)
        case Calibrated():
            return CalibratedScorer(model, lambda member: _scorer_for(member, encoding))

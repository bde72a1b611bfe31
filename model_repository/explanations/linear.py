"""
Exact explanations of a linear model.

Each feature adds its own term to the margin, so what it contributes to a row is its term minus the mean of its terms
over the reference rows: that is its SHAP value when the features are taken as independent ("interventional"). With the
exemplars in place of the reference rows it is its strength by exemplars.

Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, Corollary 1.
"""

from typing import Final

import numpy as np

from model_repository.explanations.margins import TOLERANCE
from model_repository.explanations.methods import Shap
from model_repository.plan import Linear
from model_repository.predictions import Algorithm
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.runtimes.encoding import Encoded
from model_repository.tables import FloatArray, Table

_ROWS_AT_ONCE: Final = 1 << 16


class LinearMethod:
    """Both algorithms for a linear model."""

    is_exact = True

    def __init__(
        self,
        model: Linear,
        weights: FloatArray,
        runtime: CompiledRuntime,
        n_features: int,
        reference: Table,
        exemplars: Table,
    ) -> None:
        """
        Args:
            weights: see `margins.margin_weights`.
        """
        coef = weights @ model.coef
        encoding = self._encoding = runtime.encoding
        self._runtime = runtime
        self._weights = weights
        self._n_features = n_features
        intercept = weights @ model.intercept
        self._numbers = [(column.place, coef[:, column.at]) for column in encoding.numbers]
        self._tables = [
            (columns.place, columns.lookup.folded(coef[:, columns.block.at].T)) for columns in encoding.lookups
        ]
        self._reference_means = self._terms(encoding.table(reference), 0).mean(axis=0)
        self.base_value = float(intercept[0] + self._reference_means.sum())
        exemplar_terms = encoding.table(exemplars)
        self._exemplar_means = [self._terms(exemplar_terms, output).mean(axis=0) for output in range(len(weights))]

    def rows_at_once(self, _: Algorithm) -> int:
        """Any number is quick."""
        return _ROWS_AT_ONCE

    def shap(self, table: Table) -> Shap:
        """SHAP values of output 0."""
        encoded = self._encoding.table(table)
        margins = self._runtime.raw(encoded) @ self._weights[0]
        return Shap(self._terms(encoded, 0) - self._reference_means, margins, TOLERANCE)

    def exemplar_strengths(self, table: Table, outputs: list[int]) -> FloatArray:
        """Shape ``(n_rows, len(outputs), n_features)``."""
        encoded = self._encoding.table(table)
        strengths = [self._terms(encoded, output) - self._exemplar_means[output] for output in outputs]
        return np.stack(strengths, axis=1)

    def _terms(self, encoded: Encoded, output: int) -> FloatArray:
        """What each feature adds to a margin, shape ``(n_rows, n_features)``."""
        out = np.zeros((encoded.n_rows, self._n_features), order="F")
        for values, (place, coef) in zip(encoded.numbers, self._numbers, strict=True):
            if coef[output]:  # a coefficient of 0 times an infinity would be no number
                out[:, place] += values * coef[output]
        for states, (place, folded) in zip(encoded.states, self._tables, strict=True):
            out[:, place] += folded[:, output].take(states)
        return out

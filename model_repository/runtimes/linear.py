"""Linear models that never build one-hot columns: a table per encoded feature, already times its coefficients."""

from collections.abc import Sequence

import numpy as np

from model_repository.plan import Linear
from model_repository.runtimes.encoding import Encoded, Encoding
from model_repository.tables import FloatArray


class LinearScorer:
    """``intercept + numbers @ weights + one row of a small table per lookup``."""

    most_single_rows = 24

    def __init__(self, model: Linear, encoding: Encoding) -> None:
        at = [column.at for column in encoding.numbers]
        folded = [columns.lookup.folded(model.coef[:, columns.block.at].T) for columns in encoding.lookups]
        self._weights: FloatArray = np.ascontiguousarray(model.coef[:, at].T, dtype=np.float64)
        self._intercept = model.intercept
        # A member of a calibrated model reads only its own columns: tables of zeros are left out.
        self._tables = [(place, table) for place, table in enumerate(folded) if table.any()]
        self._used = np.flatnonzero(self._weights.any(axis=1)).tolist()
        self._single = model.n_raw == 1
        self._number_weights = [(place, float(self._weights[place, 0])) for place in self._used]
        self._state_weights = [(place, table[:, 0].tolist()) for place, table in self._tables]

    def raw(self, encoded: Encoded) -> FloatArray:
        """Scores of many rows, shape ``(n_rows, n_raw)``."""
        out = np.tile(self._intercept, (encoded.n_rows, 1))
        if self._used:
            numbers = np.empty((encoded.n_rows, len(self._used)), order="F")
            for column, place in enumerate(self._used):
                numbers[:, column] = encoded.numbers[place]
            out += numbers @ self._weights[self._used]
        for place, table in self._tables:
            out += table.take(encoded.states[place], axis=0)
        return out

    def raw_row(self, numbers: Sequence[float], states: Sequence[int]) -> Sequence[float]:
        """Scores of one row."""
        if self._single:
            z = float(self._intercept[0])
            for place, weight in self._number_weights:
                z += numbers[place] * weight
            for place, weights in self._state_weights:
                z += weights[states[place]]
            return (z,)
        out = self._intercept.copy()
        if self._used:
            out += np.array([numbers[place] for place in self._used]) @ self._weights[self._used]
        for place, table in self._tables:
            out += table[states[place]]
        return out.tolist()  # type: ignore[no-any-return]  # a list of floats

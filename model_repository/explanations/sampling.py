"""
Explanations of any model, by asking it.

Strengths by exemplars: a row is scored once more with each exemplar's value in place of each feature.

SHAP values are estimated. Each exemplar walks to the row: its values are exchanged for the row's, one feature after
another in a random order, and what the prediction moves at each step is credited to that step's feature; then the same
in the opposite order, which cancels much of the noise. The strengths are the means over the walks. They always add up,
because every walk ends at the row; the standard error of each follows from how far the walks differ. Orders come from a
fixed seed, so equal requests get equal answers.

Source: Mitchell, Cooper, Frank and Holmes, "Sampling Permutations for Shapley Value Estimation", JMLR 2022 (antithetic
permutations).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.explanations.margins import TOLERANCE
from model_repository.explanations.methods import Shap
from model_repository.predictions import Algorithm
from model_repository.tables import FloatArray, Schema, Strings, Table

Array = NDArray[Any]
Margins = Callable[[Table], FloatArray]
"""Scores a table: shape ``(n_rows, n_outputs)``."""
_ROWS_AT_ONCE: Final = 1 << 15
"""Rows that are scored together: bounds the memory."""
_SEED: Final = 20260101


class SamplingMethod:
    """Both algorithms for anything that scores."""

    is_exact = False

    def __init__(self, margins: Margins, schema: Schema, exemplars: Table, eligible: list[int]) -> None:
        """
        Args:
            eligible: the features whose strengths by exemplars are wanted; those of the others are 0.
        """
        self._margins = margins
        self._schema = schema
        self._exemplars = exemplars
        self._eligible = eligible
        self._n_features = len(schema.features)
        random = np.random.default_rng(_SEED)
        orders = np.array([random.permutation(self._n_features) for _ in range(exemplars.n_rows)])
        both = np.stack([orders, orders[:, ::-1]], axis=1)
        self._turn: Array = np.argsort(both, axis=2)
        """At which step of a walk a feature is exchanged, shape ``(n_exemplars, 2, n_features)``."""

    @property
    def base_value(self) -> float:
        """Mean margin of the exemplars."""
        return float(self._starts.mean())

    def rows_at_once(self, algorithm: Algorithm) -> int:
        """As many as one call of the model scores."""
        walks = 2 * max(1, self._n_features - 1)
        return max(1, _ROWS_AT_ONCE // (self._exemplars.n_rows * (walks if algorithm == "shap" else self._n_features)))

    def shap(self, table: Table) -> Shap:
        """SHAP values of output 0, with their standard errors."""
        end = self._margins(table)[:, 0]
        per_row = self._exemplars.n_rows * 2 * max(1, self._n_features - 1)
        step = max(1, _ROWS_AT_ONCE // per_row)
        parts = [
            self._walks(table.taken(np.arange(at, min(at + step, table.n_rows))), end[at : at + step])
            for at in range(0, table.n_rows, step)
        ]
        strengths, errors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Shap(strengths, end, TOLERANCE, errors)

    def exemplar_strengths(self, table: Table, outputs: list[int]) -> FloatArray:
        """Shape ``(n_rows, len(outputs), n_features)``."""
        own = self._margins(table)[:, outputs]
        out = np.zeros((table.n_rows, len(outputs), self._n_features))
        if not self._eligible:
            return out
        n_exemplars = self._exemplars.n_rows
        step = max(1, _ROWS_AT_ONCE // (n_exemplars * len(self._eligible)))
        for at in range(0, table.n_rows, step):
            part = table.taken(np.arange(at, min(at + step, table.n_rows)))
            answers = self._margins(self._exchanged(part))[:, outputs]
            means = answers.reshape(len(self._eligible), part.n_rows, n_exemplars, -1).mean(axis=2)
            out[at : at + part.n_rows, :, self._eligible] = own[at : at + step, :, None] - means.transpose(1, 2, 0)
        return out

    def _exchanged(self, table: Table) -> Table:
        """Each row with each exemplar's value of each eligible feature, in the order (feature, row, exemplar)."""
        n_rows, n_exemplars, n_eligible = table.n_rows, self._exemplars.n_rows, len(self._eligible)
        shape = (n_eligible, n_rows, n_exemplars)

        def column(place: int, own: Array, other: Array) -> Array:
            out = np.empty(shape, dtype=own.dtype)
            out[:] = own[:, None]
            if place in self._eligible:
                out[self._eligible.index(place)] = other
            return out.ravel()

        return self._mixed(table, column)

    @cached_property
    def _starts(self) -> FloatArray:
        """Margins of the exemplars, from which the walks set out."""
        return self._margins(self._exemplars)[:, 0]

    def _walks(self, table: Table, end: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Strengths and their standard errors; *end* are the margins of the rows."""
        n_rows, n_exemplars, n_features = table.n_rows, self._exemplars.n_rows, self._n_features
        steps = np.arange(1, n_features)
        shape = (n_rows, n_exemplars, 2, n_features + 1)
        margins = np.empty(shape)
        margins[..., 0] = self._starts[:, None]
        margins[..., -1] = end[:, None, None]

        def column(place: int, own: Array, other: Array) -> Array:
            exchanged = self._turn[:, :, place, None] < steps  # (n_exemplars, 2, n_features - 1)
            return np.where(exchanged, own[:, None, None, None], other[:, None, None]).ravel()

        if len(steps):
            answers = self._margins(self._mixed(table, column))[:, 0]
            margins[..., 1:-1] = answers.reshape(n_rows, n_exemplars, 2, -1)
        moves = np.take_along_axis(np.diff(margins, axis=-1), self._turn[None], axis=-1).mean(axis=2)
        spread = moves.std(axis=1, ddof=1) if n_exemplars > 1 else np.full((n_rows, n_features), np.nan)
        return moves.mean(axis=1), spread / np.sqrt(n_exemplars)

    def _mixed(self, table: Table, column: Callable[[int, Array, Array], Array]) -> Table:
        """A table whose columns *column* makes of a row's own values and the exemplars'."""
        numeric: dict[str, FloatArray] = {}
        strings: dict[str, Strings] = {}
        n_rows = 0
        for place, feature in enumerate(self._schema.features):
            name = feature.name
            if feature.is_numeric:
                numeric[name] = column(place, table.numeric[name], self._exemplars.numeric[name])
                n_rows = len(numeric[name])
            else:
                own, other = table.strings[name], self._exemplars.strings[name]
                codes = np.where(other.codes < 0, -1, other.codes + len(own.values)).astype(np.int32)
                strings[name] = Strings(column(place, own.codes, codes), [*own.values, *other.values])
                n_rows = len(strings[name].codes)
        return Table(n_rows, numeric, strings)

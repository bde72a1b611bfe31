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
_CELLS_AT_ONCE: Final = 1 << 23
"""Of rows that are scored together: 64 MiB."""
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
        self._most_rows = max(1, min(_ROWS_AT_ONCE, _CELLS_AT_ONCE // self._n_features))
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
        each = 2 * (self._n_features - 1) if algorithm == "shap" else len(self._eligible)
        return max(1, self._most_rows // (self._exemplars.n_rows * max(1, each)))

    def shap(self, table: Table) -> Shap:
        """SHAP values of output 0, with their standard errors."""
        end = self._margins(table)[:, 0]
        step = self.rows_at_once("shap")
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
        step = self.rows_at_once("xemp")
        together = max(1, self._most_rows // (n_exemplars * step))
        for at in range(0, table.n_rows, step):
            part = table.taken(np.arange(at, min(at + step, table.n_rows)))
            for first in range(0, len(self._eligible), together):
                some = self._eligible[first : first + together]
                answers = self._margins(self._exchanged(part, some))[:, outputs]
                means = answers.reshape(len(some), part.n_rows, n_exemplars, -1).mean(axis=2)
                out[at : at + part.n_rows, :, some] = own[at : at + step, :, None] - means.transpose(1, 2, 0)
        return out

    def _exchanged(self, table: Table, some: list[int]) -> Table:
        """Each row with each exemplar's value of each of *some* features, in the order (feature, row, exemplar)."""
        shape = (len(some), table.n_rows, self._exemplars.n_rows)

        def column(place: int, own: Array, other: Array) -> Array:
            out = np.empty(shape, dtype=own.dtype)
            out[:] = own[:, None]
            if place in some:
                out[some.index(place)] = other
            return out.ravel()

        return self._mixed(table, column)

    @cached_property
    def _starts(self) -> FloatArray:
        """Margins of the exemplars, from which the walks set out."""
        return self._margins(self._exemplars)[:, 0]

    def _walks(self, table: Table, end: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Strengths and their standard errors; *end* are the margins of the rows."""
        n_rows, n_exemplars, n_features = table.n_rows, self._exemplars.n_rows, self._n_features
        shape = (n_rows, n_exemplars, 2, n_features + 1)
        margins = np.empty(shape)
        margins[..., 0] = self._starts[:, None]
        margins[..., -1] = end[:, None, None]

        together = max(1, self._most_rows // (n_rows * 2 * max(1, n_features - 1)))
        at_once = max(1, self._most_rows // (n_rows * 2 * together))
        for first in range(0, n_exemplars, together):
            for step in range(1, n_features, at_once):
                walks, steps = slice(first, first + together), np.arange(step, min(step + at_once, n_features))
                answers = self._margins(self._on_the_way(table, walks, steps))[:, 0]
                margins[:, walks, :, steps[0] : steps[-1] + 1] = answers.reshape(n_rows, -1, 2, len(steps))
        moves = np.take_along_axis(np.diff(margins, axis=-1), self._turn[None], axis=-1).mean(axis=2)
        spread = moves.std(axis=1, ddof=1) if n_exemplars > 1 else np.full((n_rows, n_features), np.nan)
        return moves.mean(axis=1), spread / np.sqrt(n_exemplars)

    def _on_the_way(self, table: Table, walks: slice, steps: Array) -> Table:
        """What is scored on some walks after some steps, in the order (row, exemplar, direction, step)."""

        def column(place: int, own: Array, other: Array) -> Array:
            exchanged = self._turn[walks, :, place, None] < steps
            return np.where(exchanged, own[:, None, None, None], other[walks, None, None]).ravel()

        return self._mixed(table, column)

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

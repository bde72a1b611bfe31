"""
Exact explanations of an ensemble of trees: SHAP values, and strengths by exemplars without scoring a single row.

With an exemplar's value in place of feature *j*, a row falls into a leaf if it meets all the leaf's pairs but those of
*j*, and the exemplar meets these. So the mean prediction over the exemplars is a sum over the leaves whose every other
pair the row meets, each times the share of the exemplars that meet the pairs of *j*. Only leaves that the row misses by
at most one feature count, and they are few.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.explanations.leaves import Forest, Leaves, Ranks
from model_repository.explanations.margins import SINGLE_TOLERANCE, TOLERANCE
from model_repository.explanations.methods import Shap
from model_repository.explanations.shap_trees import TreeShap
from model_repository.plan import Trees
from model_repository.predictions import Algorithm
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.runtimes.encoding import Encoding
from model_repository.tables import FloatArray, Table

Array = NDArray[Any]
_ROWS_AT_ONCE: Final = 1024
_CELLS_AT_ONCE: Final = 1 << 20
"""Pairs times rows of one block: 1 MiB of booleans."""


class TreeMethod:
    """Both algorithms for an ensemble."""

    is_exact = True

    def __init__(
        self, trees: Trees, weights: FloatArray, runtime: CompiledRuntime, n_features: int, exemplars: Table | None
    ) -> None:
        """
        Args:
            exemplars: only `exemplar_strengths` needs them.

        Raises:
            NotAdditive: no exact explanation; see `Forest`.
        """
        self._runtime = runtime
        self._encoding = runtime.encoding
        self._weights = weights
        self._n_features = n_features
        self._forest = Forest(trees, weights, feature_of_column(runtime.encoding))
        self._shap = TreeShap(self._forest, n_features)
        self.base_value = self._shap.base_value
        self._tolerance = SINGLE_TOLERANCE if trees.single_sum else TOLERANCE
        self._first = [_first_of_feature(group) for group in self._forest.groups]
        self._taken = None if exemplars is None else self._shares_of_exemplars(exemplars)

    def rows_at_once(self, _: Algorithm) -> int:
        """A large forest takes seconds for these."""
        return _ROWS_AT_ONCE

    def shap(self, table: Table) -> Shap:
        """SHAP values of output 0."""
        encoded = self._encoding.table(table)
        margins = self._runtime.raw(encoded) @ self._weights[0]
        return Shap(self._shap.strengths(self._encoding.matrix(encoded)), margins, self._tolerance)

    def exemplar_strengths(self, table: Table, outputs: list[int]) -> FloatArray:
        """Shape ``(n_rows, len(outputs), n_features)``."""
        assert self._taken is not None
        matrix = self._matrix(table)
        out = np.zeros((len(outputs), self._n_features, len(matrix)))
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            block = matrix[start : start + _ROWS_AT_ONCE]
            ranks = self._forest.ranks(block)
            part = out[:, :, start : start + _ROWS_AT_ONCE]
            for group, first, taken in zip(self._forest.groups, self._first, self._taken, strict=True):
                step = max(1, _CELLS_AT_ONCE // (group.n_pairs * len(block)))
                for at in range(0, len(group), step):
                    cut = slice(at, at + step)
                    leaves = group.part(at, at + step)
                    met = _met_by_feature(leaves, None if first is None else first[cut], ranks)
                    _add(leaves, met, taken[cut], outputs, part)
        return out.transpose(2, 0, 1)

    def _shares_of_exemplars(self, exemplars: Table) -> list[FloatArray]:
        """Per group, of the exemplars those that meet a feature's pairs: shape ``(n_leaves, n_pairs)``."""
        ranks = self._forest.ranks(self._matrix(exemplars))
        groups = zip(self._forest.groups, self._first, strict=True)
        return [_met_by_feature(group, first, ranks).mean(axis=2).T for group, first in groups]

    def _matrix(self, table: Table) -> FloatArray:
        return self._encoding.matrix(self._encoding.table(table))


def feature_of_column(encoding: Encoding) -> NDArray[np.intp]:
    """For each column of the matrix the place of the feature that it is made of."""
    places = np.zeros(encoding.width, dtype=np.intp)
    for column in encoding.numbers:
        places[column.at] = column.place
    for columns in encoding.lookups:
        places[columns.block.at] = columns.place
    return places


def _first_of_feature(leaves: Leaves) -> Array | None:
    """For each pair of each leaf the first pair of the same feature; ``None`` where each feature has one pair."""
    first = np.zeros(leaves.feature.shape, dtype=np.int8)
    for pair in range(1, leaves.n_pairs):
        first[:, pair] = (leaves.feature[:, : pair + 1] == leaves.feature[:, pair, None]).argmax(axis=1)
    return first if (first < np.arange(leaves.n_pairs)).any() else None


def _met_by_feature(leaves: Leaves, first: Array | None, ranks: Ranks) -> Array:
    """
    `Leaves.met` with the pairs of one feature as one: the first of them says whether all are met, the others are met.
    """
    met = leaves.met(ranks)
    if first is None:
        return met
    for pair in range(1, leaves.n_pairs):
        again = np.flatnonzero(first[:, pair] < pair)
        if again.size:
            met[first[again, pair], again] &= met[pair, again]
            met[pair, again] = True
    return met


def _add(leaves: Leaves, met: Array, taken: FloatArray, outputs: list[int], out: FloatArray) -> None:
    """Add what some leaves contribute to *out*, shape ``(len(outputs), n_features, n_rows)``."""
    unmet = leaves.n_pairs - np.add.reduce(met, axis=0, dtype=np.int8)
    n_features, n_rows = out.shape[1:]
    leaf, row = np.nonzero(unmet == 0)  # the row is in the leaf: without *j* it may leave it
    feature = leaves.feature.astype(np.intp)
    places = [(feature[leaf] * n_rows + row[:, None]).ravel()]
    weights = [(1.0 - taken[leaf]).ravel()]
    which = [np.repeat(leaf, leaves.n_pairs)]
    leaf, row = np.nonzero(unmet == 1)  # *j* alone keeps it out: with an exemplar's value it may come in
    pair = met[:, leaf, row].argmin(axis=0)
    places.append(feature[leaf, pair] * n_rows + row)
    weights.append(-taken[leaf, pair])
    which.append(leaf)
    place, weight, of_leaf = np.concatenate(places), np.concatenate(weights), np.concatenate(which)
    for number, output in enumerate(outputs):
        sums = np.bincount(place, weight * leaves.value[of_leaf, output], minlength=n_features * n_rows)
        out[number] += sums.reshape(n_features, n_rows)

"""
Exact SHAP values of an ensemble of trees.

Which ones: *path-dependent*. "The prediction when only some features are known" is, in each tree, the mean over the
leaves that the known features allow, each unknown split weighed by the shares of the training rows. It needs no
background rows, and it is the definition of the libraries themselves (LightGBM's and XGBoost's ``pred_contrib``,
``shap.TreeExplainer``).

How: each leaf is a game of its own, in which pair *k* (see `leaves`) multiplies the leaf's value *v* by ``o_k`` (1 if
the row meets the pair, else 0) when its column is known, and by the share ``z_k`` when it is not. The Shapley value of
a product is an integral over the chance *t* that a column is known:

    phi_j = v (o_j - z_j) integral_0^1 prod_{k != j} ((1 - t) z_k + t o_k) dt

The integrand is a polynomial of degree d - 1 in *t* for a leaf of *d* pairs, so Gauss-Legendre quadrature with
ceil(d / 2) points is exact. A leaf knows only d bits of a row; so when there are more rows than the 2^d patterns, phi
is computed once per pattern and looked up.

Sources: Lundberg, Erion and Lee, "Consistent Individualized Feature Attribution for Tree Ensembles", 2018 (the
definition); Owen, "Multilinear Extensions of Games", Management Science 1972 (the integral); Yang, "Fast TreeSHAP",
2021 (a table per pattern). The combination is ours.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.explanations.leaves import Forest, Leaves, Ranks
from model_repository.tables import FloatArray

Array = NDArray[Any]
_ROWS_AT_ONCE: Final = 1024
_CELLS_AT_ONCE: Final = 1 << 17
"""Pairs times rows (or patterns) of one block: 1 MiB an array; half and twice as much are slower (measured)."""


@dataclass(frozen=True)
class _ByFeature:
    """The pairs of some leaves sorted by feature; pairs are numbered pair by pair, as `Leaves.met` has them."""

    order: Array
    features: Array
    starts: Array
    """Where each feature's pairs begin in the order."""

    @classmethod
    def of(cls, leaves: Leaves) -> "_ByFeature":
        feature = leaves.feature.T.ravel()
        order = np.argsort(feature, kind="stable")
        return cls(order, *np.unique(feature[order], return_index=True))


class TreeShap:
    """SHAP values of one output; see the module."""

    def __init__(self, forest: Forest, n_features: int, output: int = 0) -> None:
        self._forest = forest
        self._n_features = n_features
        self._output = output
        self._by_feature = [
            _ByFeature.of(group) if group.column.size <= _CELLS_AT_ONCE else None for group in forest.groups
        ]
        shares = [leaves.value[:, output] @ leaves.share.prod(axis=1) for leaves in forest.groups]
        self.base_value = float(forest.base[output] + sum(shares))

    def strengths(self, matrix: FloatArray) -> FloatArray:
        """
        SHAP values, summed over the columns that each feature became.

        Args:
            matrix: shape ``(n_rows, width)``, as the model itself would see it.

        Returns:
            Shape ``(n_rows, n_features)``.
        """
        out = np.zeros((len(matrix), self._n_features))
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            block = matrix[start : start + _ROWS_AT_ONCE]
            out[start : start + _ROWS_AT_ONCE] = self._block(self._forest.ranks(block), len(block)).T
        return out

    def _block(self, ranks: Ranks, n_rows: int) -> FloatArray:
        out = np.zeros((self._n_features, n_rows))
        for group, by_feature in zip(self._forest.groups, self._by_feature, strict=True):
            n_patterns = 1 << min(group.n_pairs, 30)
            patterns = _patterns(group.n_pairs) if n_patterns <= n_rows else None
            step = max(1, _CELLS_AT_ONCE // (group.n_pairs * n_rows))
            if by_feature is not None and step >= len(group):
                self._add(group, by_feature, ranks, patterns, out)
                continue
            for start in range(0, len(group), step):
                part = group.part(start, start + step)
                self._add(part, _ByFeature.of(part), ranks, patterns, out)
        return out

    def _add(
        self, leaves: Leaves, by_feature: _ByFeature, ranks: Ranks, patterns: Array | None, out: FloatArray
    ) -> None:
        """Add what some leaves contribute to *out*, shape ``(n_features, n_rows)``."""
        value = leaves.value[:, self._output]
        met = leaves.met(ranks)
        order = by_feature.order
        if patterns is None:
            each = shapley(leaves.share, met, value).reshape(len(order), -1)[order]
        else:
            table = shapley(leaves.share, patterns, value)
            n_patterns = patterns.shape[-1]
            codes = _codes(met)
            places = codes.take(order % len(leaves), axis=0).astype(np.intp)
            places += (order * n_patterns)[:, None]
            each = table.ravel().take(places)
        out[by_feature.features] += np.add.reduceat(each, by_feature.starts, axis=0)


def shapley(share: FloatArray, met: Array, value: FloatArray) -> FloatArray:
    """
    The Shapley value of each pair of each leaf.

    Args:
        share: shape ``(n_leaves, n_pairs)``.
        met: whether a row meets a pair, shape ``(n_pairs, n_leaves or 1, n_rows)``.
        value: shape ``(n_leaves,)``.

    Returns:
        Shape ``(n_pairs, n_leaves, n_rows)``.
    """
    z = share.T[:, :, None]
    known = met.astype(np.float64)
    some_zero = not share.all()
    points, weights = _quadrature(share.shape[1])
    total = np.zeros(np.broadcast_shapes(z.shape, met.shape))
    for t, weight in zip(points, weights, strict=True):
        factors = (1 - t) * z + t * known
        product = factors.prod(axis=0)
        product *= weight
        if some_zero:  # a share of 0 that is not met makes the product 0 for all others; its own part is 0 - 0
            np.copyto(factors, 1.0, where=factors == 0)
        total += np.divide(product, factors, out=factors)
    total *= known - z
    total *= value[:, None]
    return total


@cache
def _quadrature(n_pairs: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre points and weights on 0 to 1, exact for polynomials of degree ``n_pairs - 1``."""
    points, weights = np.polynomial.legendre.leggauss((n_pairs + 1) // 2)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


def _patterns(n_pairs: int) -> Array:
    """Every way to meet some of the pairs, shape ``(n_pairs, 1, 2 ** n_pairs)``; pair *k* is bit *k*."""
    return (np.arange(1 << n_pairs) >> np.arange(n_pairs)[:, None] & 1).astype(bool)[:, None, :]


def _codes(met: Array) -> Array:
    """Which pairs a row meets as one number, shape ``(n_leaves, n_rows)``."""
    out = np.zeros(met.shape[1:], dtype=np.uint16)
    for pair, holds in enumerate(met):
        out |= holds.astype(np.uint16) << np.uint16(pair)
    return out

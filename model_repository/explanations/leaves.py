"""
An ensemble as its leaves: for each leaf, which values of which columns lead to it.

The splits above a leaf that ask for the same column are one question, *does the value lie within these bounds?*, and
the training rows answer it with yes in a certain share: the product of (rows below) / (rows above) over those splits.
So a leaf is a short list of pairs (column, bounds, share), and a row is in the leaf when it meets all of them. That is
all that exact explanations of trees need.

Bounds are ranks among the column's thresholds, so that comparing is done on small integers. Leaves with equally many
pairs stand together in one `Leaves`, as arrays of shape ``(n_leaves, n_pairs)``.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Trees
from model_repository.runtimes.forest_shape import category_table
from model_repository.tables import FloatArray

Array = NDArray[Any]
MOST_PAIRS: Final = 63
"""Of one leaf: which pairs a row meets is kept as the bits of one number."""
MOST_ALL_PAIRS: Final = 1 << 23
"""Of all leaves: each takes about 40 bytes, in every process that explains."""
MOST_STEPS: Final = 1 << 27
"""Splits above all leaves: what reading the forest takes, about ten million a second."""
MOST_CATEGORY_CELLS: Final = 1 << 25
_STEPS_AT_ONCE: Final = 1 << 19
"""Splits above leaves that are sorted together: bounds the memory while a large forest is read."""


class NotAdditive(Exception):
    """An ensemble of a kind for which there is no exact explanation; the message says why."""


@dataclass(frozen=True)
class Categories:
    """Pairs that ask for a set of categories instead of bounds."""

    leaf: Array
    pair: Array
    column: Array
    met: Array
    """Shape ``(n, n_categories + 1)``: by category; the last is for every other value."""

    def part(self, start: int, stop: int) -> "Categories":
        """Those of some of the leaves."""
        chosen = slice(*np.searchsorted(self.leaf, [start, stop]))
        return Categories(self.leaf[chosen] - start, self.pair[chosen], self.column[chosen], self.met[chosen])


@dataclass(frozen=True)
class Leaves:
    """Leaves with the same number of pairs; see the module."""

    value: FloatArray
    """``(n_leaves, n_outputs)``: what the leaf adds to each margin."""
    column: Array
    low: Array
    span: Array
    """The highest rank that meets the pair, minus the lowest."""
    missing: Array
    """Whether a missing value meets it."""
    share: FloatArray
    """Of the training rows above, those that meet it."""
    feature: Array
    """The feature that the column is made of."""
    categories: Categories | None

    @property
    def n_pairs(self) -> int:
        """Of each leaf."""
        return int(self.column.shape[1])

    def __len__(self) -> int:
        return len(self.value)

    def part(self, start: int, stop: int) -> "Leaves":
        """Some of the leaves."""
        cut = slice(start, stop)
        categories = None if self.categories is None else self.categories.part(start, stop)
        return Leaves(
            self.value[cut], self.column[cut], self.low[cut], self.span[cut], self.missing[cut], self.share[cut],
            self.feature[cut], categories,
        )  # fmt: skip

    def met(self, ranks: "Ranks") -> Array:
        """Whether each row meets each pair, shape ``(n_pairs, n_leaves, n_rows)``."""
        out = np.empty((self.n_pairs, len(self), ranks.rank.shape[1]), dtype=bool)
        for pair in range(self.n_pairs):
            column = self.column[:, pair]
            above = ranks.rank.take(column, axis=0)
            above -= self.low[:, pair, None]  # below the lowest it wraps round to a huge number
            np.less_equal(above, self.span[:, pair, None], out=out[pair])
            if ranks.missing is not None:
                np.copyto(out[pair], self.missing[:, pair, None], where=ranks.missing.take(column, axis=0))
        if self.categories is not None:
            self._meet_categories(self.categories, ranks, out)
        return out

    def _meet_categories(self, categories: Categories, ranks: "Ranks", out: Array) -> None:
        for at, (pair, leaf, column) in enumerate(
            zip(categories.pair.tolist(), categories.leaf.tolist(), categories.column.tolist(), strict=True)
        ):
            met = categories.met[at].take(ranks.rank[column])
            if ranks.missing is not None:
                met = np.where(ranks.missing[column], self.missing[leaf, pair], met)
            out[pair, leaf] = met


@dataclass(frozen=True)
class Ranks:
    """Rows as the leaves read them; arrays of shape ``(n_columns, n_rows)``."""

    rank: Array
    missing: Array | None
    """Where values are missing, if any is."""


class Forest:
    """All leaves of an ensemble, and how a matrix becomes `Ranks`."""

    def __init__(self, trees: Trees, weights: FloatArray, feature_of: Array) -> None:
        """
        Args:
            trees: with covers.
            weights: shape ``(n_outputs, n_raw)``, see `margins.margin_weights`.
            feature_of: for each column of the matrix the feature that it is made of.

        Raises:
            NotAdditive: no covers, a path through too many columns, a column split in two ways.
        """
        if trees.cover is None:
            raise NotAdditive("the plan does not say how many training rows went which way")
        self.base = weights @ trees.base / trees.divisor
        self._weights = weights
        self._feature_of = feature_of
        self._trees = trees
        self._is_leaf = trees.left == np.arange(len(trees.left))
        inner = np.flatnonzero(~self._is_leaf)
        self.columns: Array = np.unique(trees.feature[inner])
        """The columns of the matrix that some split asks for."""
        self._by_category = self._category_columns(inner)
        self._thresholds = self._thresholds_of(inner)
        most = max([len(thresholds) for thresholds in self._thresholds], default=0)
        width = 0 if self._category_table is None else self._category_table[1].shape[1]
        self._rank_type: Any = np.uint16 if max(most, width) + 2 < np.iinfo(np.uint16).max else np.uint32
        self.groups = self._groups()

    def ranks(self, matrix: FloatArray) -> Ranks:
        """What the leaves compare, of rows of the whole matrix."""
        rank = np.empty((len(self.columns), len(matrix)), dtype=self._rank_type)
        missing = np.zeros(rank.shape, dtype=bool)
        for place, column in enumerate(self.columns.tolist()):
            values = np.asarray(matrix[:, column], dtype=np.float64)
            if self._trees.single:
                with np.errstate(over="ignore"):
                    values = values.astype(np.float32).astype(np.float64)
            missing[place] = np.isnan(values)
            rank[place] = self._category(values) if self._by_category[place] else self._rank(place, values)
        return Ranks(rank, missing if missing.any() else None)

    def _rank(self, place: int, values: FloatArray) -> Array:
        return np.searchsorted(self._thresholds[place], values, side="right" if self._trees.strict else "left")

    def _category(self, values: FloatArray) -> Array:
        assert self._category_table is not None
        beyond = self._category_table[1].shape[1] - 1
        with np.errstate(invalid="ignore"):
            return np.where((values >= 0) & (values < beyond), values, beyond).astype(np.intp)

    def _category_columns(self, inner: Array) -> Array:
        trees = self._trees
        self._category_table = category_table(trees)
        if self._category_table is None:
            return np.zeros(len(self.columns), dtype=bool)
        is_set = self._category_table[0][inner] >= 0
        sets, bounds = np.unique(trees.feature[inner[is_set]]), np.unique(trees.feature[inner[~is_set]])
        if np.isin(sets, bounds).any():
            raise NotAdditive("a column is split both by bounds and by categories")
        return np.isin(self.columns, sets)

    def _thresholds_of(self, inner: Array) -> list[Array]:
        order = inner[np.argsort(self._trees.feature[inner], kind="stable")]
        starts = np.searchsorted(self._trees.feature[order], self.columns)
        nodes = np.split(order, starts[1:])
        self._rank_of = np.zeros(len(self._is_leaf), dtype=np.int64)
        thresholds = []
        for split, by_category in zip(nodes, self._by_category.tolist(), strict=False):
            known = np.empty(0) if by_category else np.unique(self._trees.threshold[split])
            self._rank_of[split] = np.searchsorted(known, self._trees.threshold[split])
            thresholds.append(known)
        return thresholds

    def _groups(self) -> list[Leaves]:
        """All leaves that some row can reach, by their number of pairs."""
        trees = self._trees
        parent, tree_of, depth = _parents(trees, self._is_leaf)
        reached = np.flatnonzero(self._is_leaf & (tree_of >= 0))
        alone = np.isin(reached, trees.roots)  # a tree of one leaf is part of the base
        for leaf in reached[alone].tolist():
            self.base = self.base + self._leaf_values(np.array([leaf]), tree_of)[0]
        reached = reached[~alone]
        parts: dict[int, list[Leaves]] = {}
        steps = np.cumsum(depth[reached])
        if len(reached) and steps[-1] > MOST_STEPS:
            raise NotAdditive("its trees are too deep and too many")
        n_pairs = 0
        for chunk in np.split(reached, np.flatnonzero(np.diff(steps // _STEPS_AT_ONCE)) + 1):
            for leaves in self._paths(chunk, parent, tree_of) if len(chunk) else ():
                parts.setdefault(leaves.n_pairs, []).append(leaves)
                n_pairs += leaves.column.size
            if n_pairs > MOST_ALL_PAIRS:
                raise NotAdditive("its trees are too large and too many")
        return [_joined(parts[n_pairs]) for n_pairs in sorted(parts)]

    def _leaf_values(self, leaves: Array, tree_of: Array) -> FloatArray:
        trees = self._trees
        values = trees.value[leaves]
        if trees.outputs is not None and values.shape[1] == 1:
            return np.asarray(values * self._weights.T[trees.outputs[tree_of[leaves]]] / trees.divisor)
        return np.asarray(values @ self._weights.T / trees.divisor)

    def _paths(self, leaves: Array, parent: Array, tree_of: Array) -> list[Leaves]:
        """Climb from all leaves at once, then merge the splits of each leaf by their column."""
        trees = self._trees
        of_leaf, nodes, below = _climbed(leaves, parent)
        column = np.searchsorted(self.columns, trees.feature[nodes])
        order = np.lexsort((column, of_leaf))
        of_leaf, nodes, below, column = of_leaf[order], nodes[order], below[order], column[order]
        starts = np.flatnonzero(np.diff(of_leaf, prepend=-1) | np.diff(column, prepend=-1))
        left = trees.left[nodes] == below
        rank = self._rank_of[nodes]
        by_category = self._by_category[column]
        top = np.array([len(thresholds) for thresholds in self._thresholds])[column]
        low = np.maximum.reduceat(np.where(left | by_category, 0, rank + 1), starts)
        high = np.minimum.reduceat(np.where(left & ~by_category, rank, top), starts)
        missing = np.logical_and.reduceat((trees.missing_left[nodes] != 0) == left, starts)
        share = np.multiply.reduceat(self._shares(nodes, below), starts)
        never = high < low  # no number meets it: an interval that nothing can be in
        low, high = np.where(never, np.iinfo(self._rank_type).max, low), np.where(never, 0, high)
        span = np.where(never, 0, high - low)
        met = self._met_categories(nodes, left, starts)
        pairs = _Pairs(
            of_leaf[starts], column[starts], low.astype(self._rank_type), span.astype(self._rank_type), missing, share,
            by_category[starts], met,
        )  # fmt: skip
        return self._by_length(leaves, pairs, tree_of)

    def _shares(self, nodes: Array, below: Array) -> FloatArray:
        cover = self._trees.cover
        assert cover is not None
        above = cover[nodes]
        # Where no training row came by, both ways are taken to be equally likely.
        return np.asarray(np.divide(cover[below], above, out=np.full(len(nodes), 0.5), where=above > 0))

    def _met_categories(self, nodes: Array, left: Array, starts: Array) -> Array | None:
        """For pairs that ask for categories, which of them meet the pair: shape ``(n_pairs, n_categories + 1)``."""
        if self._category_table is None:
            return None
        row_of, table = self._category_table
        rows = row_of[nodes]
        if len(starts) * table.shape[1] > MOST_CATEGORY_CELLS:
            raise NotAdditive("its splits by categories are too many")
        met = np.ones((len(starts), table.shape[1]), dtype=bool)
        pair_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(nodes)))
        for at in np.flatnonzero(rows >= 0).tolist():
            met[pair_of[at]] &= table[rows[at]] == left[at]
        return met

    def _by_length(self, leaves: Array, pairs: "_Pairs", tree_of: Array) -> list[Leaves]:
        counts = np.bincount(pairs.leaf, minlength=len(leaves))
        if counts.max(initial=0) > MOST_PAIRS:
            raise NotAdditive(f"a path asks for {counts.max()} columns, at most {MOST_PAIRS} are explained exactly")
        values = self._leaf_values(leaves, tree_of)
        return [
            self._of_length(int(length), np.flatnonzero(counts == length), counts, values, pairs)
            for length in np.unique(counts)
        ]

    def _of_length(self, length: int, chosen: Array, counts: Array, values: FloatArray, pairs: "_Pairs") -> Leaves:
        first = (np.cumsum(counts) - counts)[chosen]
        at = first[:, None] + np.arange(length)
        column = pairs.column[at]
        categories = None
        if pairs.met is not None and pairs.by_category[at].any():
            leaf, pair = np.nonzero(pairs.by_category[at])
            categories = Categories(leaf, pair, column[leaf, pair], pairs.met[at[leaf, pair]])
        return Leaves(
            values[chosen], column.astype(np.int32), pairs.low[at], pairs.span[at], pairs.missing[at], pairs.share[at],
            self._feature_of[self.columns[column]].astype(np.int32), categories,
        )  # fmt: skip


@dataclass(frozen=True)
class _Pairs:
    """All pairs of some leaves, by leaf."""

    leaf: Array
    column: Array
    low: Array
    span: Array
    missing: Array
    share: Array
    by_category: Array
    met: Array | None


def _parents(trees: Trees, is_leaf: Array) -> tuple[Array, Array, Array]:
    """Parent, tree and depth of each node; -1, -1 and 0 for those that have none."""
    inner = np.flatnonzero(~is_leaf)
    parent = np.full(len(is_leaf), -1)
    parent[trees.left[inner]] = inner
    parent[trees.right[inner]] = inner
    tree_of = np.full(len(is_leaf), -1)
    tree_of[trees.roots] = np.arange(len(trees.roots))
    depth = np.zeros(len(is_leaf), dtype=np.int64)
    level = trees.roots[~is_leaf[trees.roots]]
    while len(level):
        children = np.concatenate([trees.left[level], trees.right[level]])
        tree_of[children] = np.tile(tree_of[level], 2)
        depth[children] = np.tile(depth[level], 2) + 1
        level = children[~is_leaf[children]]
    return parent, tree_of, depth


def _climbed(leaves: Array, parent: Array) -> tuple[Array, Array, Array]:
    """Every split above every leaf: (number of the leaf, split, the child that leads to the leaf)."""
    steps = []
    below, numbers = leaves, np.arange(len(leaves))
    while len(below):
        above = parent[below]
        on_the_way = above >= 0
        below, numbers, above = below[on_the_way], numbers[on_the_way], above[on_the_way]
        steps.append((numbers, above, below))
        below = above
    of_leaf, nodes, children = (np.concatenate(arrays) for arrays in zip(*steps, strict=True))
    return of_leaf, nodes, children


def _joined(parts: list[Leaves]) -> Leaves:
    if len(parts) == 1:
        return parts[0]

    def all_of(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    starts = np.cumsum([0, *map(len, parts)]).tolist()
    sets = [(part.categories, start) for part, start in zip(parts, starts[:-1], strict=True) if part.categories]
    categories = None
    if sets:
        categories = Categories(
            np.concatenate([one.leaf + start for one, start in sets]),
            *(np.concatenate([getattr(one, name) for one, _ in sets]) for name in ("pair", "column", "met")),
        )
    names = ("value", "column", "low", "span", "missing", "share", "feature")
    return Leaves(**{name: all_of(name) for name in names}, categories=categories)

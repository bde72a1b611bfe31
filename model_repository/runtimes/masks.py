"""
Ensembles of small trees, scored without walking them.

Number the leaves of a tree from left to right and give each a bit. A split that sends a row to the right rules out
every leaf to its left; after all splits of the tree have ruled out theirs, the lowest bit that remains is the leaf
that the row falls into. All splits on one column can be taken together: their thresholds cut its values into bins (a
lookup cuts them into states), and for each bin one mask per tree says what remains. So a row costs one table row per
column and an AND, for all trees at once; there are no branches, and nothing of it needs more than numpy.

Source: Lucchese, Nardini, Orlando, Perego, Tonellotto and Venturini, "QuickScorer: a Fast Algorithm to Rank Documents
with Additive Ensembles of Regression Trees", SIGIR 2015; the tables per column, and lookups as states, are ours.

Sums run over the trees in their order, from the base, as the libraries' own do: so the answers are equal to the last
bit.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Trees
from model_repository.runtimes.encoding import Encoded, Encoding
from model_repository.runtimes.forest_shape import Shape, goes_left
from model_repository.tables import FloatArray

Array = NDArray[Any]
MOST_LEAVES: Final = 64
MOST_TABLE_BYTES: Final = 128 * 1024 * 1024
_ROWS_AT_ONCE: Final = 128
"""Masks of so many rows stay in the second-level cache (measured: 64 to 256 are equal within 10 %)."""


class MaskScorer:
    """Trees of at most 64 leaves; see the module."""

    most_single_rows = 4

    def __init__(self, trees: Trees, encoding: Encoding, shape: Shape) -> None:
        self._n_trees = len(trees.roots)
        self._n_raw = trees.n_raw
        widest = int(shape.n_leaves.max())
        self._mask_type: Any = np.uint32 if widest <= 32 else np.uint64
        self._one = self._mask_type(1)
        self._single = trees.single
        left_masks, leaves = self._leaves(trees, shape)
        self._sum = _Sum(trees, leaves, widest)
        splits = _splits_by_column(trees, shape)
        self._numbers: list[tuple[int, Array, Array]] = []  # place, edges of the bins, what remains in each
        self._states: list[tuple[int, Array]] = []
        self._bin_side: Any = "right" if trees.strict else "left"
        for place, column in enumerate(encoding.numbers):
            if (nodes := splits.get(column.at)) is not None:
                self._numbers.append((place, *self._number_table(trees, shape, nodes, left_masks)))
        for place, columns in enumerate(encoding.lookups):
            table = self._full(columns.lookup.n_states)
            used = [(position, splits[at]) for position, at in enumerate(columns.block.at) if at in splits]
            for position, nodes in used:
                values = columns.lookup.column(position)
                for node in nodes:
                    right = ~goes_left(trees, node, values)
                    table[right, shape.tree_of[node]] &= ~left_masks[node]
            if used:
                self._states.append((place, table))
        self._stack_tables(bisect_right if trees.strict else bisect_left)

    def _stack_tables(self, bisect: Callable[[list[float], float], int]) -> None:
        """For single rows: all tables as one, so that the masks of a row are fetched and joined in two calls."""
        tables = [table for _, _, table in self._numbers] + [table for _, table in self._states]
        ends = np.cumsum([0, *map(len, tables)]).tolist()
        self._all_masks = np.concatenate([*tables, self._full(1)])  # the last row rules nothing out
        views = [self._all_masks[start:end] for start, end in pairwise(ends)]
        n_numbers = len(self._numbers)
        self._numbers = [(place, edges, view) for (place, edges, _), view in zip(self._numbers, views, strict=False)]
        self._states = [(place, view) for (place, _), view in zip(self._states, views[n_numbers:], strict=True)]
        self._number_steps = [
            (place, start, start + len(edges) + 1, partial(bisect, edges.tolist()))
            for (place, edges, _), start in zip(self._numbers, ends, strict=False)
        ]
        self._state_steps = [(place, start) for (place, _), start in zip(self._states, ends[n_numbers:], strict=False)]
        self._nothing_out = ends[-1]

    def raw(self, encoded: Encoded) -> FloatArray:
        """Sums of many rows, shape ``(n_rows, n_raw)``."""
        rows: list[tuple[Array, Array]] = []
        for place, edges, table in self._numbers:
            rows.append((table, self._bins(encoded.numbers[place], edges)))
        rows += [(table, encoded.states[place]) for place, table in self._states]
        out = np.empty((encoded.n_rows, self._n_raw))
        remaining = np.empty((min(_ROWS_AT_ONCE, encoded.n_rows), self._n_trees), dtype=self._mask_type)
        masks = np.empty_like(remaining)
        for start in range(0, encoded.n_rows, _ROWS_AT_ONCE):
            n = min(_ROWS_AT_ONCE, encoded.n_rows - start)
            left, mask = remaining[:n], masks[:n]
            left.fill(~self._mask_type(0))
            for table, bins in rows:
                table.take(bins[start : start + n], axis=0, out=mask, mode="clip")
                np.bitwise_and(left, mask, out=left)
            out[start : start + n] = self._sum(self._exits(left))
        return out

    def raw_row(self, numbers: Sequence[float], states: Sequence[int]) -> Sequence[float]:
        """Sums of one row."""
        rows = [self._nothing_out]
        for place, start, missing, bin_of in self._number_steps:
            x = numbers[place]
            if self._single:
                x = float(np.float32(x))
            rows.append(missing if x != x else start + bin_of(x))  # NaN is not itself
        for place, start in self._state_steps:
            rows.append(start + states[place])
        remaining = np.bitwise_and.reduce(self._all_masks.take(rows, axis=0), axis=0)
        return self._sum.of_row(self._exits(remaining))

    def _exits(self, remaining: Array) -> Array:
        """Number of the lowest bit of each mask: the exponent of that power of two as a float, which is exact."""
        lowest = remaining & (~remaining + self._one)
        return np.asarray((lowest.astype(np.float32).view(np.int32) >> 23) - 127)

    def _bins(self, values: FloatArray, edges: Array) -> Array:
        if self._single:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(np.float64)
        bins = np.searchsorted(edges, values, side=self._bin_side)
        bins[np.isnan(values)] = len(edges) + 1
        return bins

    def _full(self, n_rows: int) -> Array:
        return np.full((n_rows, self._n_trees), ~self._mask_type(0), dtype=self._mask_type)

    def _number_table(self, trees: Trees, shape: Shape, nodes: Array, left_masks: Array) -> tuple[Array, Array]:
        """Edges of the bins of a number, and what remains in each bin; the last row is for missing."""
        edges = np.unique(trees.threshold[nodes])
        table = self._full(len(edges) + 2)
        first_right = np.searchsorted(edges, trees.threshold[nodes]) + 1
        for node, first in zip(nodes.tolist(), first_right.tolist(), strict=True):
            tree, ruled_out = shape.tree_of[node], ~left_masks[node]
            table[first:-1, tree] &= ruled_out
            if not trees.missing_left[node]:
                table[-1, tree] &= ruled_out
        return edges, table

    def _leaves(self, trees: Trees, shape: Shape) -> tuple[Array, Array]:
        """For each node the bits of the leaves to its left, and the nodes of the leaves, ``(n_trees, most leaves)``."""
        left_masks = np.zeros(len(trees.threshold), dtype=self._mask_type)
        own = [0] * len(trees.threshold)
        leaves = np.tile(trees.roots[:, None], (1, int(shape.n_leaves.max())))
        for tree, root in enumerate(trees.roots.tolist()):
            order, stack, found = [], [root], 0
            while stack:
                node = stack.pop()
                order.append(node)
                if shape.is_leaf[node]:
                    own[node] = 1 << found
                    leaves[tree, found] = node
                    found += 1
                else:
                    stack += [int(trees.right[node]), int(trees.left[node])]
            for node in reversed(order):
                if not shape.is_leaf[node]:
                    left = own[int(trees.left[node])]
                    left_masks[node] = left
                    own[node] = left | own[int(trees.right[node])]
        return left_masks, leaves


class _Sum:
    """Adds up leaf values over the trees, in their order."""

    def __init__(self, trees: Trees, leaves: Array, widest: int) -> None:
        self._type: Any = np.float32 if trees.single_sum else np.float64
        values = trees.value[leaves].astype(self._type)  # (n_trees, widest, n_values)
        self._vector = values.shape[2] > 1
        self._values = values.reshape(-1, values.shape[2]) if self._vector else values.ravel()
        self._offsets = (np.arange(len(trees.roots)) * widest).astype(np.intp)
        self._base = trees.base.astype(self._type)
        self._divisor = trees.divisor
        n_raw = trees.n_raw
        outputs = np.zeros(len(trees.roots), dtype=int) if trees.outputs is None else trees.outputs
        self._trees_of: list[Any] = (
            [np.flatnonzero(outputs == output) for output in range(n_raw)] if n_raw > 1 else [slice(None)]
        )

    def __call__(self, exits: Array) -> FloatArray:
        """Shape ``(n_rows, n_raw)`` from leaf numbers of shape ``(n_rows, n_trees)``."""
        values = self._values.take(exits + self._offsets, axis=0)
        if self._vector:
            total = self._added(np.broadcast_to(self._base, (len(values), 1, len(self._base))), values)
        else:
            parts = [
                self._added(np.full((len(values), 1), base, dtype=self._type), values[:, chosen])
                for base, chosen in zip(self._base, self._trees_of, strict=True)
            ]
            total = np.stack(parts, axis=1)
        return np.asarray(total / self._divisor if self._divisor != 1.0 else total, dtype=np.float64)

    def of_row(self, exits: Array) -> Sequence[float]:
        """The same for one row: leaf numbers of shape ``(n_trees,)``."""
        if self._vector or len(self._trees_of) > 1:
            return self(exits[None, :])[0].tolist()  # type: ignore[no-any-return]  # a list of floats
        steps = np.concatenate([self._base, self._values.take(exits + self._offsets)])
        return (float(np.add.accumulate(steps, out=steps)[-1] / self._divisor),)

    def _added(self, base: Array, values: Array) -> Array:
        """One after the other: numpy's own ``sum`` adds pairwise, and differs in the last bits."""
        steps = np.concatenate([base, values], axis=1)
        return np.asarray(np.add.accumulate(steps, axis=1, out=steps)[:, -1])


def fits(trees: Trees, encoding: Encoding, shape: Shape) -> bool:
    """Whether the ensemble's trees are small enough, and its tables too."""
    if int(shape.n_leaves.max()) > MOST_LEAVES:
        return False
    splits = _splits_by_column(trees, shape)
    categorical = set() if trees.category_node is None else set(trees.feature[trees.category_node].tolist())
    n_rows = 0
    for column in encoding.numbers:
        if column.at in splits:
            if column.at in categorical:
                return False  # a number compared with sets has no bins
            n_rows += len(np.unique(trees.threshold[splits[column.at]])) + 2
    n_rows += sum(columns.lookup.n_states for columns in encoding.lookups)
    return n_rows * len(trees.roots) * (4 if int(shape.n_leaves.max()) <= 32 else 8) <= MOST_TABLE_BYTES


def _splits_by_column(trees: Trees, shape: Shape) -> dict[int, Array]:
    """The nodes that split on each column of the matrix."""
    inner = np.flatnonzero(~shape.is_leaf & (shape.tree_of >= 0))
    order = inner[np.argsort(trees.feature[inner], kind="stable")]
    columns, starts = np.unique(trees.feature[order], return_index=True)
    return dict(zip(columns.tolist(), np.split(order, starts[1:]), strict=True))

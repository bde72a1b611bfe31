"""Ensembles of large trees, walked level by level: all rows of a block take one step at a time in one tree."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Trees
from model_repository.runtimes.encoding import Encoded, Encoding
from model_repository.runtimes.forest_shape import Shape, category_table
from model_repository.tables import FloatArray

Array = NDArray[Any]
_MATRIX_BYTES: Final = 64 * 1024 * 1024
_MOST_ROWS: Final = 16384
"""Rows that walk together: fewer pay for each numpy call more often, more do not gain (measured)."""
_FIRST_CHECK: Final = 6
"""Steps before anyone looks which rows have arrived: shallower leaves are rare."""
_CHECK_EVERY: Final = 4


class WalkScorer:
    """Trees of any size."""

    most_single_rows = 16

    def __init__(self, trees: Trees, encoding: Encoding, shape: Shape) -> None:
        self._encoding = encoding
        self._depths = shape.depths
        self._roots: list[int] = trees.roots.tolist()
        self._root_array = trees.roots.astype(np.intp)
        self._feature = np.where(shape.is_leaf, 0, trees.feature).astype(np.intp)
        self._threshold = trees.threshold.astype(np.float32 if trees.single and trees.strict else np.float64)
        self._children = np.stack([trees.right, trees.left], axis=1).astype(np.intp).ravel()  # [2 * node + goes left]
        self._is_leaf = shape.is_leaf
        self._missing_left = trees.missing_left.astype(bool)
        self._any_missing_left = bool(self._missing_left[~shape.is_leaf].any())
        self._compare: Any = np.less if trees.strict else np.less_equal
        self._categories = category_table(trees)
        self._type: Any = np.float32 if trees.single else np.float64
        self._sum_type: Any = np.float32 if trees.single_sum else np.float64
        self._values = trees.value.astype(self._sum_type)
        self._outputs = None if trees.outputs is None else trees.outputs.tolist()
        self._base = trees.base.astype(self._sum_type)
        self._divisor = trees.divisor

    def raw(self, encoded: Encoded) -> FloatArray:
        """Sums of many rows, shape ``(n_rows, n_raw)``."""
        row_bytes = max(1, self._encoding.width) * np.dtype(self._type).itemsize
        most = max(256, min(_MOST_ROWS, _MATRIX_BYTES // row_bytes))
        step = math.ceil(encoded.n_rows / max(1, math.ceil(encoded.n_rows / most)))
        parts = [self._block(encoded.part(at, at + step)) for at in range(0, encoded.n_rows, max(1, step))]
        return np.concatenate(parts) if parts else np.empty((0, len(self._base)))

    def raw_row(self, numbers: Sequence[float], states: Sequence[int]) -> Sequence[float]:
        """Sums of one row: all trees take a step at a time."""
        encoded = Encoded(1, [np.array([x]) for x in numbers], [np.array([state]) for state in states])
        cells = self._encoding.matrix(encoded, self._type).ravel()
        nodes = self._root_array
        for depth in range(max(self._depths)):
            if depth > _FIRST_CHECK and depth % _CHECK_EVERY == 0 and self._is_leaf.take(nodes).all():
                break
            nodes = self._step(nodes, cells, self._feature.take(nodes))
        total = np.tile(self._base, (1, 1))
        for tree, node in enumerate(nodes.tolist()):
            self._add(total, tree, self._values[node])
        return (total[0] / self._divisor).astype(np.float64).tolist()  # type: ignore[no-any-return]  # a list of floats

    def _block(self, encoded: Encoded) -> FloatArray:
        matrix = self._encoding.matrix(encoded, self._type)
        n_rows = len(matrix)
        cells = matrix.ravel(order="F")  # column by column: near the root all rows read the same few columns
        starts = self._feature * n_rows
        total = np.tile(self._base, (n_rows, 1))
        for tree, root in enumerate(self._roots):
            nodes = self._arrive(root, self._depths[tree], cells, starts)
            self._add(total, tree, self._values.take(nodes, axis=0))
        return np.asarray(total / self._divisor if self._divisor != 1.0 else total, dtype=np.float64)

    def _arrive(self, root: int, depth: int, cells: Array, starts: Array) -> Array:
        """The leaf of each row in one tree; *starts* says where the column of each node's split begins in *cells*."""
        n_rows = len(cells) // max(1, self._encoding.width)
        arrived = np.full(n_rows, root)
        nodes, rows = arrived, np.arange(n_rows)
        for done in range(1, depth + 1):
            nodes = self._step(nodes, cells, starts.take(nodes) + rows)
            if done < _FIRST_CHECK or done % _CHECK_EVERY or done == depth:
                continue
            arrived[rows] = nodes
            on_the_way = np.flatnonzero(~self._is_leaf.take(nodes))
            nodes, rows = nodes[on_the_way], rows[on_the_way]
            if not len(rows):
                return arrived
        arrived[rows] = nodes
        return arrived

    def _step(self, nodes: Array, cells: Array, places: Array) -> Array:
        """One step down; a leaf is its own child."""
        x = cells.take(places)
        left = self._compare(x, self._threshold.take(nodes))  # False for NaN
        if self._categories is not None:
            left = self._by_category(nodes, x, left)
        if self._any_missing_left:
            left |= np.isnan(x) & self._missing_left.take(nodes)
        return np.asarray(self._children.take(2 * nodes + left))

    def _by_category(self, nodes: Array, x: Array, left: Array) -> Array:
        assert self._categories is not None
        row_of, table = self._categories
        rows = row_of.take(nodes)
        beyond = table.shape[1] - 1
        with np.errstate(invalid="ignore"):
            code = np.where((x >= 0) & (x < beyond), x, beyond).astype(np.intp)
        return np.where(rows >= 0, table[rows, code], left)

    def _add(self, total: Array, tree: int, values: Array) -> None:
        if self._outputs is not None and values.shape[-1] == 1 and total.shape[1] > 1:
            total[:, self._outputs[tree]] += values[..., 0]
        else:
            total += values

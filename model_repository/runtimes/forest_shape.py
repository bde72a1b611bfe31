"""What both tree scorers need to know of an ensemble: depths, which tree a node is of, which way a value goes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Trees

Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """The shape of an ensemble."""

    tree_of: Array
    """Tree of each node, -1 for nodes that no tree reaches."""
    depths: list[int]
    """Most steps from root to leaf, per tree."""
    n_leaves: Array
    is_leaf: Array


def shape_of(trees: Trees) -> Shape:
    """Walk all trees at once, level by level; it ends because every child stands behind its parent and has only one."""
    ids = np.arange(len(trees.threshold))
    is_leaf = trees.left == ids
    tree_of = np.full(len(ids), -1)
    tree_of[trees.roots] = np.arange(len(trees.roots))
    depths = np.zeros(len(trees.roots), dtype=int)
    level, depth = trees.roots[~is_leaf[trees.roots]], 0
    while len(level):
        depth += 1
        depths[tree_of[level]] = depth
        for side in (trees.left[level], trees.right[level]):
            tree_of[side] = tree_of[level]
        children = np.concatenate([trees.left[level], trees.right[level]])
        level = children[~is_leaf[children]]
    n_leaves = np.bincount(tree_of[is_leaf & (tree_of >= 0)], minlength=len(trees.roots))
    return Shape(tree_of, depths.tolist(), n_leaves, is_leaf)


def category_table(trees: Trees) -> tuple[Array, Array] | None:
    """For each node its row in a table of "category goes left", or None when no node splits on categories."""
    nodes, start, categories = trees.category_node, trees.category_start, trees.categories
    if nodes is None or start is None or categories is None:
        return None
    width = int(categories.max(initial=0)) + 2  # the last column stands for every category beyond
    table = np.zeros((len(nodes), width), dtype=bool)
    table[np.repeat(np.arange(len(nodes)), np.diff(start)), categories] = True
    row_of = np.full(len(trees.threshold), -1, dtype=np.int32)
    row_of[nodes] = np.arange(len(nodes))
    return row_of, table


def goes_left(trees: Trees, node: int, values: Array) -> Array:
    """Whether each value goes left at *node*."""
    if trees.single:
        values = values.astype(np.float32).astype(np.float64)
    nodes, start, categories = trees.category_node, trees.category_start, trees.categories
    place = -1 if nodes is None else int(np.searchsorted(nodes, node))
    with np.errstate(invalid="ignore"):
        if (
            nodes is not None
            and start is not None
            and categories is not None
            and place < len(nodes)
            and nodes[place] == node
        ):
            left = np.isin(np.trunc(values), categories[start[place] : start[place + 1]])
        else:
            left = values < trees.threshold[node] if trees.strict else values <= trees.threshold[node]
    return np.where(np.isnan(values), bool(trees.missing_left[node]), left)

"""Trees and forests of scikit-learn as plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.compiler.columns import Fitted
from model_repository.compiler.errors import NotCompilable
from model_repository.plan import Link, Trees

Array = NDArray[Any]
TREES: Final = frozenset(
    {"DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"}
)
FORESTS: Final = frozenset(
    {"RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"}
)
BOOSTED: Final = frozenset({"GradientBoostingClassifier", "GradientBoostingRegressor"})
HISTOGRAM: Final = frozenset({"HistGradientBoostingClassifier", "HistGradientBoostingRegressor"})


@dataclass(frozen=True)
class Nodes:
    """One tree with node 0 as its root; ``left`` is -1 for a leaf."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array
    """Shape ``(n_nodes, n_values)``."""
    cover: Array
    """Training rows that came by, or their weight."""
    category_node: tuple[int, ...] = ()
    categories: tuple[tuple[int, ...], ...] = ()


def ensemble(trees: Sequence[Nodes], base: Sequence[float], **options: Any) -> Trees:
    """One flat ensemble; children are renumbered to stand behind their parents."""
    ordered = [_preorder(tree) for tree in trees]
    sizes = [len(tree.left) for tree in ordered]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    own = [np.arange(size) for size in sizes]
    shift = list(zip(ordered, own, starts[:-1].tolist(), strict=True))

    def joined(name: str) -> Array:
        return np.concatenate([getattr(tree, name) for tree in ordered])

    with_categories = any(tree.category_node for tree in ordered)
    nodes = [node + start for tree, _, start in shift for node in tree.category_node]
    sets = [sorted(chosen) for tree in ordered for chosen in tree.categories]
    return Trees(
        feature=joined("feature").astype(np.int32),
        threshold=joined("threshold").astype(np.float64),
        left=np.concatenate([np.where(tree.left < 0, ids, tree.left) + start for tree, ids, start in shift]).astype(
            np.int32
        ),
        right=np.concatenate([np.where(tree.left < 0, ids, tree.right) + start for tree, ids, start in shift]).astype(
            np.int32
        ),
        missing_left=joined("missing_left").astype(np.uint8),
        value=joined("value").astype(np.float64),
        cover=joined("cover").astype(np.float64),
        roots=starts[:-1].astype(np.int32),
        base=np.asarray(base, dtype=np.float64),
        category_node=np.array(nodes, dtype=np.int32) if with_categories else None,
        category_start=np.cumsum([0, *map(len, sets)], dtype=np.int32) if with_categories else None,
        categories=np.array([c for chosen in sets for c in chosen], dtype=np.int32) if with_categories else None,
        **options,
    )


def _preorder(tree: Nodes) -> Nodes:
    """The same tree with its nodes in depth-first order, left before right."""
    order: list[int] = []
    stack = [0]
    while stack:
        node = stack.pop()
        order.append(node)
        if tree.left[node] >= 0:
            stack += [int(tree.right[node]), int(tree.left[node])]
    new = np.full(len(tree.left), -1)
    new[order] = np.arange(len(order))
    leaf = tree.left[order] < 0
    category = sorted(
        (int(new[node]), chosen) for node, chosen in zip(tree.category_node, tree.categories, strict=True)
    )
    return Nodes(
        feature=np.where(leaf, 0, tree.feature[order]),
        threshold=np.where(leaf, 0.0, tree.threshold[order]),
        left=np.where(leaf, -1, new[tree.left[order]]),
        right=np.where(leaf, -1, new[tree.right[order]]),
        missing_left=np.where(leaf, 0, tree.missing_left[order]),
        value=tree.value[order],
        cover=tree.cover[order],
        category_node=tuple(node for node, _ in category),
        categories=tuple(chosen for _, chosen in category),
    )


def is_tree_model(estimator: Fitted) -> bool:
    """Whether `tree_model` takes it."""
    known = TREES | FORESTS | BOOSTED | HISTOGRAM | {"IsolationForest"}
    return type(estimator).__name__ in known and type(estimator).__module__.startswith(
        ("sklearn.tree.", "sklearn.ensemble.")
    )


def tree_model(estimator: Fitted) -> tuple[Trees, Link]:
    """
    Its trees and the link of its answer.

    Raises:
        NotCompilable: an option that is not supported.
    """
    name = type(estimator).__name__
    if name in TREES or name in FORESTS:
        return _forest(estimator, [estimator] if name in TREES else estimator.estimators_)
    if name in BOOSTED:
        return _gradient_boosting(estimator)
    if name in HISTOGRAM:
        return _histogram_boosting(estimator)
    return _isolation_forest(estimator)


def _sklearn_nodes(tree: Any, value: Array, features: Array | None = None) -> Nodes:
    feature = tree.feature if features is None else np.asarray(features)[np.maximum(tree.feature, 0)]
    return Nodes(
        feature, tree.threshold, tree.children_left, tree.children_right, tree.missing_go_to_left, value,
        tree.weighted_n_node_samples,
    )  # fmt: skip


def _forest(estimator: Fitted, members: Sequence[Fitted]) -> tuple[Trees, Link]:
    """scikit-learn compares in float32 and averages the members' answers in order."""
    classifies = hasattr(estimator, "classes_")
    if estimator.n_outputs_ != 1:
        raise NotCompilable(f"{type(estimator).__name__}: several targets")
    trees = [_sklearn_nodes(member.tree_, member.tree_.value[:, 0, :]) for member in members]
    n_outputs = len(estimator.classes_) if classifies else 1
    model = ensemble(trees, [0.0] * n_outputs, single=True, divisor=float(len(trees)))
    return model, Link("probability" if classifies and n_outputs > 1 else "identity")


def _gradient_boosting(estimator: Fitted) -> tuple[Trees, Link]:
    init = estimator.init_
    if not isinstance(init, str) and not type(init).__name__.startswith("Dummy"):
        raise NotCompilable(f"{type(estimator).__name__}: init={type(init).__name__}")
    base = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_)))[0]  # noqa: SLF001  # a constant of the fit
    trees, outputs = [], []
    for stage in estimator.estimators_:
        for output, member in enumerate(stage):
            trees.append(_sklearn_nodes(member.tree_, estimator.learning_rate * member.tree_.value[:, 0, :]))
            outputs.append(output)
    model = ensemble(trees, base, single=True, outputs=np.array(outputs, dtype=np.int32))
    if not hasattr(estimator, "classes_"):
        return model, Link("identity")
    if estimator.loss == "exponential":
        return model, Link("expit", 2.0)
    return model, Link("expit" if len(base) == 1 else "softmax")


_HISTOGRAM_LINKS: Final = {"poisson": "exp", "gamma": "exp"}


def _histogram_boosting(estimator: Fitted) -> tuple[Trees, Link]:
    trees, outputs = [], []
    for iteration in estimator._predictors:  # noqa: SLF001  # there is no public way to the fitted trees
        for output, predictor in enumerate(iteration):
            trees.append(_histogram_nodes(predictor))
            outputs.append(output)
    base = np.asarray(estimator._baseline_prediction, dtype=np.float64).ravel()  # noqa: SLF001
    model = ensemble(trees, base.tolist(), outputs=np.array(outputs, dtype=np.int32))
    if not hasattr(estimator, "classes_"):
        return model, Link("exp" if estimator.loss in _HISTOGRAM_LINKS else "identity")
    return model, Link("expit" if len(base) == 1 else "softmax")


def _histogram_nodes(predictor: Any) -> Nodes:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    split = np.flatnonzero((nodes["is_categorical"] != 0) & ~leaf)
    sets = [_bits(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]) for node in split]
    return Nodes(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"],
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"],
        value=nodes["value"][:, None],
        cover=nodes["count"],
        category_node=tuple(split.tolist()),
        categories=tuple(sets),
    )


def _bits(words: Array) -> tuple[int, ...]:
    """The numbers whose bits are set in an array of 32-bit words."""
    return tuple(np.flatnonzero(np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")).tolist())


def _isolation_forest(estimator: Fitted) -> tuple[Trees, Link]:
    """
    Leaves hold path lengths; the anomaly score is ``2 ** -(sum / scale)``.

    Source: Liu, Ting and Zhou, "Isolation Forest", ICDM 2008, equation 2.
    """
    from sklearn.ensemble._iforest import _average_path_length  # no public name for it

    trees = []
    per_tree = zip(
        estimator.estimators_,
        estimator.estimators_features_,
        estimator._decision_path_lengths,  # noqa: SLF001
        estimator._average_path_length_per_tree,  # noqa: SLF001
        strict=True,
    )
    for member, features, depth, rest in per_tree:
        trees.append(_sklearn_nodes(member.tree_, (depth + rest - 1.0)[:, None], features))
    scale = len(trees) * float(_average_path_length([estimator._max_samples])[0])  # noqa: SLF001
    return ensemble(trees, [0.0], single=True, outputs=np.zeros(len(trees), dtype=np.int32)), Link("isolation", scale)

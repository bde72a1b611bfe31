"""LightGBM and XGBoost models as plans, read from the libraries' own dumps."""

import json
from typing import Any, Final

import numpy as np

from model_repository.cells import category_text
from model_repository.compiler.columns import Column, Fitted, Source, States, Texts
from model_repository.compiler.errors import NotCompilable
from model_repository.compiler.trees import Nodes, ensemble
from model_repository.plan import Link, LinkName, StringKeys, Trees

_LIGHTGBM_LINKS: Final[dict[str, LinkName]] = {
    "binary": "expit", "multiclass": "softmax", "poisson": "exp", "gamma": "exp", "tweedie": "exp",
    "regression": "identity", "regression_l1": "identity", "huber": "identity", "fair": "identity",
    "quantile": "identity", "mape": "identity",
}  # fmt: skip
_XGBOOST_LINKS: Final[dict[str, LinkName]] = {
    "binary:logistic": "expit32", "multi:softprob": "softmax32", "count:poisson": "exp32", "reg:gamma": "exp32",
    "reg:tweedie": "exp32", "reg:squarederror": "identity", "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
}  # fmt: skip


def is_booster(estimator: Fitted) -> bool:
    """Whether `booster_model` takes it."""
    return type(estimator).__name__ in {"LGBMClassifier", "LGBMRegressor", "XGBClassifier", "XGBRegressor"}


def booster_model(estimator: Fitted, columns: list[Column]) -> tuple[Trees, Link, list[Column]]:
    """
    Its trees, the link of its answer, and its columns with pandas categories encoded as the library does.

    Raises:
        NotCompilable: an objective or option that is not supported.
    """
    if type(estimator).__name__.startswith("LGBM"):
        return _lightgbm(estimator, columns)
    if any(isinstance(column, Texts) for column in columns):
        raise NotCompilable("XGBoost: categorical columns of a data frame")
    return (*_xgboost(estimator), columns)


def _lightgbm(estimator: Fitted, columns: list[Column]) -> tuple[Trees, Link, list[Column]]:
    booster = estimator.booster_
    dump = booster.dump_model()
    objective, *options = dump.get("objective", "custom").split(" ")
    if objective not in _LIGHTGBM_LINKS or "sqrt" in options or dump.get("average_output"):
        raise NotCompilable(f"LightGBM: objective {' '.join([objective, *options])!r}")
    per_iteration = dump["num_tree_per_iteration"]
    trees = [_lightgbm_nodes(info["tree_structure"]) for info in dump["tree_info"]]
    outputs = np.arange(len(trees), dtype=np.int32) % per_iteration
    scale = next((float(option.split(":")[1]) for option in options if option.startswith("sigmoid:")), 1.0)
    model = ensemble(trees, [0.0] * per_iteration, outputs=outputs)
    return model, Link(_LIGHTGBM_LINKS[objective], scale), _with_codes(columns, booster.pandas_categorical)


def _with_codes(columns: list[Column], pandas_categorical: list[list[Any]] | None) -> list[Column]:
    """String columns become the codes that LightGBM gave their categories; any other text is missing."""
    categories = iter(pandas_categorical or [])
    out: list[Column] = []
    for column in columns:
        if not isinstance(column, Texts):
            out.append(column)
            continue
        if column.categories is None:
            raise NotCompilable("LightGBM: a string column that is not a pandas category")
        known = [category_text(value) for value in next(categories)]
        codes = np.array([*range(len(known)), np.nan, np.nan], dtype=np.float64)
        out.append(States.from_dense(Source(column.input, (), StringKeys(known), len(codes), ()), codes))
    return out


def _lightgbm_nodes(root: dict[str, Any]) -> Nodes:
    """LightGBM's nested dictionaries as arrays, without recursion: trees may be deeper than Python's stack."""
    feature: list[int] = []
    left: list[int] = []
    right: list[int] = []
    threshold, missing_left, value, cover = [], [], [], []
    category_node, categories = [], []
    stack: list[tuple[dict[str, Any], int, int]] = [(root, -1, 0)]
    while stack:
        node, parent, side = stack.pop()
        number = len(feature)
        if parent >= 0:
            (left, right)[side][parent] = number
        leaf = "leaf_value" in node
        by_category = not leaf and node["decision_type"] == "=="
        if not leaf and node["missing_type"] == "Zero":
            raise NotCompilable("LightGBM: zero_as_missing")
        feature.append(0 if leaf else node["split_feature"])
        threshold.append(0.0 if leaf or by_category else float(node["threshold"]))
        value.append(float(node["leaf_value"]) if leaf else 0.0)
        cover.append(node.get("leaf_count" if leaf else "internal_count", 1))  # a tree of one leaf does not say
        left.append(-1)
        right.append(-1)
        if leaf or by_category:
            missing_left.append(False)  # a missing category goes right
        else:
            missing_left.append(
                node["default_left"] if node["missing_type"] == "NaN" else float(node["threshold"]) >= 0.0
            )
        if by_category:
            category_node.append(number)
            categories.append(tuple(int(one) for one in str(node["threshold"]).split("||")))
        if not leaf:
            stack += [(node["right_child"], number, 1), (node["left_child"], number, 0)]
    return Nodes(
        np.array(feature), np.array(threshold), np.array(left), np.array(right), np.array(missing_left),
        np.array(value)[:, None], np.array(cover), tuple(category_node), tuple(categories),
    )  # fmt: skip


def _xgboost(estimator: Fitted) -> tuple[Trees, Link]:
    """XGBoost computes in float32 throughout, and so does its plan."""
    booster = estimator.get_booster()
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _XGBOOST_LINKS or learner["gradient_booster"]["name"] != "gbtree":
        raise NotCompilable(f"XGBoost: {learner['gradient_booster']['name']} with objective {objective!r}")
    model = learner["gradient_booster"]["model"]
    n_outputs = max(1, int(learner["learner_model_param"]["num_class"]))
    best = getattr(estimator, "best_iteration", None) if estimator.early_stopping_rounds else None
    n_trees = len(model["trees"]) if best is None else model["iteration_indptr"][best + 1]
    trees = [_xgboost_nodes(tree) for tree in model["trees"][:n_trees]]
    link = _XGBOOST_LINKS[objective]
    return ensemble(
        trees,
        _xgboost_base(learner["learner_model_param"]["base_score"], link, n_outputs),
        outputs=np.array(model["tree_info"][:n_trees], dtype=np.int32),
        strict=True,
        single=True,
        single_sum=True,
    ), Link(link)


def _xgboost_base(base_score: str, link: str, n_outputs: int) -> list[float]:
    """The stored base score is on the scale of the answer; the sum starts from it on the scale of the margin."""
    scores = np.atleast_1d(np.array(json.loads(base_score), dtype=np.float32))
    one = np.float32(1.0)
    # The logarithm of the C library, in float32, is the rounded exact one; numpy's own differs in the last place.
    if link == "expit32":
        scores = -np.log((one / scores - one).astype(np.float64)).astype(np.float32)
    elif link == "exp32":
        scores = np.log(scores.astype(np.float64)).astype(np.float32)
    return [float(score) for score in np.broadcast_to(scores, (n_outputs,))]


def _xgboost_nodes(tree: dict[str, Any]) -> Nodes:
    if any(tree["split_type"]):
        raise NotCompilable("XGBoost: categorical splits")
    left = np.array(tree["left_children"])
    conditions = np.array(tree["split_conditions"], dtype=np.float32).astype(np.float64)
    return Nodes(
        feature=np.array(tree["split_indices"]),
        threshold=conditions,
        left=left,
        right=np.array(tree["right_children"]),
        missing_left=np.array(tree["default_left"]),
        value=np.where(left < 0, conditions, 0.0)[:, None],
        cover=np.array(tree["sum_hessian"]),
    )

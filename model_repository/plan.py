"""
A fitted pipeline as plain data: which columns it makes of each feature, and the numbers of its last step.

A plan is JSON plus one block of little-endian arrays that the JSON points into. There is no code in it, and it is
checked on reading like any input, so a server can serve it without trusting, importing or even having the library
that made it.

The picture: every column of the matrix that the last step sees is a function of *one* feature. A `Block` says how one
feature becomes one or more of those columns: a chain of elementwise `Op` s on its number, then perhaps a `Lookup`
that turns the value into a row of a (sparse) table: one-hot, ordinal, binned, target-encoded are all tables. The
model is linear, an ensemble of trees, or calibrated ones of these. `Link` turns its raw sums into what the estimator
answers.

Rules for change: as for the manifest. A new kind of op, lookup, model or link raises `PLAN_VERSION`: an older server
must refuse it and serve the original estimator instead.
"""

import math
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_repository.errors import InvalidPackage
from model_repository.predictions import Target
from model_repository.tables import Schema

PLAN_VERSION: Final = 1
MAX_WIDTH: Final = 1_000_000
MAX_DEPTH: Final = 10_000
MAX_CATEGORY_CELLS: Final = 1 << 27
_ALIGNMENT: Final = 64
_DTYPES: Final = frozenset({"<f8", "<f4", "<i8", "<i4", "|u1"})

UNARY_OPS: Final = (
    "isnan", "zero-as-missing", "float32", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "cbrt", "square",
    "abs", "negative", "reciprocal", "sign", "sin", "cos", "tan", "tanh", "arctan", "floor", "ceil", "rint",
)  # fmt: skip
OP_ARGS: Final = dict.fromkeys(UNARY_OPS, 0) | {
    "fill": 1, "sub": 1, "div": 1, "mul": 1, "add": 1, "clip": 2, "yeo-johnson": 1, "box-cox": 1,
}  # fmt: skip


class Op(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One elementwise step on a number; `fill` replaces NaN, everything else passes it on."""

    name: str
    args: list[float] = []


class StringKeys(msgspec.Struct, frozen=True, tag="strings", forbid_unknown_fields=True):
    """The value is looked up by its text."""

    keys: list[str]


class NumberKeys(msgspec.Struct, frozen=True, tag="numbers", forbid_unknown_fields=True):
    """The value is looked up by equality; ``keys`` ascend."""

    keys: np.ndarray


class Edges(msgspec.Struct, frozen=True, tag="edges", forbid_unknown_fields=True):
    """The value is looked up by the bin that it falls in: bin = number of ``keys`` (ascending) at or below it."""

    keys: np.ndarray


class Lookup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A table with one row per state of the value and one column per column of the block, compressed by rows.

    The states are the keys (or bins) in order, then "missing", then "unknown".
    """

    by: StringKeys | NumberKeys | Edges
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    refused: list[int] = []
    """States that the estimator raises for."""

    @property
    def n_states(self) -> int:
        """Rows of the table."""
        return len(self.indptr) - 1

    @property
    def missing(self) -> int:
        """State of a missing value."""
        return self.n_states - 2

    @property
    def unknown(self) -> int:
        """State of a value that is none of the keys."""
        return self.n_states - 1

    def folded(self, weights: NDArray[Any]) -> NDArray[Any]:
        """The table times *weights* of shape ``(n_columns, m)``: shape ``(n_states, m)``."""
        out = np.zeros((self.n_states, weights.shape[1]))
        rows = np.repeat(np.arange(self.n_states), np.diff(self.indptr))
        np.add.at(out, rows, self.data[:, None] * weights[self.indices])
        return out

    def column(self, position: int) -> NDArray[Any]:
        """One column of the table, dense: shape ``(n_states,)``."""
        out = np.zeros(self.n_states)
        chosen = self.indices == position
        out[np.repeat(np.arange(self.n_states), np.diff(self.indptr))[chosen]] = self.data[chosen]
        return out

    def dense(self, n_columns: int) -> NDArray[Any]:
        """The whole table: shape ``(n_states, n_columns)``."""
        out = np.zeros((self.n_states, n_columns))
        out[np.repeat(np.arange(self.n_states), np.diff(self.indptr)), self.indices] = self.data
        return out


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of one feature."""

    input: int
    """Index into the schema's features."""
    ops: list[Op] = []
    lookup: Lookup | None = None
    at: list[int]
    """The columns of the matrix that this block fills; one, unless there is a lookup."""


class Linear(msgspec.Struct, frozen=True, tag="linear", kw_only=True, forbid_unknown_fields=True):
    """``matrix @ coef.T + intercept``."""

    coef: np.ndarray
    intercept: np.ndarray

    @property
    def n_raw(self) -> int:
        """Columns of the raw answer."""
        return len(self.intercept)


class Trees(msgspec.Struct, frozen=True, tag="trees", kw_only=True, forbid_unknown_fields=True):
    """
    An ensemble as flat arrays over all nodes; a child always stands behind its parent, a leaf is its own child.

    A row goes left when ``x <= threshold`` (``x < threshold`` if *strict*), when x is NaN and ``missing_left``, or,
    at a node with a category set, when the set holds x.
    """

    feature: np.ndarray
    """Column of the matrix, shape ``(n_nodes,)``; anything for a leaf."""
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    """Leaf values, shape ``(n_nodes, n_values)``: one number, or all outputs at once (forests of classifiers)."""
    roots: np.ndarray
    outputs: np.ndarray | None = None
    """Shape ``(n_trees,)``: the output that each tree adds to, when ``n_values`` is 1 and there are several outputs."""
    base: np.ndarray
    """What the sum starts from, shape ``(n_outputs,)``."""
    divisor: float = 1.0
    """The sum is divided by this: the number of trees of a forest."""
    strict: bool = False
    single: bool = False
    """Values are rounded to float32 before they are compared."""
    single_sum: bool = False
    """Leaves are summed in float32."""
    category_node: np.ndarray | None = None
    """Nodes that split on a set of categories, ascending."""
    category_start: np.ndarray | None = None
    """Where each one's categories start in ``categories``, shape ``(n_category_nodes + 1,)``."""
    categories: np.ndarray | None = None
    """The categories that go left, ascending per node; others go right."""
    cover: np.ndarray | None = None
    """The training rows that came by each node (or their weight), shape ``(n_nodes,)``; only explanations need it."""

    @property
    def n_raw(self) -> int:
        """Columns of the raw answer."""
        return len(self.base)


LinkName = Literal[
    "identity", "exp", "expit", "softmax", "one-vs-rest", "modified-huber", "vote", "probability", "isolation",
    "exp32", "expit32", "softmax32",
]  # fmt: skip


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From raw sums to what the estimator answers."""

    name: LinkName
    scale: float = 1.0
    """``expit``: raw is multiplied by it first; ``isolation``: the path length that means one half."""


class Sigmoid(msgspec.Struct, frozen=True, tag="sigmoid", forbid_unknown_fields=True):
    """Platt's calibration: ``expit(-(a * score + b))``."""

    a: float
    b: float


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic", forbid_unknown_fields=True):
    """Linear between the points, flat outside."""

    x: np.ndarray
    y: np.ndarray


class CalibratedMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fitted classifier and its calibrators, one per raw output."""

    model: Linear | Trees
    link: Link
    """Applied to the raw answer before calibration."""
    calibrators: list[Sigmoid | Isotonic]


class Calibrated(msgspec.Struct, frozen=True, tag="calibrated", kw_only=True, forbid_unknown_fields=True):
    """The mean of calibrated classifiers."""

    members: list[CalibratedMember]
    n_classes: int

    @property
    def n_raw(self) -> int:
        """Columns of the raw answer."""
        return self.n_classes


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole fitted pipeline."""

    version: int = PLAN_VERSION
    width: Annotated[int, msgspec.Meta(ge=0, le=MAX_WIDTH)]
    """Columns of the matrix."""
    blocks: list[Block]
    model: Linear | Trees | Calibrated
    link: Link
    order: list[int]
    """Output *i* of the target is column ``order[i]`` of the linked answer."""


def plan_members(plan: Plan) -> tuple[bytes, bytes]:
    """The plan as two members of a package: its JSON and its arrays."""
    arrays = bytearray()

    def place(value: Any) -> Any:
        data = np.ascontiguousarray(value)
        data = data.astype(data.dtype.newbyteorder("<"))
        arrays.extend(bytes(-len(arrays) % _ALIGNMENT))
        start = len(arrays)
        arrays.extend(data.tobytes())
        return {"dtype": data.dtype.str, "shape": list(data.shape), "at": start}

    return msgspec.json.encode(plan, enc_hook=place), bytes(arrays)


def plan_from(raw: bytes, arrays: bytes, schema: Schema, target: Target) -> Plan:
    """
    Read and check a plan; its arrays are read-only views of *arrays*.

    Raises:
        InvalidPackage: anything that could make scoring crash, loop or read out of bounds.
    """

    def view(_: type, value: Any) -> Any:
        return _array(value, arrays)

    try:
        plan = msgspec.json.decode(raw, type=Plan, dec_hook=view)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPackage(f"plan: {exc}") from exc
    _require(plan.version == PLAN_VERSION, f"version {plan.version} is not {PLAN_VERSION}")
    _check_blocks(plan, schema)
    _check_model(plan.model, plan.width)
    _check_outputs(plan, target)
    return plan


def _array(value: Any, arrays: bytes) -> NDArray[Any]:
    """A view of one array, if it lies within the block."""
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "at": int(at), **rest} if not rest and dtype in _DTYPES:
            if not all(type(side) is int and side >= 0 for side in shape) or at < 0 or at % 8:
                raise msgspec.ValidationError("array with a bad shape or place")
            count = math.prod(shape)
            kind = np.dtype(dtype)
            if at + count * kind.itemsize > len(arrays):
                raise msgspec.ValidationError("array beyond the end of the array member")
            return np.frombuffer(arrays, kind, count, at).reshape(shape)
    raise msgspec.ValidationError("not a reference to an array")


def _require(true: bool, problem: str) -> None:
    if not true:
        raise InvalidPackage(f"plan: {problem}")


def _is(array: NDArray[Any], kinds: str, *shape: int) -> bool:
    """Whether the array has one of the kinds (``f``, ``i``, ``u``) and the shape (-1: any length)."""
    fits = len(array.shape) == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    )
    return fits and array.dtype.kind in kinds


def _within(array: NDArray[Any], end: int) -> bool:
    """Whether all are valid indices below *end*."""
    return array.size == 0 or (int(array.min()) >= 0 and int(array.max()) < end)


def _check_blocks(plan: Plan, schema: Schema) -> None:
    filled: set[int] = set()
    for block in plan.blocks:
        _require(0 <= block.input < len(schema.features), "a block reads a feature that is not there")
        numeric = schema.features[block.input].is_numeric
        for op in block.ops:
            _require(OP_ARGS.get(op.name) == len(op.args), f"op {op.name!r} is unknown or has the wrong arguments")
        _require(numeric or not block.ops, "ops on a string feature")
        _require(all(0 <= at < plan.width for at in block.at), "a block fills a column that is not there")
        _require(filled.isdisjoint(block.at) and len(set(block.at)) == len(block.at), "a column is filled twice")
        filled.update(block.at)
        if block.lookup is None:
            _require(numeric and len(block.at) == 1, "a block without lookup must be one number")
        else:
            _require(isinstance(block.lookup.by, StringKeys) != numeric, "a lookup does not fit its feature")
            _check_lookup(block.lookup, len(block.at))
    _require(len(filled) == plan.width, "a column of the matrix is not filled")


def _check_lookup(lookup: Lookup, n_columns: int) -> None:
    keys = lookup.by.keys
    n_keys = len(keys)
    if isinstance(keys, list):
        _require(len(set(keys)) == n_keys, "a key stands twice")
    else:
        _require(_is(keys, "f", -1) and bool((np.diff(keys) > 0).all()), "keys do not ascend")
    n_states = n_keys + (3 if isinstance(lookup.by, Edges) else 2)
    _require(_is(lookup.indptr, "i", n_states + 1), "a lookup has the wrong number of states")
    _require(
        _is(lookup.indices, "i", -1) and _is(lookup.data, "f", len(lookup.indices)), "a lookup's table is not a table"
    )
    ends = lookup.indptr
    _require(
        ends[0] == 0 and ends[-1] == len(lookup.indices) and bool((np.diff(ends) >= 0).all()), "a lookup's rows overlap"
    )
    _require(_within(lookup.indices, n_columns), "a lookup fills a column that is not there")
    _require(all(0 <= state < n_states for state in lookup.refused), "a lookup refuses a state that is not there")


def _check_model(model: Linear | Trees | Calibrated, width: int) -> None:
    match model:
        case Linear():
            _require(_is(model.intercept, "f", -1), "intercept")
            _require(_is(model.coef, "f", len(model.intercept), width), "coef")
        case Trees():
            _check_trees(model, width)
        case Calibrated():
            _require(model.n_classes >= 2 and bool(model.members), "calibrated without members or classes")
            for member in model.members:
                _check_model(member.model, width)
                n_raw = 1 if model.n_classes == 2 else model.n_classes
                _require(len(member.calibrators) == n_raw, "calibrators do not fit the classes")
                for calibrator in member.calibrators:
                    if isinstance(calibrator, Isotonic):
                        fits = (
                            _is(calibrator.x, "f", -1)
                            and len(calibrator.x) > 0
                            and _is(calibrator.y, "f", len(calibrator.x))
                        )
                        _require(fits, "isotonic points")


def _check_trees(trees: Trees, width: int) -> None:
    """Children behind their only parents: so every walk ends soon, and nothing is read out of bounds."""
    n_nodes = len(trees.threshold)
    _require(_is(trees.threshold, "f", -1) and n_nodes > 0, "trees without nodes")
    _require(_is(trees.base, "f", -1) and len(trees.base) > 0, "base")
    for name in ("feature", "left", "right", "missing_left"):
        _require(_is(getattr(trees, name), "iu", n_nodes), f"trees: {name}")
    _require(_is(trees.roots, "i", -1) and len(trees.roots) > 0 and _within(trees.roots, n_nodes), "roots")
    ids = np.arange(n_nodes)
    leaf = trees.left == ids
    _require(bool(((trees.right == ids) == leaf).all()), "a leaf with a child")
    inner = ~leaf
    _require(
        bool((trees.left[inner] > ids[inner]).all() and (trees.right[inner] > ids[inner]).all()),
        "a child before its parent",
    )
    _require(_within(trees.left, n_nodes) and _within(trees.right, n_nodes), "a child that is not there")
    reached = np.concatenate([trees.left[inner], trees.right[inner], trees.roots])
    _require(bool((np.bincount(reached, minlength=n_nodes) <= 1).all()), "a node with two parents")
    _require(_depth(trees, leaf) <= MAX_DEPTH, f"a tree deeper than {MAX_DEPTH}")
    _require(_within(trees.feature[inner], width), "a split on a column that is not there")
    n_values = trees.value.shape[1] if trees.value.ndim == 2 else 0
    _require(_is(trees.value, "f", n_nodes, n_values) and n_values in {1, trees.n_raw}, "leaf values")
    if trees.outputs is not None:
        _require(_is(trees.outputs, "i", len(trees.roots)) and _within(trees.outputs, trees.n_raw), "tree outputs")
    _require(n_values == trees.n_raw or trees.outputs is not None, "trees do not say which output they add to")
    _require(math.isfinite(trees.divisor) and trees.divisor > 0, "divisor")
    if trees.cover is not None:
        _require(_is(trees.cover, "f", n_nodes), "cover")
        _require(bool((np.isfinite(trees.cover) & (trees.cover >= 0)).all()), "a cover that is no number of rows")
    if trees.category_node is not None:
        _check_categories(trees, n_nodes)


def _depth(trees: Trees, leaf: NDArray[Any]) -> int:
    """Steps from a root to the farthest leaf; it ends because every node has one parent, which stands before it."""
    level, depth = trees.roots, 0
    while len(level := level[~leaf[level]]) and depth <= MAX_DEPTH:
        level = np.concatenate([trees.left[level], trees.right[level]])
        depth += 1
    return depth


def _check_categories(trees: Trees, n_nodes: int) -> None:
    nodes, start, categories = trees.category_node, trees.category_start, trees.categories
    _require(nodes is not None and start is not None and categories is not None, "category splits")
    assert nodes is not None
    assert start is not None
    assert categories is not None
    _require(_is(nodes, "i", -1) and _within(nodes, n_nodes) and bool((np.diff(nodes) > 0).all()), "category nodes")
    _require(_is(start, "i", len(nodes) + 1) and _is(categories, "i", -1), "category sets")
    _require(
        start[0] == 0 and start[-1] == len(categories) and bool((np.diff(start) >= 0).all()), "category sets overlap"
    )
    largest = MAX_CATEGORY_CELLS // max(1, len(nodes))
    _require(_within(categories, max(1, largest)), "a category beyond what is kept as a table")


def _check_outputs(plan: Plan, target: Target) -> None:
    n_linked = n_outputs(plan.link, plan.model.n_raw)
    _require(len(plan.order) == target.n_outputs, "the outputs do not fit the target")
    _require(sorted(plan.order) == list(range(n_linked)), "order is not an order of the outputs")


def n_outputs(link: Link, n_raw: int) -> int:
    """Columns after the link: one raw score of a binary classifier becomes two probabilities."""
    binary = link.name in {"expit", "expit32", "modified-huber", "vote"} and n_raw == 1
    return 2 if binary else n_raw

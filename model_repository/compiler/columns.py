"""
Symbolic columns: what each column of a matrix is, as a function of one feature.

The compiler walks the fitted transformers with these instead of data. `Numbers` is a feature's number after some
elementwise ops; `Texts` is a string feature that nothing has encoded yet; `States` is one column of a lookup table.
Elementwise steps on a `States` column are applied to its table, at compile time: so whatever stands behind an encoder
costs nothing to serve.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.compiler.errors import NotCompilable
from model_repository.elementwise import apply_op
from model_repository.plan import Block, Edges, Lookup, NumberKeys, Op, StringKeys

Keys = StringKeys | NumberKeys | Edges
REFUSED: Final = object()


@dataclass(frozen=True)
class Numbers:
    """A numeric or boolean feature after *ops*."""

    input: int
    ops: tuple[Op, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Texts:
    """
    A string feature; missing values stand for *fill* if that is given.

    With *categories* (a pandas ``category`` column) any other text is read as missing, as pandas does.
    """

    input: int
    missing_as: str
    fill: str | None = None
    name: str | None = None
    categories: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False)
class States:
    """
    One column of a table over the states of a feature: *values* in the states *at*, *default* in all others.

    Columns with the same `source` object come from the same encoder on the same feature and share one block. Sparse,
    because a one-hot column of a feature with 30,000 categories is one number, not 30,000.
    """

    source: "Source"
    default: float
    at: NDArray[np.intp]
    values: NDArray[np.float64]
    name: str | None = None

    @classmethod
    def from_dense(cls, source: "Source", dense: NDArray[np.float64]) -> "States":
        """From one value per state."""
        at = np.flatnonzero(dense != 0)
        return cls(source, 0.0, at, dense[at])

    def dense(self) -> NDArray[np.float64]:
        """One value per state."""
        out = np.full(self.source.n_states, self.default)
        out[self.at] = self.values
        return out


@dataclass(frozen=True, eq=False)
class Source:
    """An encoder met one feature: how a value finds its state, and the states that the encoder refuses."""

    input: int
    ops: tuple[Op, ...]
    by: Keys
    n_states: int
    refused: tuple[int, ...]


Column = Numbers | Texts | States


def elementwise(column: Column, *ops: Op) -> Column:
    """The column after some more elementwise steps."""
    match column:
        case Numbers():
            return replace(column, ops=(*column.ops, *ops))
        case States():
            values, default = column.values, np.array([column.default])
            for op in ops:
                values, default = apply_op(op, values), apply_op(op, default)
            return replace(column, values=values, default=float(default[0]))
        case Texts():
            raise NotCompilable(f"arithmetic on strings ({ops[0].name})")


def number(column: Column) -> "Numbers | States":
    """The column, if it holds numbers."""
    if isinstance(column, Texts):
        raise NotCompilable("a string column reaches a step that needs numbers")
    return column


def blocks_of(columns: list[Column]) -> list[Block]:
    """The blocks that fill a matrix with these columns, in this order."""
    blocks: list[Block] = []
    tables: dict[Source, list[tuple[int, States]]] = {}
    for at, column in enumerate(columns):
        match number(column):
            case Numbers(input=feature, ops=ops):
                blocks.append(Block(input=feature, ops=list(ops), at=[at]))
            case States() as states:
                tables.setdefault(states.source, []).append((at, states))
    return [*blocks, *(_table_block(source, filled) for source, filled in tables.items())]


def _table_block(source: Source, filled: list[tuple[int, States]]) -> Block:
    rows, places, data = [], [], []
    for place, (_, column) in enumerate(filled):
        at, values = column.at, column.values
        if column.default != 0:
            at, values = np.arange(source.n_states), column.dense()
        rows.append(at)
        places.append(np.full(len(at), place))
        data.append(values)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=source.n_states))])
    lookup = Lookup(
        by=source.by,
        indptr=indptr.astype(np.int64),
        indices=np.concatenate(places)[order].astype(np.int32),
        data=np.concatenate(data)[order].astype(np.float64),
        refused=list(source.refused),
    )
    return Block(input=source.input, ops=list(source.ops), lookup=lookup, at=[at for at, _ in filled])


Transform = Callable[[list[Column]], list[Column]]
Fitted = Any
"""A fitted scikit-learn object: untyped here, its attributes are read by name."""

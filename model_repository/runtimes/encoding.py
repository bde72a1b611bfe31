"""From features to what a plan's model reads: transformed numbers, and states of lookup tables."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.checks import MISSING
from model_repository.elementwise import apply_ops, number_function
from model_repository.errors import UnscorableValue
from model_repository.plan import Block, Edges, Lookup, NumberKeys, Plan, StringKeys
from model_repository.tables import Cell, FloatArray, Schema, Strings, Table

StateArray = NDArray[np.intp]
_MOST_DENSE_CELLS: Final = 1 << 20


@dataclass(frozen=True)
class NumberColumn:
    """One column of the matrix that is a number."""

    feature: str
    place: int
    block: Block
    at: int

    def column(self, table: Table) -> FloatArray:
        """Its values, shape ``(n_rows,)``."""
        return apply_ops(self.block.ops, table.numeric[self.feature])


@dataclass(frozen=True)
class LookupColumns:
    """Some columns of the matrix that are rows of one table."""

    feature: str
    place: int
    block: Block
    lookup: Lookup

    def states(self, table: Table) -> StateArray:
        """
        The state of each row, shape ``(n_rows,)``.

        Raises:
            UnscorableValue: a value that the encoder refuses.
        """
        if isinstance(self.lookup.by, StringKeys):
            states = self._by_text(self.lookup.by, table.strings[self.feature])
        else:
            states = self._by_number(apply_ops(self.block.ops, table.numeric[self.feature]))
        if self.lookup.refused:
            bad = np.isin(states, self.lookup.refused)
            if bad.any():
                self._refuse(table, int(bad.argmax()), int(states[bad.argmax()]))
        return states

    def _by_text(self, by: StringKeys, column: Strings) -> StateArray:
        known = {key: state for state, key in enumerate(by.keys)}
        unknown = self.lookup.unknown
        of_code = np.array(
            [*(known.get(value, unknown) for value in column.values), self.lookup.missing], dtype=np.intp
        )
        return of_code[column.codes]  # code -1, missing, is the last

    def _by_number(self, values: FloatArray) -> StateArray:
        by = self.lookup.by
        if isinstance(by, Edges):
            states = np.searchsorted(by.keys, values, side="right")
        else:
            assert isinstance(by, NumberKeys)
            states = np.minimum(np.searchsorted(by.keys, values), max(len(by.keys) - 1, 0))
            found = by.keys[states] == values if len(by.keys) else np.zeros(len(values), dtype=bool)
            states = np.where(found, states, self.lookup.unknown)
        return np.where(np.isnan(values), self.lookup.missing, states)

    def state_function(self) -> Callable[[Cell], int]:
        """The state of one cell."""
        missing, unknown, by = self.lookup.missing, self.lookup.unknown, self.lookup.by
        if isinstance(by, StringKeys):
            texts = {key: state for state, key in enumerate(by.keys)}
            return lambda cell: missing if cell is None else texts.get(cell, unknown)  # type: ignore[arg-type]
        transform = number_function(self.block.ops) or float
        edges = by.keys.tolist() if isinstance(by, Edges) else None
        numbers = {key: state for state, key in enumerate(by.keys.tolist())}

        def state_of(cell: Cell) -> int:
            x = transform(math.nan if cell is None else cell)  # type: ignore[arg-type]
            if x != x:  # NaN, three times faster than math.isnan
                return missing
            return numbers.get(x, unknown) if edges is None else bisect_right(edges, x)

        return state_of

    def _refuse(self, table: Table, row: int, state: int) -> None:
        value: Any = None
        if state != self.lookup.missing:
            if isinstance(self.lookup.by, StringKeys):
                column = table.strings[self.feature]
                value = column.values[column.codes[row]]
            else:
                value = float(table.numeric[self.feature][row])
        raise UnscorableValue(self.feature, row, refusal(value))


def refusal(value: Any) -> str:
    """Why an encoder refuses a value."""
    return MISSING if value is None else f"{value!r} is none of the values that the model was fitted on"


@dataclass(frozen=True)
class Encoded:
    """A table as a plan's model reads it: one array per `NumberColumn` and per `LookupColumns`."""

    n_rows: int
    numbers: list[FloatArray]
    states: list[StateArray]

    def part(self, start: int, stop: int) -> "Encoded":
        """Some of the rows."""
        cut = slice(start, stop)
        return Encoded(min(stop, self.n_rows) - start, [x[cut] for x in self.numbers], [s[cut] for s in self.states])


class Encoding:
    """How one plan reads a table or a row."""

    def __init__(self, plan: Plan, schema: Schema) -> None:
        names = schema.names
        self.width = plan.width
        self.numbers = [
            NumberColumn(names[block.input], block.input, block, block.at[0])
            for block in plan.blocks
            if block.lookup is None
        ]
        self.lookups = [
            LookupColumns(names[block.input], block.input, block, block.lookup)
            for block in plan.blocks
            if block.lookup is not None
        ]
        self._number_steps = [(column.place, number_function(column.block.ops)) for column in self.numbers]
        self._state_steps = [
            (column.place, column.state_function(), frozenset(column.lookup.refused), column) for column in self.lookups
        ]

    def table(self, table: Table) -> Encoded:
        """All rows of a table."""
        numbers = [column.column(table) for column in self.numbers]
        return Encoded(table.n_rows, numbers, [column.states(table) for column in self.lookups])

    def row(self, cells: Sequence[Any], number: int) -> tuple[list[float], list[int]]:
        """One row: its numbers and its states; *number* is for the error message."""
        numbers = []
        for place, transform in self._number_steps:
            cell = cells[place]
            x = math.nan if cell is None else cell
            numbers.append(x if transform is None else transform(x))
        states = []
        for place, state_of, refused, column in self._state_steps:
            state = state_of(cells[place])
            if state in refused:
                raise UnscorableValue(column.feature, number, refusal(cells[place]))
            states.append(state)
        return numbers, states

    def matrix(self, encoded: Encoded, dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
        """The matrix that the estimator itself would see, shape ``(n_rows, width)``."""
        out = np.zeros((encoded.n_rows, self.width), dtype=dtype, order="F")
        with np.errstate(over="ignore"):
            for column, values in zip(self.numbers, encoded.numbers, strict=True):
                out[:, column.at] = values
            for columns, states in zip(self.lookups, encoded.states, strict=True):
                _fill(out, columns, states)
        return out


def _fill(out: NDArray[Any], columns: LookupColumns, states: StateArray) -> None:
    lookup, at = columns.lookup, np.asarray(columns.block.at)
    if lookup.n_states * len(at) <= _MOST_DENSE_CELLS:
        out[:, at] = lookup.dense(len(at))[states]
        return
    counts = np.diff(lookup.indptr)[states]
    rows = np.repeat(np.arange(len(states)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    cells = np.repeat(lookup.indptr[states], counts) + within
    out[rows, at[lookup.indices[cells]]] = lookup.data[cells]

"""Explanations of a request that is read block by block, with the values of the features that they name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.errors import BodyTooLarge
from model_repository.explanations.explained import Explanations, ShapWarnings
from model_repository.explanations.explainer import Explainer
from model_repository.explanations.symbols import NO_SYMBOL
from model_repository.predictions import Algorithm, ExplanationOptions
from model_repository.tables import FloatArray, Table

MOST_EXPLANATIONS: Final = 1 << 22
"""Of one request: all are held until the answer is written, each in about 21 bytes."""


@dataclass(frozen=True)
class Explained:
    """
    All rows of a request.

    Shapes: *n* rows, *c* explained classes (1 unless multiclass), *k* explanations.
    """

    algorithm: Algorithm
    classes: NDArray[np.int32]
    """``(n, c)``: whose prediction a positive strength raises, as a place in ``target.class_labels`` (0 without)."""
    features: NDArray[np.int32]
    """``(n, c, k)``: place in the schema, -1 where there is no explanation: at the end, or everywhere in a row."""
    strengths: FloatArray
    """``(n, c, k)``, the strongest first; NaN where there is no explanation."""
    values: FloatArray
    """``(n, c, k)``: the feature's number (NaN for missing), or where its text stands in `texts` (-1 for missing)."""
    texts: dict[int, list[str]]
    """By feature that is no number, the texts that occur."""
    symbols: NDArray[np.int8] | None = None
    """``(n, c, k)``: places in `symbols.SYMBOLS`; not for SHAP."""
    base_value: float = 0.0
    """SHAP: what the strengths start from."""
    remaining: FloatArray | None = None
    """SHAP, ``(n,)``: what the features that were not chosen add up to."""
    standard_errors: FloatArray | None = None
    """SHAP by sampling, ``(n, c, k)``."""
    warnings: ShapWarnings | None = None
    """SHAP: set when something does not add up to its prediction."""


class Gathered:
    """Explains one block after another, and keeps what is wanted of them."""

    def __init__(self, explainer: Explainer, options: ExplanationOptions) -> None:
        """
        Raises:
            ExplanationsUnavailable: the model cannot be explained in this way.
        """
        explainer.require(options.algorithm)
        self._explainer = explainer
        self._options = options
        self._per_row = explainer.most_per_row(options)
        self._features = explainer.schema.features
        self._n_rows = 0
        self._blocks: list[Explanations] = []
        self._values: list[FloatArray] = []
        self._places: dict[int, dict[str, int]] = {
            place: {} for place, feature in enumerate(self._features) if not feature.is_numeric
        }

    def add(
        self,
        table: Table,
        predictions: FloatArray,
        proceed: Callable[[], None] = lambda: None,
        n_rows: int = 0,
    ) -> None:
        """
        Explain the next rows; the first arguments are those of `Explainer.explain`.

        Args:
            n_rows: of the whole request, where that is known: too many are then refused before any is explained.

        Raises:
            BodyTooLarge: all together are more than `MOST_EXPLANATIONS`.
        """
        self._n_rows += table.n_rows
        if max(self._n_rows, n_rows) * self._per_row > MOST_EXPLANATIONS:
            most = max(1, MOST_EXPLANATIONS // self._per_row)
            raise BodyTooLarge(
                f"at most {most} rows are answered at once with up to {self._per_row} explanations each: send fewer "
                "rows, or ask for fewer explanations"
            )
        found = self._explainer.explain(table, predictions, self._options, proceed)
        self._blocks.append(found)
        self._values.append(self._values_of(table, found.features))

    def whole(self) -> Explained:
        """The explanations of all rows; there is at least one block."""
        first = self._blocks[0]

        def joined(name: str, fill: float) -> Any:
            parts = [getattr(block, name) for block in self._blocks]
            return None if any(part is None for part in parts) else _stacked(parts, fill)

        remaining = [block.remaining for block in self._blocks if block.remaining is not None]
        return Explained(
            algorithm=first.algorithm,
            classes=np.concatenate([block.classes for block in self._blocks]).astype(np.int32),
            features=joined("features", -1),
            strengths=joined("strengths", np.nan),
            values=_stacked(self._values, np.nan),
            texts={place: list(texts) for place, texts in self._places.items()},
            symbols=joined("symbols", NO_SYMBOL) if first.algorithm == "xemp" else None,
            base_value=first.base_value,
            remaining=np.concatenate(remaining) if remaining else None,
            standard_errors=joined("standard_errors", np.nan),
            warnings=ShapWarnings.together([block.warnings for block in self._blocks if block.warnings is not None]),
        )

    def _values_of(self, table: Table, features: NDArray[np.int32]) -> FloatArray:
        """The cells of *table* that *features*, shape ``(n, c, k)``, name."""
        out = np.full(features.size, np.nan)
        per_row = features.shape[1] * features.shape[2]
        for place, at in by_feature(features):
            feature = self._features[place]
            rows = at // per_row
            if feature.is_numeric:
                out[at] = table.numeric[feature.name][rows]
            else:
                column = table.strings[feature.name]
                out[at] = self._codes(place, column.codes[rows], column.values)
        return out.reshape(features.shape)

    def _codes(self, place: int, codes: NDArray[np.int32], values: list[str]) -> NDArray[Any]:
        """A block's codes of a feature as those of all blocks."""
        places = self._places[place]
        used, where = np.unique(codes, return_inverse=True)
        known = [-1 if code < 0 else places.setdefault(values[code], len(places)) for code in used.tolist()]
        return np.array(known)[where]


def by_feature(features: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each feature that is named, and where it stands in the flattened *features*."""
    flat = features.ravel()
    order = np.argsort(flat, kind="stable")
    named = order[np.searchsorted(flat, 0, sorter=order) :]
    for at in np.split(named, np.flatnonzero(np.diff(flat[named])) + 1):
        if len(at):
            yield int(flat[at[0]]), at


def _stacked(parts: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """One below the other, each filled up at its end to the width of the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.shape[2] for part in parts)
    out = np.full((sum(map(len, parts)), parts[0].shape[1], width), fill, dtype=parts[0].dtype)
    start = 0
    for part in parts:
        out[start : start + len(part), :, : part.shape[2]] = part
        start += len(part)
    return out

"""The door to explanations: rows and their predictions in, the features that made them so out."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.errors import ExplanationsUnavailable
from model_repository.explanations.explained import (
    MOST_XEMP,
    Explanations,
    ShapWarnings,
    explained_classes,
    explained_rows,
    n_explained_classes,
    strongest,
)
from model_repository.explanations.leaves import NotAdditive
from model_repository.explanations.linear import LinearMethod
from model_repository.explanations.margins import margin_weights
from model_repository.explanations.methods import Method
from model_repository.explanations.reference import ReferenceData
from model_repository.explanations.sampling import SamplingMethod
from model_repository.explanations.symbols import MOST_WEIGHED, NO_SYMBOL, symbol_codes
from model_repository.explanations.trees import TreeMethod
from model_repository.plan import Linear, Trees
from model_repository.predictions import Algorithm, ExplanationOptions, Runtime, Target
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.tables import FloatArray, Rows, Schema, Table

MOST_XEMP_FEATURES: Final = 50
_CELLS_AT_ONCE: Final = 1 << 20
"""Rows times features whose strengths are held at once: 8 MiB."""
NO_REFERENCE: Final = (
    "the model's package has no reference rows, which these explanations need: package it again with "
    "'prediction-api package {command}' and without --no-reference"
)
SHAP_DOES_WITHOUT: Final = "; explanationAlgorithm=shap does without"
NO_MULTICLASS_SHAP: Final = "SHAP explanations are not available for multiclass models; explanationAlgorithm=xemp is"
NO_SERIES_SHAP: Final = (
    "SHAP explanations are not available for time series models; explanationAlgorithm=xemp is, with maxExplanations "
    f"from 1 to {MOST_XEMP}"
)


class Explainer:
    """
    Explains the predictions of one loaded model.

    Made in no time; the first request that needs it reads the model's structure (at most about a second for a large
    forest) and later ones find it. May be used by several threads.
    """

    def __init__(
        self,
        runtime: Runtime,
        schema: Schema,
        target: Target,
        reference: ReferenceData | None,
        *,
        time_series: bool = False,
    ) -> None:
        """
        Args:
            schema: of what the runtime takes: of a time series the features that are derived.
        """
        self._runtime = runtime
        self.schema = schema
        self.target = target
        self._reference = reference
        self._time_series = time_series
        self._reading = threading.Lock()

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """What this model supports."""
        every: tuple[Algorithm, ...] = ("xemp", "shap")
        return tuple(algorithm for algorithm in every if self.problem(algorithm) is None)

    @property
    def is_exact(self) -> bool:
        """Whether SHAP values are exact; else they are estimates with a standard error."""
        return self._method is not None and self._method.is_exact

    @property
    def base_value(self) -> float:
        """
        The SHAP base value: the margin that strengths start from.

        Raises:
            ExplanationsUnavailable: the model does not support SHAP.
        """
        self.require("shap")
        assert self._method is not None
        return self._method.base_value

    @property
    def impact(self) -> FloatArray | None:
        """Per feature of the schema: how much it matters, the largest 1; ``None`` without reference rows."""
        return None if self._reference is None else np.array(self._reference.impact)

    def problem(self, algorithm: Algorithm) -> str | None:
        """Why this model does not support it; ``None`` if it does."""
        if algorithm == "shap" and self.target.type == "Multiclass":
            return NO_MULTICLASS_SHAP
        if algorithm == "shap" and self._time_series:
            return NO_SERIES_SHAP
        if self._reference is not None:
            return None
        again = NO_REFERENCE.format(command="create-time-series" if self._time_series else "create")
        if self._time_series or self.target.type == "Multiclass" or self._method is None:
            return again
        return again + SHAP_DOES_WITHOUT if algorithm == "xemp" else None

    def require(self, algorithm: Algorithm) -> None:
        """
        Raises:
            ExplanationsUnavailable: the model does not support it; the message says what to do.
        """
        if problem := self.problem(algorithm):
            raise ExplanationsUnavailable(problem)

    def most_per_row(self, options: ExplanationOptions) -> int:
        """How many explanations a row may get."""
        n_features = len(self.schema.features)
        count = n_features if options.count is None else min(options.count, n_features)
        return count * n_explained_classes(self.target, options)

    def explain(
        self,
        inputs: Rows | Table,
        predictions: FloatArray,
        options: ExplanationOptions,
        proceed: Callable[[], None] = lambda: None,
    ) -> Explanations:
        """
        Why rows got their predictions.

        Args:
            inputs: rows that the runtime has scored.
            predictions: what it said of them, unrounded, shape ``(n_rows, n_outputs)``.
            proceed: called again and again; what it raises ends the work.

        Raises:
            ExplanationsUnavailable: the model does not support the algorithm; the message says what to do.
        """
        self.require(options.algorithm)
        table = inputs if isinstance(inputs, Table) else Table.from_rows(inputs, self.schema)
        classes = explained_classes(predictions, self.target, options)
        rows = np.flatnonzero(explained_rows(predictions, self.target, options))
        if not len(rows):
            nothing = np.empty((*classes.shape, 0))
            return Explanations(options.algorithm, classes, nothing.astype(np.int32), nothing, nothing.astype(np.int8))
        if len(rows) < table.n_rows:
            table = table.taken(rows)
        explain = self._shap if options.algorithm == "shap" else self._xemp
        step = self._rows_at_once(options)
        parts = []
        for at in range(0, table.n_rows, step):
            proceed()
            part = table if step >= table.n_rows else table.taken(np.arange(at, min(at + step, table.n_rows)))
            parts.append(explain(part, classes[rows[at : at + step]], options.count))
        return _spread(_joined(parts), rows, classes)

    def _shap(self, table: Table, classes: NDArray[np.intp], count: int | None) -> Explanations:
        assert self._method is not None
        shap = self._method.shap(table)
        chosen = strongest(shap.strengths, count)
        strengths = np.take_along_axis(shap.strengths, chosen, axis=1)
        left_out = shap.strengths.copy()
        np.put_along_axis(left_out, chosen, 0.0, axis=1)
        base = self._method.base_value
        errors = shap.standard_errors
        return Explanations(
            "shap", classes, chosen[:, None].astype(np.int32), strengths[:, None],
            base_value=base,
            remaining=left_out.sum(axis=1),
            standard_errors=None if errors is None else np.take_along_axis(errors, chosen, axis=1)[:, None],
            warnings=_mismatch(base + shap.strengths.sum(axis=1), shap.margins, shap.tolerance),
        )  # fmt: skip

    def _xemp(self, table: Table, classes: NDArray[np.intp], count: int | None) -> Explanations:
        assert self._method is not None
        outputs = np.unique(classes).tolist()
        every = self._method.exemplar_strengths(table, outputs)
        of_class = np.searchsorted(outputs, classes)
        eligible = self._eligible
        strengths = np.take_along_axis(every, of_class[:, :, None], axis=1)[:, :, eligible]
        order = strongest(strengths, MOST_WEIGHED if count is None else max(count, MOST_WEIGHED))
        ordered = np.take_along_axis(strengths, order, axis=2)
        ordered = np.where(ordered == 0, np.nan, ordered)  # what changes nothing explains nothing
        symbols = symbol_codes(ordered, len(self.schema.features))
        features = np.where(np.isnan(ordered), -1, np.array(eligible, dtype=np.int32)[order])
        cut = np.s_[..., :count]
        # copies: a view would hold on to all that it is a part of
        return Explanations("xemp", classes, features[cut].copy(), ordered[cut].copy(), symbols[cut].copy())

    def _rows_at_once(self, options: ExplanationOptions) -> int:
        """So many that memory stays bounded, and that somebody who waits for the end need not wait long."""
        assert self._method is not None
        cells = len(self.schema.features)
        if options.algorithm == "xemp":
            cells *= self.target.n_outputs
        return max(1, min(_CELLS_AT_ONCE // cells, self._method.rows_at_once(options.algorithm)))

    @cached_property
    def _eligible(self) -> list[int]:
        """Features that the exemplar method may name, in the order of the schema."""
        return sorted(self._reference.ranked(MOST_XEMP_FEATURES)) if self._reference is not None else []

    @cached_property
    def _weights(self) -> FloatArray | None:
        return margin_weights(self._runtime.plan) if isinstance(self._runtime, CompiledRuntime) else None

    def _margins(self, table: Table) -> FloatArray:
        """What the model says on the scale that its strengths are on, shape ``(n_rows, n_outputs)``."""
        if isinstance(self._runtime, CompiledRuntime) and self._weights is not None:
            return self._runtime.raw(self._runtime.encoding.table(table)) @ self._weights.T
        return self._runtime.predict(table)

    @property
    def _method(self) -> Method | None:
        """How to explain; ``None`` where only reference rows would make it possible."""
        with self._reading:  # threads that come at once must not each hold a forest
            return self._method_read

    @cached_property
    def _method_read(self) -> Method | None:
        n_features = len(self.schema.features)
        reference = exemplars = None
        if self._reference is not None:
            reference = self._reference.table(self.schema)
            exemplars = reference.taken(np.array(self._reference.exemplars, dtype=np.intp))
        if isinstance(self._runtime, CompiledRuntime) and self._weights is not None:
            model = self._runtime.plan.model
            if isinstance(model, Trees):
                try:
                    return TreeMethod(model, self._weights, self._runtime, n_features, exemplars)
                except NotAdditive:
                    pass
            elif isinstance(model, Linear) and reference is not None and exemplars is not None:
                return LinearMethod(model, self._weights, self._runtime, n_features, reference, exemplars)
        if exemplars is None:
            return None
        return SamplingMethod(self._margins, self.schema, exemplars, self._eligible)


def _mismatch(sums: FloatArray, margins: FloatArray, tolerance: float) -> ShapWarnings | None:
    """Compare with what the model itself says."""
    off = np.abs(sums - margins) / np.maximum(1.0, np.abs(margins))
    wrong = ~(off <= tolerance)  # NaN too
    return ShapWarnings(int(wrong.sum()), float(off[wrong].max())) if wrong.any() else None


def _joined(parts: list[Explanations]) -> Explanations:
    """Explanations of portions of the rows as those of all."""
    if len(parts) == 1:
        return parts[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("classes", "features", "strengths", "symbols", "remaining", "standard_errors")
        if getattr(parts[0], name) is not None
    }
    warnings = [part.warnings for part in parts if part.warnings is not None]
    return replace(parts[0], **arrays, warnings=ShapWarnings.together(warnings))


def _spread(found: Explanations, rows: NDArray[np.intp], classes: NDArray[np.intp]) -> Explanations:
    """Put explained rows where they stand among all; the others have none."""
    if len(rows) == len(classes):
        return found
    shape = (len(classes), *found.features.shape[1:])
    features, strengths = np.full(shape, -1, dtype=np.int32), np.full(shape, np.nan)
    symbols = np.full(shape, NO_SYMBOL, dtype=np.int8)
    features[rows], strengths[rows] = found.features, found.strengths
    if found.symbols is not None:
        symbols[rows] = found.symbols
    return Explanations(found.algorithm, classes, features, strengths, symbols)

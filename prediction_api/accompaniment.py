"""What a request wants beside its predictions: explanations, and predictions adjusted by an exposure."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from model_repository.explanations import Explained, Gathered
from model_repository.exposure import adjusted_predictions
from model_repository.predictions import ScoringOptions
from model_repository.repository import Model
from model_repository.tables import FloatArray, Rows, Table
from prediction_api.adjusted_columns import CsvAdjusted, JsonAdjusted
from prediction_api.explanation_columns import CsvExplanations, ExplanationTexts, JsonExplanations
from prediction_api.negotiation import Answer
from prediction_api.pieces import Beside

logger: Final = logging.getLogger(__name__)


class Accompaniment:
    """Gathered block by block, then written."""

    def __init__(self, model: Model, options: ScoringOptions) -> None:
        """
        Raises:
            ExplanationsUnavailable: the model cannot be explained in the way that is asked for.
        """
        self._manifest = model.manifest
        self._options = options
        self._exposure = model.manifest.exposure if options.adjusted else None
        self._exposures: list[FloatArray] = []
        self._gathered = Gathered(model.explainer, options.explain) if options.explain is not None else None

    def add(self, block: Rows | Table, values: FloatArray, proceed: Callable[[], None], n_rows: int = 0) -> None:
        """
        Take the next rows, with their predictions.

        Args:
            proceed: called again and again; what it raises ends the work.
            n_rows: of all blocks, where that is known.

        Raises:
            BodyTooLarge: more explanations than fit into memory.
        """
        if self._gathered is None and self._exposure is None:
            return
        table = block if isinstance(block, Table) else Table.from_rows(block, self._manifest.schema)
        if self._exposure in table.numeric:
            self._exposures.append(table.numeric[self._exposure])
        if self._gathered is not None:
            self._gathered.add(table, values, proceed, n_rows)

    def beside(
        self, answer: Answer, texts: ExplanationTexts, values: FloatArray, kept: Mapping[str, Sequence[Any]]
    ) -> list[Beside]:
        """
        All of it, as it stands in the answer.

        Args:
            values: the predictions of all rows.
            kept: columns of all rows, the exposure among them if it is needed and no feature.

        Raises:
            MissingColumns: the exposure is not there.
            UnscorableValue: an exposure is no number.
        """
        found: list[Beside] = []
        if self._exposure is not None:
            numeric = {self._exposure: np.concatenate(self._exposures)} if self._exposures else {}
            rows = Table(len(values), numeric, {}, dict(kept))
            adjusted = adjusted_predictions(values, rows, self._manifest.schema, self._exposure)
            columns = JsonAdjusted if answer == "json" else CsvAdjusted
            found.append(columns(self._manifest.target, adjusted, self._options.decimals))
        if self._gathered is not None:
            found.append(self._explanations(answer, texts, self._gathered.whole()))
        return found

    def _explanations(self, answer: Answer, texts: ExplanationTexts, explained: Explained) -> Beside:
        options = self._options
        assert options.explain is not None
        if off := explained.warnings:
            logger.warning(
                "%s: SHAP values do not add up to the prediction in %d of %d rows: off by up to %.3g",
                self._manifest.name,
                off.mismatch_row_count,
                len(explained.features),
                off.max_normalized_mismatch,
            )
        if answer == "json":
            return JsonExplanations(texts, explained, options.decimals)
        return CsvExplanations(texts, explained, options.explain, options.decimals)
